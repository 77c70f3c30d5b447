"""Standardise whole sets: small ones in memory, large ones once into memory-mapped files."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from helpers.data import standard
from helpers.data.sources import quiet
from helpers.data.standard import FIELDS, Standard
from helpers.tasks import Row


def listed(
    makers: Sequence[Standard], raws: Sequence[Any], dropped: Counter[str], notes: Counter[str]
) -> list[Row]:
    """Standardise in memory.

    Args:
        makers: one per source.
        raws: raw rows of each source.
        dropped: counts reasons of rows left out.
        notes: counts what was mended or met.
    """
    kept: list[Row] = []
    for maker, raw in zip(makers, raws, strict=True):
        for number, row in enumerate(raw):
            outcome = maker(row, number)
            kept += outcome.rows
            dropped.update(outcome.dropped)
            notes.update(outcome.notes)
    _resolve_answers(kept)
    fields = FIELDS[makers[0].task.format]
    return [{name: row[name] for name in fields} for row in kept]


def _resolve_answers(kept: Sequence[Row]) -> None:
    """Where candidates name the questions they answer, give each query its right candidates."""
    right: dict[str, list[str]] = {}
    for row in kept:
        for question in row.get("_answers", ()):
            right.setdefault(question, []).append(row["id"])
    if right:
        for row in kept:
            if row["side"] == "query":
                row["gold"] = [name for key in row["gold"] for name in right.get(key, [key])]


_TEXT = datasets.Value("string")
_FEATURES: dict[str, dict[str, Any]] = {
    "pair": {"id": _TEXT, "first": _TEXT, "second": _TEXT, "label": datasets.Value("int64")},
    "choice": {
        "id": _TEXT,
        "context": _TEXT,
        "choices": datasets.List(_TEXT),
        "label": datasets.Value("int64"),
    },
    "tagging": {
        "id": _TEXT,
        "tokens": datasets.List(_TEXT),
        "tags": datasets.List(datasets.Value("int32")),
    },
    "span": {
        "id": _TEXT,
        "context": _TEXT,
        "question": _TEXT,
        "answers": {"text": datasets.List(_TEXT), "start": datasets.List(datasets.Value("int32"))},
    },
    "retrieval": {"id": _TEXT, "side": _TEXT, "text": _TEXT, "gold": datasets.List(_TEXT)},
}
_EXTRA = {"_dropped": _TEXT, "_notes": datasets.List(_TEXT)}


def mapped(
    makers: Sequence[Standard], raws: Sequence[Any], dropped: Counter[str], notes: Counter[str]
) -> datasets.Dataset:
    """Standardise into memory-mapped files, once per content of the source and of the task.

    Arguments as for :func:`listed`.
    """
    parts = []
    for maker, raw in zip(makers, raws, strict=True):
        part = _map_one(maker, raw)
        reasons = part.select_columns("_dropped").with_format("arrow")[:]["_dropped"]
        dropped.update({r: n for r, n in _counted(reasons).items() if r})
        notes.update(_counted(compute.list_flatten(_arrow(part, "_notes"))))
        keep = np.flatnonzero(compute.equal(reasons, "").to_numpy())
        part = part if len(keep) == len(part) else part.select(keep)
        parts.append(part.remove_columns(list(_EXTRA)))
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _arrow(part: datasets.Dataset, name: str) -> pa.ChunkedArray:
    return part.select_columns(name).with_format("arrow")[:][name]


def _counted(values: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in compute.value_counts(values).to_pylist()}


def _map_one(maker: Standard, raw: Any) -> datasets.Dataset:
    fields = FIELDS[maker.task.format]
    features = datasets.Features(_FEATURES[maker.task.format] | _EXTRA)
    blank = {name: _blank(feature) for name, feature in features.items()}

    def batch(columns: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        made: list[Row] = []
        for number, *values in zip(numbers, *columns.values(), strict=True):
            outcome = maker(dict(zip(columns, values, strict=True)), number)
            rows = [{name: row[name] for name in fields} for row in outcome.rows]
            made += [blank | row for row in rows]
            made += [blank | {"_dropped": reason} for reason in outcome.dropped]
            if outcome.notes and made:
                made[-1] = made[-1] | {"_notes": outcome.notes}
        return {name: [row[name] for row in made] for name in features}

    if not isinstance(raw, datasets.Dataset):
        raw = datasets.Dataset.from_list(list(raw))
    with quiet():
        return raw.map(
            batch,
            batched=True,
            with_indices=True,
            remove_columns=raw.column_names,
            features=features,
            new_fingerprint=_map_key(maker, raw),
        )


def _blank(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: [] for name in feature}
    if isinstance(feature, datasets.List):
        return []
    return "" if feature.dtype == "string" else 0


def _map_key(maker: Standard, raw: datasets.Dataset) -> str:
    """Hash what the standard rows depend on: the source's content, the task's facts, the code."""
    code = [inspect.getsource(standard)]
    adapt = maker.task.adapt
    if adapt is not None:
        module = sys.modules.get(adapt.__module__)
        own = module is not None and adapt.__module__.startswith("helpers.")
        code.append(inspect.getsource(module) if own and module else "")
        code.append(datasets.fingerprint.Hasher.hash(adapt))
    facts = (maker.task.format, dict(maker.task.columns), maker.labels, maker.task.metric)
    names = {name: list(value) for name, value in maker.class_names.items()}
    where = (maker.language, maker.split, maker.side, maker.prefix, names)
    return hashlib.sha256(
        repr((raw._fingerprint, raw.cache_files, facts, where, code)).encode()
    ).hexdigest()[:32]
