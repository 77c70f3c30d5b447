"""What a chapter needs around its results: settings, numbers for its prose, figures, downloads, origin.

Works in four places: a Jupyter Book build, JupyterLab, Colab (no ``myst_nb`` there) and Binder (no
torch there). Nothing here computes a result.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import math
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from helpers import provenance as origin
from helpers.errors import HelpfulError, unknown

REPOSITORY = "https://github.com/transfer-book/transfer-book"  # as in _config.yml
PARAMETERS = "TRANSFER_PARAMETERS"  # "seeds=2 languages=de,fr", set by `make chapter`
BUILDING = "TRANSFER_BOOK_BUILD"  # set while the whole book is built
MINUS = "\u2212"
WORD_JOINER = "\u2060"
# Colours that stay apart for readers who do not see red and green apart (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def building() -> bool:
    """Return whether the whole book is being built: then progress stays quiet."""
    return bool(os.environ.get(BUILDING))


@dataclass(frozen=True)
class Parameters:
    """The settings of a chapter; read them as attributes."""

    values: dict[str, Any]
    changed: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        """Return a setting."""
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"no parameter {name!r}; there are {', '.join(values)}")
        return values[name]

    def __repr__(self) -> str:
        """List the settings, marking those that were changed from outside."""
        return "\n".join(
            f"{name} = {value!r}" + ("  (changed)" if name in self.changed else "")
            for name, value in self.values.items()
        )


def parameters(**defaults: Any) -> Parameters:
    """Declare a chapter's settings; ``make chapter NAME=... PARAMS="seeds=2"`` overrides them.

    Args:
        **defaults: name and value of each setting. A value from outside is read as the type of the
            default: a number, a truth value, a text, or a tuple of texts separated by commas. A
            default of ``None`` takes any text.

    Returns:
        The settings, as attributes.

    Raises:
        UnknownName: a setting from outside that this chapter does not have (while the whole book is
            built, settings are meant for the chapters that have them).
        HelpfulError: a value that cannot be read as its setting's type.
    """
    given = split_parameters(os.environ.get(PARAMETERS, ""))
    values = dict(defaults)
    for name, text in given.items():
        if name in defaults:
            values[name] = _read(name, text, defaults[name])
        elif not building():
            raise unknown("parameter", name, defaults)
    return Parameters(values, tuple(name for name in given if name in defaults))


def split_parameters(text: str) -> dict[str, str]:
    """Split ``"seeds=2 languages=de,fr"`` into names and texts.

    Raises:
        HelpfulError: a part without ``=``.
    """
    pairs = [part.partition("=") for part in shlex.split(text)]
    for name, mark, _ in pairs:
        if not (name and mark):
            raise HelpfulError(
                f'parameters are written as "seeds=2 languages=de,fr", not {text!r}.'
            )
    return {name: value for name, _, value in pairs}


def _read(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        if isinstance(default, (int, float)):
            return type(default)(text)
        if isinstance(default, (tuple, list)):
            return tuple(part for part in text.split(",") if part)
        return text
    except (KeyError, ValueError):
        raise HelpfulError(
            f"parameter {name}={text!r} cannot be read as {type(default).__name__} "
            f"(its default is {default!r})."
        ) from None


def begin() -> None:
    """Set the figure style: crisp, opaque on dark pages, the same on every machine."""
    import matplotlib
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", palette=list(COLOURS))
    matplotlib.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.figsize": (7.0, 3.8),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.titlelocation": "left",
            "svg.hashsalt": "transfer-book",
            "svg.fonttype": "path",
        }
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # outside a notebook
        return
    set_matplotlib_formats("svg", metadata={"Date": None})


def number(
    value: float, digits: int = 1, *, scale: float = 1.0, unit: str = "", sign: bool = False
) -> str:
    """Write a number as prose shows it.

    Args:
        value: the number.
        digits: digits after the point.
        scale: factor before writing, such as 100 for percentage points.
        unit: what follows, such as ``" points"`` or ``"%"``.
        sign: write a plus sign, too.

    Returns:
        For example ``"+1,234.5 points"``, with a real minus sign; ``"not available"`` for a missing
        value, so that prose never shows a wrong one.
    """
    if value is None or not math.isfinite(value):
        return "not available"
    text = f"{value * scale:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS) + unit


def interval(
    low: float, high: float, digits: int = 1, *, scale: float = 1.0, unit: str = ""
) -> str:
    """Write an interval, such as ``"−0.3 to 1.2 points"``."""
    ends = [number(end, digits, scale=scale) for end in (low, high)]
    if "not available" in ends:
        return "not available"
    return " to ".join(ends) + unit


class _Said(str):
    """A text whose plain form has no quotation marks and survives the role ``{glue:text}``.

    The role evaluates a plain form that is a Python literal, which would turn ``1,500`` into
    ``(1, 500)``, ``+2.0`` into ``2.0`` and ``0.50`` into ``0.5``. An invisible word joiner at the
    end keeps it from doing so.
    """

    def __repr__(self) -> str:
        text = str(self)
        try:
            changed = str(ast.literal_eval(text)) != text
        except (SyntaxError, ValueError):
            changed = False
        return text + WORD_JOINER if changed else text


def glue(name: str, value: Any, digits: int = 1, **style: Any) -> None:
    """Give a number to the prose, which shows it with the role ``{glue:text}`` and this name.

    Args:
        name: the name; one name has one value in a chapter.
        value: a number (written by ``number``), a text, or anything that can be displayed.
        digits: digits after the point, 0 for whole numbers.
        **style: further arguments of ``number``.
    """
    if isinstance(value, str):
        value = _Said(value)
    elif isinstance(value, (int, float)) or hasattr(value, "__float__"):
        whole = hasattr(value, "__index__")
        value = _Said(number(float(value), 0 if whole else digits, **style))
    if isinstance(value, str) and not building():  # a notebook's prose cannot take it: show it here
        print(f"{name}: {value}")
    _paste(name, value)


def _paste(name: str, value: Any) -> None:
    try:
        from myst_nb import glue as paste
    except ImportError:  # Colab
        return
    paste(name, value, display=False)


def glue_interval(name: str, low: float, high: float, digits: int = 1, **style: Any) -> None:
    """Give an interval to the prose (see ``glue`` and ``interval``)."""
    glue(name, interval(low, high, digits, **style))


@dataclass(frozen=True)
class Page:
    """A piece of HTML that a notebook shows."""

    source: str

    def _repr_html_(self) -> str:
        return self.source

    def __repr__(self) -> str:
        """Return what a terminal shows instead."""
        return "(shown as HTML)"


def paragraph(text: str) -> Page:
    """Return a paragraph for ``glue`` that another page can show with ``{glue:any}`` and ``:doc:``."""
    return Page(f"<p>{html.escape(text)}</p>")


def download(frame: pd.DataFrame, file: str, index: bool = False) -> Page:
    """Return a link that saves a table as CSV; the data is inside the page, no server is needed.

    Args:
        frame: the table.
        file: name of the saved file.
        index: whether the index is a column of it.
    """
    content = frame.to_csv(index=index, lineterminator="\n").encode()
    data = base64.b64encode(content).decode()
    label = f"{file} ({len(frame):,} rows, {max(1, len(content) // 1000):,} kB)"
    return Page(
        f'<p class="download">Data: <a download="{html.escape(file)}" '
        f'href="data:text/csv;charset=utf-8;base64,{data}">{html.escape(label)}</a></p>'
    )


def table(
    frame: pd.DataFrame, file: str = "", digits: int = 2, index: bool = False, rows: int = 40
) -> Page:
    """Return a table as a page shows it, with a link to all of its data.

    Args:
        frame: the table; missing values are shown as a dash. One without rows is shown as the
            sentence in its ``attrs["note"]``.
        file: name under which it can be saved; empty: no link.
        digits: digits after the point of its numbers.
        index: whether to show and save the index.
        rows: rows shown at most; the download always has all.
    """
    if frame.empty and "note" in frame.attrs:
        return Page(f"<p>{html.escape(frame.attrs['note'])}</p>")
    shown = frame.head(rows)
    written = shown.to_html(
        index=index,
        border=0,
        classes="results",
        na_rep="–",
        float_format=lambda value: number(value, digits),
    )
    if len(frame) > rows:
        written += f"<p>The first {rows:,} of {len(frame):,} rows.</p>"
    link = download(frame, file, index).source if file else ""
    return Page(f'<div class="results">{written}</div>{link}')


def folded(parts: Mapping[str, Page]) -> Page:
    """Return pages that a reader unfolds one at a time; this needs no script and no server.

    Args:
        parts: what stands on the line to click, and what it unfolds.
    """
    return Page(
        "".join(
            f'<details class="folded"><summary>{html.escape(name)}</summary>{part.source}</details>'
            for name, part in parts.items()
        )
    )


def provenance(
    scores: pd.DataFrame | None = None,
    *,
    similarities: pd.DataFrame | None = None,
    hardware: str = "",
) -> Page:
    """Return the table of where a page's numbers come from, and glue what stands at its top.

    Args:
        scores: the score table that the chapter shows, with the columns of the store.
        similarities: the table of similarities that it shows instead of scores.
        hardware: what the chapter itself needs to run, such as ``"CPU"``; by default that.

    Returns:
        A table: time, code, versions, encoders, data with checksums, seeds, device, cost. The line
        at the top of a page takes ``hardware``, ``compute``, ``last-run`` and ``built`` from here.
    """
    facts = {"executed": origin.utc(), "code": origin.commit(), "versions": origin.versions()}
    if scores is not None and len(scores):
        facts |= _of_scores(scores)
    elif similarities is not None and len(similarities):
        facts |= _of_similarities(similarities)
    top = {"hardware": hardware or "CPU", "built": facts["executed"][:10]}
    top |= {
        "compute": facts.get("compute", "nothing"),
        "last-run": facts.get("last run", "never").split("T")[0],
    }
    for name, value in top.items():
        _paste(name, _Said(value))
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    link = ""
    if scores is not None and len(scores):
        link = download(_sources(scores), "data-sources.csv").source
    return Page(f'<table class="provenance"><tbody>{rows}</tbody></table>{link}')


def _of_scores(scores: pd.DataFrame) -> dict[str, str]:
    """Sum up the origin columns of a score table."""
    runs = scores.drop_duplicates("run")
    ok = scores["status"].eq("done")
    facts = {
        "encoder": _listed(scores["encoder"]),
        "scores": f"{len(scores):,} of {len(runs):,} runs; {int(ok.sum()):,} done, "
        f"{int((~ok).sum()):,} with another status",
        "seeds": _listed(scores["seed"]),
        "data": _data(_sources(scores)),
        "run by code": _listed(scores["commit"]),
        "run with": _listed(scores["versions"]),
        "device": _listed(scores["device"]),
        "compute": duration(float(runs["seconds"].sum())),
        "last run": str(scores["utc"].max()),
    }
    peak = scores["peak_memory_mb"].max()
    if math.isfinite(peak) and peak > 0:
        facts["peak memory"] = f"{peak / 1000:.1f} GB"
    return facts


def _of_similarities(table: pd.DataFrame) -> dict[str, str]:
    """Sum up a table of similarities."""
    done = table[table["status"] == "done"]
    dyads = len(table[["intermediate", "target"]].drop_duplicates())
    return {
        "encoder": _listed(table["encoder"]),
        "similarities": f"{len(done):,} values of {done['measure'].nunique()} measures on {dyads} "
        f"dyads; {len(table) - len(done):,} with another status",
        "compute": f"{duration(float(done['seconds'].sum()))} beyond reading with the encoder",
        "last run": "time not kept",
    }


def _sources(scores: pd.DataFrame) -> pd.DataFrame:
    """Return which data every target and language was scored on."""
    columns = ["target", "language", "split", "data_source", "data_hash"]
    found = scores.loc[scores["data_source"].astype(bool), columns]
    return found.drop_duplicates().sort_values(columns, ignore_index=True)


def _data(sources: pd.DataFrame) -> str:
    digest = hashlib.sha256("\n".join(sorted(set(sources["data_hash"].astype(str)))).encode())
    count = sources["data_hash"].nunique()
    return f"{_listed(sources['data_source'])}; {count:,} sets of rows, sha256 {digest.hexdigest()[:16]}"


def commits(file: str) -> Page:
    """Return the list of commits that changed a file, each linked to the repository, oldest first.

    Args:
        file: path from the root of the project.
    """
    found = origin.history(file)
    if not found:
        return Page(f"<p>The history of {html.escape(file)} is not at hand here.</p>")
    items = "".join(
        f'<li><a href="{REPOSITORY}/commit/{sha}">{sha[:10]}</a>, {when}: {html.escape(subject)}</li>'
        for sha, when, subject in found
    )
    return Page(f'<ul class="commits">{items}</ul>')


def duration(seconds: float) -> str:
    """Write a time with the unit that suits it: ``"45 s"``, ``"12 min"``, ``"3.4 h"``."""
    if not math.isfinite(seconds):
        return "not available"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _listed(values: Iterable[Any]) -> str:
    """Join the distinct values in order, leaving out empty ones."""
    return ", ".join(dict.fromkeys(str(value) for value in values if str(value)))
