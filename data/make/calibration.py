"""How often the analysis is wrong: on simulated tables, on a study's own gains, on others' models.

    python -m data.make.calibration --study dyads --replicates 1000
    python -m data.make.calibration --relabelled pilot
    python -m data.make.calibration --recycled roberta-base_table.csv

The first makes or extends data/calibration: tables with a known slope are analysed as the specification
says, and in the ways it is compared with. Batches are seeded by their own names, so that a run continues
where it was stopped; the worlds are described in ``data/calibration/<study>.json``. The second makes
data/results/<profile>-relabelled.csv: the analysis of a study's own gains, on its outcome and in points,
with similarity relabelled (2 x 1,000 tables, a minute of one core). The third makes
data/results/recycled.csv from IBM's table, see ``helpers.stats.calibration.TABLE``; a copy with another
checksum is refused.
"""

import argparse
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from helpers import results
from helpers.files import commit, write_atomic
from helpers.stats import calibration, confirmatory, gains
from helpers.stats.calibration import FINAL, Answers, ols, relabelled, slope_of
from helpers.stats.confirmatory import PRIMARY, TASKS

FOLDER = Path(__file__).resolve().parents[1] / "calibration"
BATCH = 50
COMPARED = 4  # batches in which the methods that are not ours run too
RECYCLED = results.FOLDER / "recycled.csv"
LOST = 10  # points: what a row of others' table that lost more is called collapsed for
SIZES = (1000, 20)  # relabelled tables: the first are shown, the others are there to be repeated
OUTCOMES = ("gain_within", "gain")  # that of the specification, and points beside it

Draw = Callable[[np.random.Generator], pd.DataFrame]
Cell = tuple[str, float, Draw, Callable[[pd.DataFrame, int], Answers]]

# Formats of nine intermediates and ten targets, and the languages of those targets in XTREME-R.
PAPER = ((0, 0, 0, 1, 1, 2, 2, 2, 3), (0, 2, 3, 3, 1, 1, 1, 4, 4, 4))
XTREME_R = (15, 11, 38, 48, 11, 7, 9, 41, 11, 11)


@dataclass(frozen=True)
class Scenario:
    """A world to draw dyad tables from; its residual between dyads has standard deviation 1."""

    name: str
    about: str  # what makes it hard, in one sentence
    formats: tuple[Sequence[int], Sequence[int]]  # of each intermediate, of each target
    # How similarity arises: "independent" cells, sums of "nodes" and noise, low-rank "interactions"
    # (the residual has its own), format "blocks" and noise, or "confounded" with the main effect of
    # the intermediates ("confounded by target": of the targets).
    similarity: str
    block: float  # standard deviation of the residual's format blocks
    node: float  # and of intermediate and target effects
    missing: Sequence[tuple[int, int]]  # cells without an outcome, as identity pairs have
    # Seed noise per target: a dyad averages 3 runs, and 6 baseline runs are shared within a target.
    noise: Sequence[float]
    collapses: float  # share of dyads that lose 10 standard deviations
    # Standard deviation of the slope between intermediates, targets and target formats.
    slopes: Sequence[float] = (0.0, 0.0, 0.0)
    leverage: float = 0.0  # of the log of a target's own spread, of similarity and residual alike
    scales: Sequence[float] = ()  # per target, of all its gains: points of one are not another's
    within: bool = False  # whether gains are standardised within their target before the analysis


def described(study: str) -> list[dict[str, Any]]:
    """Return the worlds of a study, as they are written beside its table."""
    return json.loads((FOLDER / f"{study}.json").read_text("utf-8"))["scenarios"]


SCENARIOS = {w["name"]: Scenario(**w) for s in ("decision", "scaled") for w in described(s)}


