"""How often the analysis, and others in use, would be wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from helpers.errors import BadFit
from helpers.files import write_atomic
from helpers.findings.scope import BOTH
from helpers.findings.tables import nothing
from helpers.stats import calibration, confirmatory, external, prediction
from helpers.stats.confirmatory import PRIMARY
from helpers.stats.scenarios import SCENARIOS

CALIBRATION = Path(__file__).resolve().parents[2] / "data" / "calibration"
# Simulated designs that a study is compared with, and their numbers of tasks.
DESIGNS = {
    name: " x ".join(str(len(formats)) for formats in SCENARIOS[name].formats)
    for name in ("4 x 3", "7 x 3", "blocks half", "20 x 10, half")
}


def calibrated(study: str, folder: Path = CALIBRATION) -> pd.DataFrame:
    """Return the stored error rates of a calibration study.

    Args:
        study: ``"dyads"`` or ``"languages"``.
        folder: where the counts are stored.

    Returns:
        What `calibration.summary` returns, and ``about``, the world in a sentence; no rows where
        the study was not run.
    """
    if not (folder / f"{study}.csv").exists():
        return nothing(
            f"The calibration study {study!r} is not stored; make it with: "
            f"python -m helpers.stats.calibration --study {study}"
        )
    found = calibration.summary(calibration.load(folder, study))
    return found.assign(about=found["scenario"].map({s.name: s.about for s in SCENARIOS.values()}))


def rate(
    rates: pd.DataFrame,
    scenario: str,
    method: str,
    column: str = "rejected",
    slope: float = 0.0,
) -> float:
    """Return one stored rate; NaN where it is not there.

    Args:
        rates: what `calibrated` returned.
        scenario, method: whose rate.
        column: which one.
        slope: true slope.
    """
    if rates.empty:
        return float("nan")
    chosen = (rates["scenario"] == scenario) & (rates["method"] == method)
    found = rates.loc[chosen & (rates["slope"] == slope), column]
    return float(found.iloc[0]) if len(found) else float("nan")


def relabelled(
    table: pd.DataFrame, measure: str = PRIMARY, replicates: int = 100, stored: str | Path = ""
) -> pd.DataFrame:
    """Measure how often the analysis rejects on the study's own gains with similarity relabelled.

    Args:
        table: dyad table with identity pairs in it.
        measure: similarity.
        replicates: relabelled tables, where the counts are not stored.
        stored: counts that `store_relabelled` wrote; those of other gains are not used.

    Returns:
        What `calibration.summary` returns, methods that declined every table left out.

    Raises:
        BadFit: the measure does not vary over the dyads, or no method can be fitted.
    """
    whole = confirmatory.prepared(table, measure)
    counts = _stored_counts(whole, measure, stored)
    if counts is None:
        counts = calibration.permuted_tables(whole, measure, replicates)
    found = calibration.summary(counts)
    found = found[found["replicates"] > 0].reset_index(drop=True)
    if found.empty:
        raise BadFit(f"no method can be fitted to {len(whole)} dyads.")
    return found


def store_relabelled(
    table: pd.DataFrame, file: Path, measure: str = PRIMARY, sizes: Sequence[int] = (1000, 20)
) -> None:
    """Store the counts of `relabelled` with what they were made from.

    Args:
        table, measure: as in `relabelled`.
        file: where to write; ``data/results/<profile>-relabelled.csv`` is what chapters read.
        sizes: replicates; the largest is shown, the others are there to be repeated by a test.
    """
    whole = confirmatory.prepared(table, measure)
    parts = [calibration.permuted_tables(whole, measure, n).assign(size=n) for n in sizes]
    out = pd.concat(parts).assign(gains=fingerprint(whole, measure))
    write_atomic(file, out.to_csv(index=False, lineterminator="\n").encode())


def fingerprint(whole: pd.DataFrame, measure: str = PRIMARY) -> str:
    """Return a checksum of the gains and similarities that an analysis sees.

    Args:
        whole: what `confirmatory.prepared` returned.
        measure: similarity.
    """
    rows = whole[[*BOTH, "gain", measure]].sort_values(list(BOTH)).round(6)
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()[:16]


def _stored_counts(whole: pd.DataFrame, measure: str, stored: str | Path) -> pd.DataFrame | None:
    if not stored or not Path(stored).is_file():
        return None
    counts = pd.read_csv(stored)
    counts = counts[counts["gains"] == fingerprint(whole, measure)]
    return counts[counts["size"] == counts["size"].max()] if len(counts) else None


def nearest_design(table: pd.DataFrame) -> str:
    """Return the simulated design whose numbers of tasks are nearest to those of a study.

    Args:
        table: dyad table.
    """
    size = np.log([table[task].nunique() for task in BOTH])
    apart = {
        name: float(np.abs(np.log([len(f) for f in SCENARIOS[name].formats]) - size).sum())
        for name in DESIGNS
    }
    return min(apart, key=lambda name: apart[name])


def sizes(rates: pd.DataFrame, design: str) -> pd.Series:
    """Name the design of each row by its numbers of tasks, and mark one as this study's.

    Args:
        rates: rows of `calibrated` whose scenarios are among `DESIGNS`.
        design: what `nearest_design` returned.
    """
    names = {name: size + " (this study)" * (name == design) for name, size in DESIGNS.items()}
    return rates["scenario"].map(names)


def headroom_mistake(replicates: int = 1000, tasks: int = 40, seed: int = 0) -> pd.DataFrame:
    """Simulate regressing gains on the baseline that was subtracted, where nothing depends on it.

    Args:
        replicates: simulated studies per way.
        tasks: gains in each.
        seed: random seed.

    Returns:
        Indexed by baseline (``"the same run"``, ``"other seeds"``): slope (mean) and rejected
        (share with p < .05 of ordinary least squares).
    """
    rng = np.random.default_rng(seed)
    truth, gain = rng.normal(size=(2, replicates, tasks))
    first, second, noise_of = rng.normal(0, 0.5, size=(3, replicates, tasks))
    rows = {}
    for name, other in (("the same run", first), ("other seeds", second)):
        y = gain + noise_of - first
        x = truth + other
        r = _correlation(x, y)
        t = r * np.sqrt((tasks - 2) / (1 - r**2))
        p = 2 * stats.t.sf(np.abs(t), tasks - 2)
        slope = r * y.std(axis=1) / x.std(axis=1)
        rows[name] = {"slope": slope.mean(), "rejected": (p < 0.05).mean()}
    return pd.DataFrame(rows).T.rename_axis("baseline")


def recycled(path: str, n: int = 9999) -> pd.DataFrame:
    """Estimate the effect of a shared family of tasks in a table that others published.

    Args:
        path: the reader's own copy of `external.TABLE`; empty: none.
        n: relabellings of families.

    Returns:
        What `external.compare` returns.

    Raises:
        BadFit: no path was given; the text says where the table is.
        MissingData, BadRecord: as in `external.read_table`.
    """
    if not path:
        raise BadFit(
            f"No copy of the table was given to this page. It is {external.TABLE} of "
            f"{external.REPOSITORY}."
        )
    return external.compare(external.read_table(path), n)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the correlation of each row of two matrices."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return np.asarray((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))


def reversed_ndcg(rows: pd.DataFrame) -> pd.Series:
    """Return the mean NDCG over targets of a ranking that is exactly reversed, by coding.

    Args:
        rows: dyads with ``score`` (0 to 1) and ``target``.
    """
    codings: tuple[prediction.Coding, ...] = ("raw", "above worst")
    values = {
        coding: [
            prediction.ndcg(part["score"].tolist(), (-part["score"]).tolist(), coding)
            for _, part in rows.groupby("target")
        ]
        for coding in codings
    }
    return pd.Series({coding: float(np.mean(found)) for coding, found in values.items()})
