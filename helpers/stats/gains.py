"""Gains: what an intermediate task adds to a target's score, per language and seed."""

import numpy as np
import pandas as pd
from scipy import stats

from helpers import tasks
from helpers.errors import BadRows, known

SCALES = ("gain", "gain_logit", "gain_error", "gain_z")
ARM = ["encoder", "condition", "intermediate"]
CELL = ["target", "language"]
NEEDED = [*ARM, *CELL, "stage", "split", "metric", "value", "n", "seed", "status", "rows_trained"]


def usable(scores: pd.DataFrame, collapsed: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Leave out targets without a finished baseline; return the rest and a sentence for each."""
    out, notes = scores, []
    enough = {"done", "collapsed"} if collapsed else {"done"}
    for target, part in scores[scores["stage"] == "target"].groupby("target"):
        arm = part[part["condition"] == "none"].drop_duplicates(["run", "seed"])["status"]
        if not enough & set(arm):
            said = ", ".join(f"{n} {status}" for status, n in arm.value_counts().items())
            notes.append(f"{target} has no finished baseline ({said or 'none was run'}).")
            out = out[out["target"] != target]
    return out.reset_index(drop=True), notes


def converged(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out trained runs that half converged; the rule is the same with and without intermediate.

    A run has half converged when its English score is more than a quarter of the way from the median
    of its target's baselines down to guessing. An arm without another run keeps all of its own: not
    learning is then what came of it. Targets without English scores, or that train nothing, stay whole.
    With the scores comes a row per target: that median, the least that counts as converged (0 to 1), runs.
    """
    by = ["encoder", "target"]
    english = trained_targets(clean(scores).query("language == 'en'"))
    base = english[english["condition"] == "none"].groupby(by)["value"].median()
    english = english.join(base.rename("median"), on=by)
    guess = _fact(english["target"], "chance", 0.0).astype(float)
    english["least"] = english["median"] - (english["median"] - guess) / 4
    english["half"] = english["value"] < english["least"]
    alone = english.groupby([*ARM, "target"])["half"].transform("all")
    english["out"] = english["half"] & ~alone
    groups = english.groupby(by)
    table = groups[["median", "least"]].first().assign(runs=groups.size())
    table[["half_converged", "left_out"]] = groups[["half", "out"]].sum()
    # a run id with its seed: the first attempt of a repeated run has the same id
    lost = pd.MultiIndex.from_frame(english.loc[english["out"], ["run", "seed"]])
    kept = ~pd.MultiIndex.from_frame(scores[["run", "seed"]]).isin(lost)
    return scores[kept].reset_index(drop=True), table.reset_index()


def gains(scores: pd.DataFrame, *, collapsed: bool = False, headroom: bool = False) -> pd.DataFrame:
    """Compute the gain of every scored run over the mean baseline of its target and language.

    Args:
        scores: tidy score table (``helpers.study.store.SCORE_COLUMNS``).
        collapsed: whether collapsed runs count too (sensitivity analysis).
        headroom: subtract baseline seeds at even positions only and report those at odd ones in
            ``headroom``: the same run on both sides makes a slope out of its own noise.

    Returns:
        One row per encoder, condition, intermediate, target, language and seed: ``score`` and
        ``baseline`` (0 to 1), ``gain`` (points), ``gain_logit`` (chance-corrected, continuity 0.5 / n),
        ``gain_error`` (share of the error removed), ``gain_z`` (over ``baseline_sd``),
        ``baseline_seeds``, ``baseline_sd`` (points, pooled over languages), ``headroom`` (points) and
        the flags ``identity_pair``, ``same_source``, ``english``.

    Raises:
        BadRows: columns or baselines are missing, a run counts twice, or a value is not a score.
    """
    rows = clean(scores, collapsed=collapsed)
    # chance-corrected logits, kept finite by 0.5 / n at both ends
    guess = _fact(rows["target"], "chance", 0.0).astype(float)
    edge = np.minimum(0.5 / rows["n"].clip(lower=1).astype(float), 0.5)
    above = ((rows["value"] - guess) / (1 - guess)).clip(lower=edge, upper=1 - edge)
    rows["logit"] = np.log(above / (1 - above))
    base, arms = rows[rows["condition"] == "none"], rows[rows["condition"] != "none"]
    if arms.empty:
        raise BadRows("there are only baselines (condition 'none'); run some intermediates first.")
    cell, other = ["encoder", *CELL], None
    if headroom:
        # by position, even and odd; a baseline that trains nothing stands on both sides
        odd = base.groupby(cell)["seed"].rank(method="first").astype(int) % 2 == 0
        both = untrained(base)
        other, base = base[odd | both], base[~odd | both]
        if other.empty:
            raise BadRows("headroom needs at least two baseline seeds per target and language.")
    # mean baseline per target and language, and seed spread per target
    by = base.groupby(cell)
    means = by[["value", "logit"]].mean().set_axis(["baseline", "baseline_logit"], axis=1)
    pooled = by["value"].var().groupby(level=cell[:2]).transform("mean")
    means = means.assign(baseline_seeds=by.size(), baseline_sd=100 * np.sqrt(pooled))
    table = arms.merge(means.reset_index(), on=cell, how="left", validate="m:1")
    bare = table.loc[table["baseline"].isna(), cell].drop_duplicates()
    if len(bare):
        some = "; ".join(" ".join(map(str, c)) for c in bare.head(5).itertuples(index=False))
        said = f"{len(bare)} cells have scores but no baseline (condition 'none')"
        raise BadRows(f"{said}: {some}. Run those baselines, or leave these scores out.")
    out = table.rename(columns={"value": "score"})
    difference, room = out["score"] - out["baseline"], 1 - out["baseline"]
    out["gain"] = 100 * difference
    out["gain_logit"] = out["logit"] - out["baseline_logit"]
    out["gain_error"] = difference / room.where(room > 0)
    out["gain_z"] = out["gain"] / out["baseline_sd"].where(out["baseline_sd"] > 0)
    keep = [*ARM, *CELL, "seed", "metric", "n", "score", "baseline", *SCALES]
    out = out[[*keep, "baseline_seeds", "baseline_sd"]]
    if other is not None:
        out = out.join(100 * (1 - other.groupby(cell)["value"].mean().rename("headroom")), on=cell)
    out["english"] = out["language"] == "en"
    return add_flags(out).sort_values([*ARM, *CELL, "seed"], ignore_index=True)


def clean(scores: pd.DataFrame, *, collapsed: bool = False) -> pd.DataFrame:
    """Return the score rows that count, see `gains`: main metric, test split, finished, each once."""
    if missing := [c for c in NEEDED if c not in scores.columns]:
        raise BadRows(f"the score table lacks {', '.join(missing)}; it has {list(scores.columns)}.")
    use = {"done", "collapsed"} if collapsed else {"done"}
    rows = scores[(scores["stage"] == "target") & (scores["split"] == "test")]
    rows = rows[rows["status"].isin(use)]
    if rows.empty:
        have = sorted(map(str, scores["split"].unique()))
        raise BadRows(f"no finished score of split 'test' is there (splits: {have}); run the plan.")
    main = {t: _metric(str(t), set(g["metric"])) for t, g in rows.groupby("target")}
    rows = rows[rows["metric"] == rows["target"].map(main)]
    if bad := int((~rows["value"].between(0, 1)).sum()):
        raise BadRows(f"{bad} finished scores are missing or outside 0 to 1.")
    twice = rows.duplicated(key := [*ARM, *CELL, "seed"])
    if twice.any():
        row = rows.loc[twice, key].iloc[0].to_dict()
        raise BadRows(f"two scores for {row}: keep one store or one set of settings per table.")
    return rows.reset_index(drop=True)


def _metric(target: str, present: set[str]) -> str:
    """Return the main metric of a target: that of the task facts, or the only one."""
    chosen = tasks.get(target).metric if target in tasks.names() else ""
    if chosen in present or len(present) == 1:
        return chosen if chosen in present else min(present)
    said = f"target {target!r} has the metrics {sorted(present)}, not {chosen!r}"
    raise BadRows(f"{said}: register the task with its main metric, or keep one metric's rows.")


def untrained(rows: pd.DataFrame) -> pd.Series:
    """Tell which runs trained nothing, so that another seed would give the same score."""
    return (rows["condition"] == "none") & (rows["rows_trained"] == 0)


def add_flags(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``identity_pair`` and ``same_source`` from the task facts; false for unknown tasks."""
    pairs = list(zip(table["intermediate"].astype(str), table["target"].astype(str), strict=True))
    known = tasks.names()
    shared = {p: tasks.relation(*p) for p in set(pairs) if p[0] in known and p[1] in known}
    out = table.copy()
    for flag in ("identity_pair", "same_source"):
        out[flag] = [shared.get(p, {}).get(flag, False) for p in pairs]
    return out


def dyads(
    table: pd.DataFrame,
    *,
    condition: str = "single",
    english: bool = False,
    similarity: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Average gains into one row per dyad: seeds within a language first, then languages.

    Languages count the same. One that some intermediate lacks for a target is left out for all of that
    target's dyads, so that no dyad is averaged over easier languages.

    Args:
        table: what `gains` returned.
        condition, english: rows of this condition count, and whether English does.
        similarity: measures per dyad, a column each or long (``measure``, ``value``) as
            `helpers.similarity.measure` returns it; of its languages English is used.

    Returns:
        One row per encoder and dyad: gain on each scale, score, baseline, seeds, languages,
        languages_left_out, both formats, block, flags, and the similarity columns.

    Raises:
        BadRows: no row is left, a task's format is unknown, or a similarity is given twice.
    """
    rows = table[(table["condition"] == condition) & (english | (table["language"] != "en"))]
    if rows.empty:
        have = ", ".join(sorted(table["condition"].unique()))
        raise BadRows(f"no non-English gain of condition {condition!r} (have: {have}).")
    full = everywhere(rows)
    if not full.any():
        raise BadRows("no language is there for every intermediate of any target; run the plan.")
    dropped = rows[~full].groupby(["encoder", "target"])["language"].nunique()
    rows = rows[full]
    means = [*SCALES, "score", "baseline", *(["headroom"] if "headroom" in rows else [])]
    dyad = ["encoder", "intermediate", "target"]
    by_language = rows.groupby([*dyad, "language"])[means].mean()
    # skipna would hide a scale that one language cannot have; NaN says so
    average = by_language.groupby(level=dyad).mean()
    average = average.mask(by_language.isna().groupby(level=dyad).any())
    counts = rows.groupby(dyad).agg(seeds=("seed", "nunique"), languages=("language", "nunique"))
    out = average.join(counts).reset_index()
    left_out = dropped.reindex(pd.MultiIndex.from_frame(out[["encoder", "target"]])).fillna(0)
    out["languages_left_out"] = left_out.astype(int).to_numpy()
    out = add_formats(add_flags(out))
    return out if similarity is None else add_similarity(out, similarity)


def everywhere(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows are of a language that every arm of their target has; "" is the baseline."""
    by = ["encoder", "target"]
    arms = rows.groupby(by)["intermediate"].transform("nunique")
    return rows.groupby([*by, "language"])["intermediate"].transform("nunique") == arms


def add_formats(table: pd.DataFrame) -> pd.DataFrame:
    """Add both formats from the task facts, their block and ``same_format``."""
    out = table.copy()
    for role in ("intermediate", "target"):
        out[f"{role}_format"] = _fact(table[role].astype(str), "format", None)
        for unheard in table.loc[out[f"{role}_format"].isna(), role]:
            raise BadRows(f"the format of {unheard!r} is not known: register the task first.")
    out["block"] = out["intermediate_format"] + " x " + out["target_format"]
    out["same_format"] = (out["intermediate_format"] == out["target_format"]).astype(float)
    return out


def add_similarity(table: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """Add one column per similarity measure to a dyad table; wide or long, see `dyads`."""
    key = ["intermediate", "target"]
    for column in key:
        known("column", column, [*map(str, similarity.columns)])
    long = {"measure", "value"} <= set(similarity.columns)
    if long and "language" in similarity.columns:
        similarity = similarity[similarity["language"] == "en"]
    wide = similarity = similarity[similarity["target"].astype(str) != ""]
    if similarity.duplicated([*key, "measure"] if long else key).any():
        raise BadRows("the similarity table holds a dyad twice; keep one encoder and layer.")
    if long:
        wide = similarity.pivot(index=key, columns="measure", values="value").reset_index()
    measures = [c for c in wide.columns if c not in {*key, *table.columns}]
    out = table.merge(wide[[*key, *measures]], on=key, how="left", validate="m:1")
    if not measures or out[measures].isna().all(axis=None):
        raise BadRows("the similarity table has no value for any of these dyads; check task names.")
    return out


def scale_within(table: pd.DataFrame, outcome: str = "gain") -> pd.DataFrame:
    """Add ``<outcome>_within`` to a dyad table: standardised over the analysed dyads of each target.

    A slope is then in standard deviations of a target's gains, and no target rules it because its
    scores move more. Identity pairs lend neither mean nor spread. Where a target has fewer than two
    other dyads, or these do not differ, the column is missing.
    """
    own = table[outcome]
    if "identity_pair" in table:
        own = own.mask(table["identity_pair"].astype(bool))
    by = own.groupby([table[c] for c in ("encoder", "target") if c in table])
    spread = by.transform("std")
    scaled = (table[outcome] - by.transform("mean")) / spread.where(spread > 1e-12)
    return table.assign(**{f"{outcome}_within": scaled})


def trained_targets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose target is trained on English rows of its own: retrieval reads, untrained."""
    return table[_fact(table["target"], "format", "") != "retrieval"].reset_index(drop=True)


def _fact(targets: pd.Series, name: str, unknown: object) -> pd.Series:
    """Return a fact of each row's target; one that is not registered has the ``unknown`` one."""
    known = tasks.names()
    facts = {t: getattr(tasks.get(t), name) if t in known else unknown for t in targets.unique()}
    return targets.map(facts)


def exclude(table: pd.DataFrame) -> pd.DataFrame:
    """Return a dyad table without identity pairs, as the specification wants it."""
    return table[~table["identity_pair"]].reset_index(drop=True)


def measures_of(table: pd.DataFrame) -> list[str]:
    """Return the columns of a dyad table that are similarity measures."""
    own = {
        "encoder", "intermediate", "target", "score", "baseline", "headroom", "seeds", "languages",
        "languages_left_out", "intermediate_format", "target_format", "block", "same_format",
        "identity_pair", "same_source", *SCALES, "gain_within",
    }  # fmt: skip
    return [str(c) for c in table.select_dtypes("number").columns if c not in own]


def intervals(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of every dyad with a 95 % interval over seeds, English left out.

    Whole runs (means over the languages that all arms of a target have) of dyad and baseline are
    compared by Welch's interval. One that ran once borrows the spread of all arms of its target, pooled;
    a baseline that trains nothing (retrieval) has no noise.

    Returns:
        encoder, intermediate, target, gain (points), se, df, low, high, seeds, baseline_seeds,
        languages, own_noise (points, by the pooled spread of the dyad's own runs; the shared baseline's
        noise is not in it) and clear: the interval leaves out zero.
    """
    rows = clean(scores)
    rows = rows[(rows["language"] != "en") & rows["condition"].isin(["none", "single"])]
    by, arm = ["encoder", "target"], ["encoder", "target", "condition", "intermediate"]
    rows = rows[everywhere(rows)]
    if not (rows["condition"] == "single").any():
        raise BadRows("no language is there for all arms of any target; complete the runs first.")
    runs = rows.groupby([*arm, "seed"])["value"].agg(["mean", "size"])
    languages = rows.groupby(by)["language"].nunique().rename("languages")
    short = runs[runs["size"] < runs.join(languages, on=by)["languages"]]
    if len(short):
        _, target, _, intermediate, _ = short.index[0]
        said = f"seeds of {intermediate!r} on {target!r} differ in their languages"
        raise BadRows(f"{said}; complete the runs, or leave those seeds out.")
    each = (100 * runs["mean"]).groupby(level=arm).agg(["mean", "var", "size"])
    squares = (each["var"].fillna(0) * (each["size"] - 1)).groupby(level=by).sum()
    freedom = (each["size"] - 1).groupby(level=by).sum().rename("freedom")
    pooled = (squares / freedom.where(freedom > 0)).rename("pooled")
    exact = untrained(rows).groupby([rows[c] for c in by]).any().rename("exact")
    base = each.xs("none", level="condition").droplevel("intermediate").add_prefix("base_")
    out = each.xs("single", level="condition").reset_index()
    for column in (base, freedom, pooled, exact, languages):
        out = out.join(column, on=by)
    out["gain"] = out["mean"] - out["base_mean"]
    parts = [out["var"] / out["size"], (out["base_var"] / out["base_size"]).mask(out["exact"], 0.0)]
    total, spare = parts[0] + parts[1], [out["size"] - 1, (out["base_size"] - 1).clip(lower=1)]
    own = total > 0
    welch = total**2 / (parts[0] ** 2 / spare[0] + parts[1] ** 2 / spare[1])
    shares = 1 / out["size"] + (1 / out["base_size"]).mask(out["exact"], 0.0)
    out["se"] = np.sqrt(total.where(own, out["pooled"] * shares))
    out["df"] = welch.where(own, out["freedom"].where(out["freedom"] > 0))
    half = stats.t.ppf(0.975, out["df"]) * out["se"]
    out["low"], out["high"] = out["gain"] - half, out["gain"] + half
    out["own_noise"] = np.sqrt(out["pooled"] / out["size"])
    out["clear"] = (out["low"] > 0) | (out["high"] < 0)
    out = out.rename(columns={"size": "seeds", "base_size": "baseline_seeds"})
    names = ["encoder", "intermediate", "target", "gain", "se", "df", "low", "high", "seeds"]
    return out[[*names, "baseline_seeds", "languages", "own_noise", "clear"]]


def reliability(spread: pd.DataFrame) -> pd.DataFrame:
    """Return per target how far its gains rise above the noise of seeds.

    Args:
        spread: what `intervals` returned, of one encoder, without identity pairs.

    Returns:
        Indexed by target: dyads, seed_sd (points, between runs of one arm), gain_sd (between its
        dyads), reliability: the share of the variance of gains that is not seed noise, the baseline
        they share aside. At or below 0 seeds alone spread gains as far; missing where no arm ran twice.
    """
    noise = spread["own_noise"] ** 2
    by = spread.assign(noise=noise, seed=noise * spread["seeds"]).groupby("target")
    out = by.agg(dyads=("gain", "size"), seed_sd=("seed", "mean"), gain_sd=("gain", "std"))
    out["seed_sd"] = np.sqrt(out["seed_sd"])
    return out.assign(reliability=1 - by["noise"].mean() / out["gain_sd"] ** 2)
