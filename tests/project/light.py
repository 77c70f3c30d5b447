"""The packages of Binder alone: what nothing on its list brings cannot be imported."""

import re
import sys
from importlib import metadata
from importlib.abc import MetaPathFinder
from pathlib import Path

import yaml
from packaging.requirements import Requirement


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def brought(names):
    """Return the distributions that pip would install for some names, themselves included."""
    found, waiting = set(), list(names)
    while waiting:
        if (name := plain(waiting.pop())) not in found:
            found.add(name)
            needed = [Requirement(text) for text in metadata.requires(name) or []]
            waiting += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


class Refuse(MetaPathFinder):
    def __init__(self, allowed):
        brings = metadata.packages_distributions().items()
        self.modules = {m for m, names in brings if not allowed & set(map(plain, names))}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r}: it is not on the list", name=name)


def refuse():
    file = Path(__file__).parents[2] / "binder" / "environment.yml"
    listed = yaml.safe_load(file.read_text("utf-8"))["dependencies"]
    (names,) = [part["pip"] for part in listed if isinstance(part, dict)]
    allowed = brought(Requirement(line).name for line in names) | {"transfer-book"}
    sys.meta_path.insert(0, Refuse(allowed))
    there = metadata.version

    def version(name):
        if plain(name) not in allowed:
            raise metadata.PackageNotFoundError(name)
        return there(name)

    metadata.version = version
    assert not {"torch", "transformers", "datasets"} & set(sys.modules)
