"""Looks of figures, which chapters draw with seaborn; ``helpers.book.begin`` sets the style.

Tasks and languages have one name, order and colour in the whole book: those of ``data/display.csv`` and
``data/languages.csv``. Colour never stands alone: groups differ by marker, too.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.book import COLOURS

DATA = Path(__file__).resolve().parent.parent / "data"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "0.6"


@lru_cache(maxsize=1)
def display() -> pd.DataFrame:
    """Return name, colour and marker of tasks, formats and languages, in the order of figures."""
    own = pd.read_csv(DATA / "display.csv", index_col="key", keep_default_na=False)
    spoken = pd.read_csv(DATA / "languages.csv", index_col="language", keep_default_na=False)
    spoken = pd.DataFrame({"name": spoken["name"] + " (" + spoken.index + ")"})
    return pd.concat([own, spoken[~spoken.index.isin(own.index)]]).fillna("")


def named(key: Any) -> str:
    """Return what readers call a task or language: ``"Italian (it)"``; other texts stay."""
    return str(display()["name"].get(key, key))


def style(table: pd.DataFrame, group: str) -> dict[str, Any]:
    """Return what tells groups apart in a seaborn plot: ``sns.lineplot(table, ..., **style(table, "x"))``.

    Looks are those of ``data/display.csv`` where it knows the groups, one after another elsewhere.
    """
    # Readers' names, not keys: several keys may be one data set.
    known = display().drop_duplicates("name").set_index("name")
    there = list(dict.fromkeys(table[group]))
    order = [*(n for n in known.index if n in there), *(n for n in there if n not in known.index)]
    fixed = known.reindex(order)[["colour", "marker"]].fillna("").to_numpy()
    looks = [
        (colour or COLOURS[k % len(COLOURS)], marker or MARKERS[k % len(MARKERS)])
        for k, (colour, marker) in enumerate(fixed)
    ]
    palette, markers = (dict(zip(order, side, strict=True)) for side in zip(*looks, strict=True))
    groups = {"hue": group, "style": group, "hue_order": order, "style_order": order}
    return groups | {"palette": palette, "markers": markers}
