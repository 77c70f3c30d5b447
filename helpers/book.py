"""What a chapter needs around its results: settings, tables, origin.

Works in four places: a Jupyter Book build, JupyterLab, Colab (no ``myst_nb`` there) and Binder (no
torch there). Nothing here computes a result.
"""

import base64
import hashlib
import html
import io
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from helpers import files as origin
from helpers.errors import HelpfulError, unknown

PARAMETERS = "TRANSFER_PARAMETERS"  # "permutations=999 examples=en,de", set by `make chapter`
BUILDING = "TRANSFER_BOOK_BUILD"  # set while the whole book is built
MINUS = "\u2212"
# Colours that stay apart for readers who do not see red and green apart (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def building() -> bool:
    """Return whether the whole book is being built: then progress stays quiet."""
    return bool(os.environ.get(BUILDING))


class Parameters(SimpleNamespace):
    """The settings of a chapter; read them as attributes."""

    def __getattr__(self, name: str) -> Any:
        """Refuse a setting that is not there, and name those that are."""
        raise AttributeError(f"no parameter {name!r}; there are {', '.join(vars(self))}")


def parameters(**defaults: Any) -> Parameters:
    """Declare a chapter's settings; ``make chapter NAME=06 PARAMS="permutations=999"`` overrides them.

    Args:
        **defaults: name and value of each setting, which become attributes. A value from outside is
            read as the type of the default: number, truth value, text, or texts separated by commas.
    """
    values = dict(defaults)
    for name, text in split_parameters(os.environ.get(PARAMETERS, "")).items():
        if name in defaults:
            values[name] = _read(name, text, defaults[name])
        elif not building():  # where settings are meant for the chapters that have them
            raise unknown("parameter", name, defaults)
    return Parameters(**values)


def split_parameters(text: str) -> dict[str, str]:
    """Split ``"permutations=999 examples=en,de"`` into names and texts."""
    pairs = [part.partition("=") for part in shlex.split(text)]
    if not all(name and mark for name, mark, _ in pairs):
        raise HelpfulError(f'parameters are written as "seeds=2 examples=en,de", not {text!r}.')
    return {name: value for name, _, value in pairs}


def _read(name: str, text: str, default: Any) -> Any:
    """Read a setting from outside as the type of its default."""
    truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        if isinstance(default, bool):
            return truths[text.lower()]
        if isinstance(default, (int, float)):
            return type(default)(text)
        if isinstance(default, (tuple, list)):
            return tuple(part for part in text.split(",") if part)
        return text
    except (KeyError, ValueError):
        kind = type(default).__name__
        said = f"parameter {name}={text!r} cannot be read as {kind} (its default is {default!r})."
        raise HelpfulError(said) from None


def begin() -> None:
    """Set the figure style: crisp, with text that can be selected, the same bytes on every machine."""
    import matplotlib.style
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", palette=list(COLOURS))
    matplotlib.style.use(Path(__file__).parents[1] / "data" / "figures.mplstyle")
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # outside a notebook
        return
    set_matplotlib_formats("svg", metadata={"Date": None})


def number(value: float, digits: int = 1) -> str:
    """Write a number as a table shows it, ``"−1,234.5"``; what rounds to zero has no sign."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def duration(seconds: float) -> str:
    """Write a time with the unit that suits it: ``"45 s"``, ``"12 min"``, ``"3.4 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def glue(name: str, value: Any) -> None:
    """Give a figure to another page, which shows it with ``{glue:any}``; Colab has no other page."""
    try:
        from myst_nb import glue as paste
    except ImportError:
        return
    paste(name, value, display=False)


