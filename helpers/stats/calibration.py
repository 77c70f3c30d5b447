"""How often the analysis is wrong: stored simulations, a study's own gains relabelled, others' table.

``data/make/calibration.py`` simulates the tables behind ``data/calibration``. The table of others is
IBM's model recycling (Apache-2.0): hundreds of fine-tuned RoBERTa models, each fine-tuned again on 36
English targets. A model's name tells what it was trained on, so "same family" is a crude relatedness.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from helpers.errors import BadFit, BadRecord, MissingData
from helpers.files import sha256_file
from helpers.stats import design, permutation, reml
from helpers.stats.confirmatory import DYAD, FORMATS, RANDOM, TASKS

SEED = 20261123
RELABELLINGS = 499
FINAL = "REML, blocks, Kenward-Roger"
OTHER = "REML, blocks, Satterthwaite"
COMPANION = "permutation within formats"
DECISION = "model and permutation"
SLOPES = "REML, blocks, random slopes"
KEY = ["scenario", "slope", "method", "batch"]
COUNTED = [
    "replicates", "refused", "rejected", "wrong_sign", "covered", "intervals",
    "sum_estimate", "sum_square", "sum_se",
]  # fmt: skip
TABLE = "results/roberta-base_table.csv of https://github.com/IBM/model-recycling (Apache-2.0)"
SHA256 = "2aa163875b6c8110f9b6667f18c3de31be95276f992af81326efa6153d31fe9e"
BASELINE = "roberta-base"
_DATA = Path(__file__).resolve().parents[2] / "data"
# Families of the table's targets, and words in a model's name that tell its family.
FAMILIES = pd.read_csv(_DATA / "recycling_families.csv", keep_default_na=False, index_col="family")
TARGETS = {t: family for family, names in FAMILIES["targets"].items() for t in names.split()}
WORDS = FAMILIES["words"][FAMILIES["words"] != ""]

Answers = dict[str, Callable[[], pd.Series]]


def load(folder: Path, study: str = "dyads") -> pd.DataFrame:
    """Return stored counts of a study: ``"dyads"``, ``"decision"``, ``"scaled"`` or ``"languages"``."""
    return pd.read_csv(folder / f"{study}.csv")


def worlds(folder: Path, study: str = "dyads") -> pd.DataFrame:
    """Return the simulated worlds of a study of dyads by name: about, formats and parameters."""
    described = json.loads((folder / f"{study}.json").read_text())["scenarios"]
    return pd.DataFrame(described).set_index("name")


def batch(
    name: str,
    slope: float,
    number: int,
    draw: Callable[[np.random.Generator], pd.DataFrame],
    answer: Callable[[pd.DataFrame, int], Answers],
    size: int,
) -> pd.DataFrame:
    """Draw and analyse ``size`` tables; count: one row per method, columns ``KEY`` and ``COUNTED``."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), round(slope * 1000), number])
    rows: list[dict[str, Any]] = []
    for _ in range(size):
        data, seed = draw(rng), int(rng.integers(2**31))
        said: dict[str, dict[str, Any]] = {}
        for method, ask in answer(data, seed).items():
            said[method] = {}
            with suppress(BadFit):  # a refusal is counted, not hidden
                said[method] = dict(ask())
        if COMPANION in said:
            # the decision of the specification: supported only if both reject
            model, companion = said[FINAL], said[COMPANION]
            said[DECISION] = {}
            if model and companion:
                p = max(model["p"], companion["p"])
                said[DECISION] = {"estimate": model["estimate"], "p": p}
        rows += [{"method": method} | found for method, found in said.items()]
    table = pd.DataFrame(rows).reindex(columns=["method", "estimate", "p", "low", "high", "se"])
    estimate, rejected = table["estimate"], table["p"] < 0.05
    wrong = rejected & (np.sign(estimate) == -np.sign(slope)) & (slope != 0)
    covered = ((table["low"] <= slope) & (slope <= table["high"])).astype(float)
    counts = table[["method"]].assign(replicates=1, refused=estimate.isna(), rejected=rejected)
    counts = counts.assign(wrong_sign=wrong, covered=covered, intervals=table["low"].notna() * 1.0)
    counts = counts.assign(sum_estimate=estimate, sum_square=estimate**2, sum_se=table["se"])
    counts = counts.groupby("method", sort=False).sum().reset_index()
    return counts.assign(scenario=name, slope=slope, batch=number)[[*KEY, *COUNTED]]