def standard(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and standard deviation 1 over all cells."""
    return np.asarray((values - values.mean()) / values.std())


def draw(s: Scenario, slope: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw similarity and gain, (intermediates, targets) each; NaN where a world has no outcome."""
    rows, columns = (np.asarray(f) for f in s.formats)
    size = (rows.size, columns.size)

    def blocks() -> np.ndarray:
        values = rng.normal(size=(rows.max() + 1, columns.max() + 1))
        return np.asarray(values[rows[:, None], columns])

    def low_rank() -> np.ndarray:
        return np.asarray(rng.normal(size=(size[0], 2)) @ rng.normal(size=(2, size[1])))

    u, v = s.node * rng.normal(size=(size[0], 1)), s.node * rng.normal(size=(1, size[1]))
    similarity, spread = rng.normal(size=size), np.ones((1, size[1]))
    if s.similarity == "nodes":
        similarity = similarity + rng.normal(size=(size[0], 1)) + rng.normal(size=(1, size[1]))
    elif s.similarity == "interactions":
        similarity = 0.5 * similarity + low_rank()
    elif s.similarity == "blocks":
        similarity = similarity + blocks()
    elif s.similarity.startswith("confounded"):
        similarity = similarity + (u if s.similarity == "confounded" else v)
    if s.leverage:
        spread = np.exp(s.leverage * rng.normal(size=(1, size[1])))
        spread /= np.sqrt((spread**2).mean())
    similarity = standard(similarity * spread)
    gain = slope * similarity + u + v + spread * rng.normal(size=size)
    if s.block:
        gain += s.block * blocks()
    if s.similarity == "interactions":
        gain += low_rank() / np.sqrt(2)
    if s.noise:
        gain += np.divide(s.noise, np.sqrt(3)) * rng.normal(size=size)
        gain -= np.divide(s.noise, np.sqrt(6)) * rng.normal(size=(1, size[1]))
    if s.collapses:
        gain -= 10.0 * (rng.random(size) < s.collapses)
    if any(s.slopes):
        own, of, by_format = s.slopes
        gain += own * rng.normal(size=(size[0], 1)) * similarity
        gain += of * rng.normal(size=(1, size[1])) * similarity
        gain += by_format * rng.normal(size=columns.max() + 1)[columns] * similarity
    if s.scales:
        gain *= s.scales
    for i, t in s.missing:
        gain[i, t] = np.nan
    return similarity, gain


def table(s: Scenario, similarity: np.ndarray, gain: np.ndarray) -> pd.DataFrame:
    """Return a dyad table with columns named as in the study; both arrays (intermediates, targets)."""
    i, t = (a.ravel() for a in np.indices(gain.shape))
    rows, columns = (np.asarray(f) for f in s.formats)
    out = pd.DataFrame({"intermediate": [f"i{k:02d}" for k in i]})
    out["target"] = [f"t{k:02d}" for k in t]
    out["intermediate_format"] = [f"f{k}" for k in rows[i]]
    out["target_format"] = [f"f{k}" for k in columns[t]]
    out["block"] = out["intermediate_format"] + " x " + out["target_format"]
    out["same_format"] = (out["intermediate_format"] == out["target_format"]).astype(float)
    out = out.assign(similarity=similarity.ravel(), gain=gain.ravel())
    if s.within:
        out["gain"] = gains.scale_within(out)["gain_within"]
    return out


def language_rows(
    rng: np.random.Generator,
    slope: float,
    interaction: float = 0.0,
    languages: Sequence[int] = XTREME_R,
    intermediates: int = 9,
    of: int = 50,
) -> pd.DataFrame:
    """Draw gains per language with the true structure of a study over languages.

    Dyads have their own level (standard deviation 1) and their own slope on language distance
    (0.3); every target-language cell has one baseline error (1) that all its gains share.
    ``interaction`` is the change of the slope per standard deviation of that distance, and
    ``languages`` the number of a target's, out of ``of``.
    """
    chosen = [(t, k) for t, n in enumerate(languages) for k in rng.choice(of, n, replace=False)]
    cells = np.array([(i, t, k) for i in range(intermediates) for t, k in chosen])
    names = [[f"{letter}{n:02d}" for n in c] for letter, c in zip("itl", cells.T, strict=True)]
    frame = pd.DataFrame(dict(zip([*TASKS, "language"], names, strict=True)))
    i, t, k = cells.T
    rows, columns = np.resize(PAPER[0], intermediates), np.resize(PAPER[1], len(languages))
    frame["block"] = [f"f{rows[a]} x f{columns[b]}" for a, b in zip(i, t, strict=True)]
    size = (intermediates, len(languages))
    similarity = standard(rng.normal(size=size))[i, t]
    distance = standard(rng.normal(size=of))[k]
    gain = (slope + interaction * distance) * similarity + rng.normal(size=len(frame))
    gain += rng.normal(size=size[0])[i] + rng.normal(size=size[1])[t] + rng.normal(size=size)[i, t]
    gain += 0.3 * rng.normal(size=size)[i, t] * distance
    gain += 0.5 * rng.normal(size=of)[k] - rng.normal(size=(size[1], of))[t, k]
    return frame.assign(similarity=similarity, distance=distance, gain=gain)


# How each method is asked.


def ours(data: pd.DataFrame, seed: int) -> Answers:
    """Return the specified analysis, its companion, and the other small-sample method."""
    other = partial(slope_of, data.dropna(subset=["gain"]), method="satterthwaite")
    return {**calibration.specified(data, seed), calibration.OTHER: other}


def sloped(data: pd.DataFrame, seed: int) -> Answers:
    """Return the specified analysis, and the model whose slope may differ between tasks."""
    random = confirmatory.sloped("similarity")
    loose = partial(slope_of, data.dropna(subset=["gain"]), random=random)
    return {**calibration.specified(data, seed), calibration.SLOPES: loose}


def every(data: pd.DataFrame, seed: int) -> Answers:
    """Return the specified analysis and the ones it is compared with."""
    full = data.dropna(subset=["gain"])
    least_squares = partial(ols, full, "gain", "similarity")
    indicator = ["similarity", "same_format"]
    return {
        **ours(data, seed),
        "REML, blocks, same-format indicator": partial(slope_of, full, fixed=indicator),
        "REML without blocks": partial(slope_of, full, random=TASKS),
        "permutation, free": partial(relabelled, data, None, seed),
        "two-way fixed effects": partial(least_squares, TASKS),
        "OLS": least_squares,
        "OLS, clustered by target": partial(least_squares, clusters=["target"]),
        "OLS, clustered both ways": partial(least_squares, clusters=TASKS),
    }


def by_language(data: pd.DataFrame, seed: int) -> Answers:
    """Return the slope of gain on similarity from rows per language, in right and wrong ways."""
    means = data.groupby([*TASKS, "block", "similarity"], as_index=False).agg(gain=("gain", "mean"))
    cells = data.assign(dyad=data["intermediate"] + data["target"])
    cells["cell"] = data["target"] + data["language"]
    on_rows = partial(ols, cells, "gain", "similarity")
    return {
        "dyad means, " + FINAL: partial(slope_of, means),
        "rows, OLS": on_rows,
        "rows, two-way fixed effects": partial(on_rows, TASKS),
        "rows, clustered by target x language": partial(on_rows, TASKS, ["cell"]),
        "rows, clustered by dyad": partial(on_rows, TASKS, ["dyad"]),
    }


def by_distance(data: pd.DataFrame, seed: int) -> Answers:
    """Return the change of the slope with language distance: by dyad slopes, and by rows."""
    rows = data.assign(product=data["similarity"] * data["distance"])

    def by_dyad() -> pd.Series:
        slopes = confirmatory.distance_slopes(data, "gain", "distance", ["similarity", "block"])
        return slope_of(slopes, outcome="slope")

    effects = [*TASKS, "distance", "similarity"]
    return {
        "dyad slopes, " + FINAL: by_dyad,
        "rows, two-way fixed effects": partial(ols, rows, "gain", "product", effects),
    }


# The stored studies.

STUDIES = ("dyads", "decision", "scaled", "languages")


def dyad_tables(scenario: Scenario, slope: float) -> Draw:
    """Return what draws dyad tables of a scenario; every stored replicate comes from here."""
    return lambda rng: table(scenario, *draw(scenario, slope, rng))


def cells(study: str) -> list[Cell]:
    """Return what a study draws and asks: names of scenarios, slopes, how to draw, how to answer."""
    if study == "languages":

        def rows(slope: float, change: float) -> Draw:
            return lambda rng: language_rows(rng, slope, change)

        found: list[Cell] = [("languages", b, rows(b, 0.0), by_language) for b in (0.0, 0.3)]
        return found + [("language distance", c, rows(0.3, c), by_distance) for c in (0.0, 0.1)]
    names, specified = [world["name"] for world in described(study)], calibration.specified
    if study == "dyads":  # every scenario at 0 and 0.4, some at more slopes
        more = ["independent", *(f"blocks{k}" for k in (" none", " half", ""))]
        more += [*(f"20 x 10{k}" for k in (", none", ", half", "")), "7 x 3"]
        asked = [(name, b, every) for name in names for b in (0.0, 0.4)]
        asked += [(name, b, ours) for name in more for b in (0.2, 0.6, 0.8)]
    elif study == "decision":  # four sizes of study, and the worlds that an outside review missed
        sizes = ("blocks half", "20 x 10, half", "7 x 3", "4 x 3")
        asked = [(name, b, specified) for name in sizes for b in (0.0, 0.2, 0.4, 0.6, 0.8)]
        harder = names[names.index("confounded by target") :]
        asked += [(n, b, sloped) for n in harder for b in (0.0, 0.4)]
    else:  # the study of 10 x 7 tasks, in points and within targets
        asked = [(name, b, specified) for name in names for b in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    return [(name, b, dyad_tables(SCENARIOS[name], b), ask) for name, b, ask in asked]


def run(folder: Path, study: str, replicates: int = 1000) -> pd.DataFrame:
    """Make or extend a stored table of counts, replicates rounded up to whole batches."""
    used = {module.__name__: module.__version__ for module in (np, scipy, pd)}
    about = {
        **{"command": f"python -m data.make.calibration --study {study}", "commit": commit()},
        **{"seed": calibration.SEED, "batch": BATCH, "batches_with_all_methods": COMPARED},
        "relabellings": calibration.RELABELLINGS,
        "scenarios": described(study),
        "versions": {"python": platform.python_version(), **used},
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    text = "{\n" + ",\n".join(lines).replace('}, {"name"', '},\n  {"name"') + "\n}\n"
    write_atomic(folder / f"{study}.json", text.encode())
    path = folder / f"{study}.csv"
    counts = pd.DataFrame(columns=[*calibration.KEY, *calibration.COUNTED])
    if path.exists():
        counts = pd.read_csv(path)
    done = set(map(tuple, counts[["scenario", "slope", "batch"]].to_numpy()))
    for number in range(-(-replicates // BATCH)):
        for name, slope, drawn, answer in cells(study):
            if (name, slope, number) in done:
                continue
            answer = ours if answer is every and number >= COMPARED else answer
            fresh = calibration.batch(name, slope, number, drawn, answer, BATCH)
            counts = pd.concat([counts, fresh], ignore_index=True) if len(counts) else fresh
            write_atomic(path, counts.to_csv(index=False, float_format="%.10g").encode())
    return calibration.load(folder, study)


# A study's own gains, and the table of others.


def prepared(profile: str, outcome: str) -> pd.DataFrame:
    """Return the dyads of a committed study as its analysis sees them, the outcome named ``gain``.

    Trained targets alone, without half-converged runs; gains of identity pairs are missing.
    """
    scores = gains.trained_targets(results.load(profile))
    kept, _ = gains.converged(gains.usable(scores)[0])
    similarity = results.similarities(profile, added=False)
    dyads = gains.scale_within(gains.dyads(gains.gains(kept), similarity=similarity))
    whole = confirmatory.prepared(dyads, PRIMARY)
    return whole.assign(gain=whole[outcome])


def fingerprint(whole: pd.DataFrame) -> str:
    """Return a checksum of the gains and similarities that an analysis sees."""
    rows = whole[[*TASKS, "gain", PRIMARY]].sort_values(TASKS).round(6)
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()[:16]


def on_own_gains(profile: str, size: int) -> pd.DataFrame:
    """Count errors on relabelled tables of a study; ``scenario`` names the outcome."""
    parts = []
    for outcome in OUTCOMES:
        whole = prepared(profile, outcome)
        counts = calibration.permuted_tables(whole, PRIMARY, size)
        parts.append(counts.assign(scenario=outcome, size=size, gains=fingerprint(whole)))
    return pd.concat(parts, ignore_index=True)


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Compare methods on all rows of others, and without identity pairs and collapsed rows."""
    own, lost = table["identity_pair"], table["gain"] < -LOST
    parts = {
        "all": table,
        "without identity pairs": table[~own],
        "without collapsed rows": table[~lost],
        "without both": table[~own & ~lost],
    }
    found = {name: calibration.compare_recycled(part) for name, part in parts.items()}
    return pd.concat(found, names=["which"]).reset_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m data.make.calibration", description=__doc__)
    parser.add_argument("--study", choices=STUDIES, default="dyads")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--relabelled", metavar="PROFILE")
    parser.add_argument("--recycled", metavar="TABLE")
    asked = parser.parse_args()
    if asked.recycled:
        shown = compared(calibration.read_recycled(asked.recycled))
        write_atomic(RECYCLED, shown.to_csv(index=False, float_format="%.6g").encode())
    elif asked.relabelled:
        shown = pd.concat([on_own_gains(asked.relabelled, size) for size in SIZES])
        file = results.FOLDER / f"{asked.relabelled}-relabelled.csv"
        write_atomic(file, shown.to_csv(index=False).encode())
    else:
        shown = calibration.summary(run(FOLDER, asked.study, asked.replicates))
    print(shown.to_string(index=False, float_format="%.3f"))