def nothing(note: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table without rows that says why, in ``attrs["note"]``."""
    table = pd.DataFrame({column: pd.Series(dtype=float) for column in columns})
    table.attrs["note"] = note
    return table


@dataclass(frozen=True)
class Page:
    """A piece of HTML that a notebook shows."""

    source: str

    def _repr_html_(self) -> str:
        return self.source


def picture(figure: Any, alt: str) -> Page:
    """Return a figure for `glue` that another page can show, with a text for those who cannot see it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    data = base64.b64encode(drawn.getvalue()).decode()
    image = f'<img class="hero" alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'
    return Page(f'<div class="hero">{image}</div>')


def download(frame: pd.DataFrame, file: str, index: bool = False) -> Page:
    """Return a link that saves a table as CSV; the data is inside the page, no server is needed."""
    content = frame.to_csv(index=index, lineterminator="\n").encode()
    data, name = base64.b64encode(content).decode(), html.escape(file)
    label = f"{name} ({len(frame):,} rows, {max(1, len(content) // 1000):,} kB)"
    link = f'<a download="{name}" href="data:text/csv;charset=utf-8;base64,{data}">{label}</a>'
    return Page(f'<p class="download">Data: {link}</p>')


def table(
    frame: pd.DataFrame, file: str = "", digits: int = 2, index: bool = False, rows: int = 40
) -> Page:
    """Return a table as a page shows it, with a link to all of its data.

    Args:
        frame: the table; one without rows is shown as the sentence in its ``attrs["note"]``.
        file: name under which it can be saved; empty: no link.
        digits: digits after the point of its numbers.
        index: whether to show and save the index.
        rows: rows shown at most; the download always has all.
    """
    if frame.empty and "note" in frame.attrs:
        return Page(f"<p>{html.escape(frame.attrs['note'])}</p>")
    form: dict[str, Any] = {"index": index, "border": 0, "classes": "results", "na_rep": "–"}
    written = frame.head(rows).to_html(**form, float_format=lambda value: number(value, digits))
    if len(frame) > rows:
        written += f"<p>The first {rows:,} of {len(frame):,} rows.</p>"
    link = download(frame, file, index).source if file else ""
    return Page(f'<div class="results">{written}</div>{link}')


def folded(parts: Mapping[str, Page]) -> Page:
    """Return pages that a reader unfolds by clicking on their names; no script, no server."""
    part = '<details class="folded"><summary>{}</summary>{}</details>'
    return Page("".join(part.format(html.escape(k), v.source) for k, v in parts.items()))


def commits(file: str) -> Page:
    """Return the list of commits that changed a file, oldest first, linked where the repository is."""
    found, address = origin.history(file), origin.address()
    if not found:
        return Page(f"<p>The history of {html.escape(file)} is not at hand here.</p>")
    link = f'<a href="{address}/commit/{{0}}">{{0:.10}}</a>' if address else "<code>{0:.10}</code>"
    item = f"<li>{link}, {{1}}: {{2}}</li>"
    items = "".join(item.format(sha, when, html.escape(subject)) for sha, when, subject in found)
    return Page(f'<ul class="commits">{items}</ul>')


def provenance(
    scores: pd.DataFrame | None = None, *, similarities: pd.DataFrame | None = None
) -> Page:
    """Return the table of where a page's numbers come from.

    Args:
        scores: the score table that the chapter shows, with the columns of the store.
        similarities: the table of similarities that it shows instead of scores.
    """
    facts = {"executed": origin.utc(), "code": origin.commit(), "versions": origin.versions()}
    link = ""
    if scores is not None and len(scores):
        columns = ["target", "language", "split", "data_source", "data_hash"]
        sources = scores.loc[scores["data_source"].astype(bool), columns]
        sources = sources.drop_duplicates().sort_values(columns)
        link = download(sources, "data-sources.csv").source
        runs, ok = scores.drop_duplicates("run"), int(scores["status"].eq("done").sum())
        # One checksum for all sets of rows, whatever their order.
        sets = sorted(set(sources["data_hash"].astype(str)))
        digest = hashlib.sha256("\n".join(sets).encode()).hexdigest()[:16]
        rows = f"{len(sets):,} sets of rows, sha256 {digest}"
        counted = f"{len(scores):,} of {len(runs):,} runs; {ok:,} done"
        facts |= {
            "encoder": _listed(scores["encoder"]),
            "scores": f"{counted}, {len(scores) - ok:,} with another status",
            "seeds": _listed(scores["seed"]),
            "data": f"{_listed(sources['data_source'])}; {rows}",
            "run by code": _listed(scores["commit"]),
            "run with": _listed(scores["versions"]),
            "device": _listed(scores["device"]),
            "compute": duration(float(runs["seconds"].sum())),
            "last run": str(scores["utc"].max()),
        }
        if (peak := scores["peak_memory_mb"].max()) > 0:
            facts["peak memory"] = f"{peak / 1000:.1f} GB"
    elif similarities is not None and len(similarities):
        done = similarities[similarities["status"] == "done"]
        dyads = similarities.groupby(["intermediate", "target"]).ngroups
        values = f"{len(done):,} values of {done['measure'].nunique()} measures on {dyads} dyads"
        other = f"{len(similarities) - len(done):,} with another status"
        facts |= {"encoder": _listed(similarities["encoder"]), "similarities": f"{values}; {other}"}
        facts["compute"] = f"{duration(done['seconds'].sum())} beyond reading with the encoder"
    row = "<tr><th>{}</th><td>{}</td></tr>"
    body = "".join(row.format(*map(html.escape, fact)) for fact in facts.items())
    return Page(f'<table class="provenance"><tbody>{body}</tbody></table>{link}')


def _listed(values: Iterable[Any]) -> str:
    """Join the distinct values in order, leaving out empty ones."""
    return ", ".join(dict.fromkeys(str(value) for value in values if str(value)))