def summary(counts: pd.DataFrame) -> pd.DataFrame:
    """Turn counts into rates.

    Args:
        counts: rows as stored, or as `permuted_tables` returns them.

    Returns:
        Per scenario, slope and method: replicates, rejected (share), its Monte Carlo standard error and
        95 % interval (Wilson), coverage, bias, se_ratio (mean reported over actual standard error; NaN
        for permutation tests), refused (share).
    """
    key = ["scenario", "slope", "method"]
    total = counts.groupby(key, sort=False)[COUNTED].sum().reset_index()
    n = total["replicates"] - total["refused"]
    rate, mean = total["rejected"] / n, total["sum_estimate"] / n
    spread = np.sqrt((total["sum_square"] - n * mean**2) / (n - 1))
    z = float(stats.norm.ppf(0.975))
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    has = total["intervals"] > 0
    return total[key].assign(
        replicates=n,
        rejected=rate,
        mc_se=np.sqrt(rate * (1 - rate) / n),
        mc_low=centre - half,
        mc_high=centre + half,
        coverage=(total["covered"] / n).where(has),
        bias=mean - total["slope"],
        se_ratio=(total["sum_se"] / n / spread).where(has),
        refused=total["refused"] / total["replicates"],
    )


def detectable(power: pd.DataFrame, method: str = DECISION) -> pd.DataFrame:
    """Return the slope each scenario detects with a power of 80 %, by interpolation.

    Args:
        power: what `summary` returned, with several slopes per scenario.
        method: whose power.

    Returns:
        scenario, slope (dyad SD per SD of similarity; NaN where no slope simulated reaches the power).
    """
    rows = []
    for name, part in power[power["method"] == method].groupby("scenario", sort=False):
        part = part.sort_values("slope")
        reached = part["rejected"].cummax()
        slope = np.interp(0.8, reached, part["slope"], right=np.nan)
        rows.append({"scenario": name, "slope": slope if len(part) > 1 else np.nan})
    return pd.DataFrame(rows)


def slope_of(
    data: pd.DataFrame,
    fixed: Sequence[str] = ("similarity",),
    random: Sequence[str] = RANDOM,
    outcome: str = "gain",
    method: reml.Method = "kenward-roger",
) -> pd.Series:
    """Return what a mixed model says of the slope on similarity."""
    return reml.crossed_reml(data, outcome, fixed, random, method=method)["similarity"]


def relabelled(data: pd.DataFrame, within: tuple[str, str] | None, seed: int) -> pd.Series:
    """Return what relabelling the tasks says of that slope."""
    found = permutation.qap(data, "gain", "similarity", *DYAD, within, RELABELLINGS, seed)
    return pd.Series({"estimate": found.estimate, "p": found.p})


def specified(data: pd.DataFrame, seed: int) -> Answers:
    """Return how the specified model and its companion are asked about a table."""
    model = partial(slope_of, data.dropna(subset=["gain"]))
    return {FINAL: model, COMPANION: partial(relabelled, data, FORMATS, seed)}


def permuted_tables(
    data: pd.DataFrame, similarity: str, replicates: int = 1000, seed: int = SEED
) -> pd.DataFrame:
    """Count type I errors on a real dyad table whose similarity has been relabelled, for `summary`.

    Gains keep their collapses, outliers and format blocks, and similarity its values and formats, but
    formats change places with their tasks, and tasks within formats. (Relabelling within formats alone
    would leave a true effect between formats in place.) With few formats some relabellings are nearly the
    original, so that a true effect shows in the rate.
    """
    table = permutation.grid(data, "gain", [similarity], *DYAD, FORMATS)
    rng, groups = np.random.default_rng(seed), (table.row_groups, table.column_groups)
    orders = [np.concatenate([_moved(rng, g) for g in groups]) for _ in range(replicates)]
    every = np.full(table.outcome.shape, True)
    moved = permutation.relabel(table.predictors[0], np.array(orders), every)
    cells = pd.MultiIndex.from_product([table.rows, table.columns], names=TASKS)
    rest = data.drop(columns=["similarity", similarity], errors="ignore")
    rest = rest.assign(**rest[TASKS].astype(str))
    tables = (pd.Series(v, cells, name="similarity").reset_index().merge(rest) for v in moved)

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        return design.standardise(next(tables).dropna(subset=["similarity"]), ["similarity"])

    return batch("relabelled", 0.0, 0, draw, specified, replicates)


