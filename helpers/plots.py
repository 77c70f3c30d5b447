"""Looks of figures, which chapters draw with seaborn; ``helpers.book.begin`` sets the style.

Tasks and languages have one name, order and colour in the whole book: those of ``data/display.csv`` and
``data/languages.csv``. Colour never stands alone: groups differ by marker, too.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.book import COLOURS, Page

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
    known = display().drop_duplicates("name").set_index("name")[["colour", "marker"]]
    there = list(dict.fromkeys(table[group]))
    order = [*(n for n in known.index if n in there), *(n for n in there if n not in known.index)]
    own = {"colour": np.resize(COLOURS, len(order)), "marker": np.resize(MARKERS, len(order))}
    looks = known.replace("", np.nan).reindex(order).fillna(pd.DataFrame(own, order)).to_dict()
    groups = {"hue": group, "style": group, "hue_order": order, "style_order": order}
    return groups | {"palette": looks["colour"], "markers": looks["marker"]}


def explorer(scores: pd.DataFrame, dyads: pd.DataFrame) -> Page:
    """Return a table of gains in which a reader picks a pair of tasks; script and data are inside.

    Args:
        scores: usable scores of targets, from 0 to 1 (`helpers.stats.gains.usable`).
        dyads: their gains in points (`helpers.stats.gains.dyads`).

    Returns:
        What a page, JupyterLab and Colab show: the gains, and of one pair the score in every language
        with and without the intermediate, one dot per seed.
    """
    rows = scores[scores["status"] == "done"].sort_values("seed")
    rows = rows.assign(value=(100 * rows["value"].astype(float)).round(2))

    def nested(part: pd.DataFrame) -> dict[str, list[float]]:
        return {str(key): list(values) for key, values in part.groupby("language")["value"]}

    arms, base = rows[rows["condition"] != "none"], rows[rows["condition"] == "none"]
    runs = dict(list(arms.groupby(["intermediate", "target"])))
    told = dyads[["intermediate", "target", "gain", "identity_pair"]].itertuples(index=False)
    pairs = {
        f"{i} {t}": {"gain": round(gain, 3), "identity": same, "scores": nested(runs[i, t])}
        for i, t, gain, same in told
    }
    known = list(display().index)
    sides = [sorted(set(dyads[side]), key=known.index) for side in ("intermediate", "target")]
    tasks = dyads.set_index("intermediate")["intermediate_format"].to_dict()
    tasks |= dyads.set_index("target")["target_format"].to_dict()
    names = {key: named(key) for key in [*tasks, *rows["language"].unique()]}
    plain = {target: nested(part) for target, part in base.groupby("target")}
    data = {"names": names, "formats": tasks, "first": sides[0], "then": sides[1]}
    text = json.dumps(data | {"pairs": pairs, "plain": plain}).replace("<", "\\u003c")
    template = Path(__file__).with_name("explorer.html").read_text("utf-8")
    return Page(template.replace("DATA", text, 1))