def _moved(rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Return a relabelling in which groups change places as wholes, as far as sizes allow."""
    ranks = rng.permutation(groups.max() + 1)[groups] + rng.random(groups.size)
    order = np.empty(groups.size, int)
    order[np.argsort(groups, kind="stable")] = np.argsort(ranks)
    return order


def ols(
    data: pd.DataFrame,
    outcome: str,
    predictor: str,
    effects: Sequence[str] = (),
    clusters: Sequence[str] = (),
) -> pd.Series:
    """Fit least squares with indicators of ``effects``, errors clustered by at most two columns."""
    x, _ = design.fixed_matrix(data, [predictor, *effects])
    robust: dict[str, Any] = {}
    if clusters:
        groups = np.column_stack([pd.factorize(data[c].astype(object))[0] for c in clusters])
        robust = {"cov_type": "cluster", "cov_kwds": {"groups": np.squeeze(groups)}}
    fit = sm.OLS(data[outcome].to_numpy(float), x).fit(use_t=True, **robust)
    if not (variance := fit.cov_params()[1, 1]) > 0:  # the intercept comes first
        said = f"the variance of {predictor!r} is {variance:g}, as few clusters both ways can give"
        raise BadFit(f"{said}; use a mixed model.")
    df = getattr(fit, "df_resid_inference", fit.df_resid)
    return reml.t_table([predictor], fit.params[[1]], np.sqrt([variance]), np.array([df])).iloc[0]


def read_recycled(path: str | Path) -> pd.DataFrame:
    """Read a copy of IBM's table: a row per fully tested model and target, with the gain in points.

    Families are "" where a model's name tells none, or two. An identity pair is a model whose name holds
    that of the target, whose rows it was trained on.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingData(f"{file} is not there. Download {TABLE} and pass its path.")
    if (digest := sha256_file(file)) != SHA256:
        raise BadRecord(f"{file} has checksum {digest}, not {SHA256}: it is not {TABLE}.")
    wide = pd.read_csv(file).drop_duplicates("model_name").set_index("model_name")
    scores = wide[list(TARGETS)].dropna().rename_axis(index="intermediate", columns="target")
    gained = scores.drop(index=BASELINE) - scores.loc[BASELINE]
    out = pd.Series(gained.stack(), name="gain").reset_index()
    out["intermediate_family"] = out["intermediate"].map({m: family_of(m) for m in gained.index})
    out["target_family"] = out["target"].map(TARGETS)
    out["block"] = out["intermediate_family"] + " x " + out["target_family"]
    out["same_family"] = (out["intermediate_family"] == out["target_family"]).astype(float)
    return out.assign(identity_pair=list(map(trained_on, out["intermediate"], out["target"])))


def trained_on(model: str, target: str) -> bool:
    """Return whether a model's name tells that it was fine-tuned on the rows of a target."""
    bare, word = re.sub("[-_]", "", model.lower()), target.removesuffix("_5bins")
    # parts of TweetEval are named by their label, which others use too
    tweets = not word.startswith("tweet_ev_") or bool(re.search("tweet|twitter|cardiff", bare))
    return tweets and word.removeprefix("tweet_ev_").replace("_", "") in bare


def family_of(model: str) -> str:
    """Return the family a model's name tells; empty if none or several."""
    found = [f for f, words in WORDS.items() if re.search(words, model.lower())]
    return str(found[0]) if len(found) == 1 else ""


def compare_recycled(table: pd.DataFrame, n: int = 9999) -> pd.DataFrame:
    """Estimate the effect of a shared family (points) in ways that differ in what counts as independent.

    Models without a family are left out; families are relabelled ``n`` times, over the means of model
    family x target family.
    """
    used = table[table["intermediate_family"] != ""]
    if used.empty:
        raise BadFit("no model name tells a family, so there is nothing to compare.")
    term, blocks = "same_family", [*TASKS, "block"]
    rows = {
        "OLS on rows": ols(used, "gain", term),
        "OLS, clustered both ways": ols(used, "gain", term, clusters=TASKS),
        "REML, model and target": reml.crossed_reml(used, "gain", [term], TASKS)[term],
        "REML, model, target and block": reml.crossed_reml(used, "gain", [term], blocks)[term],
    }
    out = pd.DataFrame(rows).T[["estimate", "se", "df", "low", "high", "p"]].astype(float)
    families = ("intermediate_family", "target_family")
    means = used.groupby(list(families), as_index=False)[["gain", term]].mean()
    found = permutation.qap(means, "gain", term, *families, n=n)
    out.loc["permutation of families", ["estimate", "p"]] = [found.estimate, found.p]
    return out.assign(rows=len(used)).rename_axis("method")
