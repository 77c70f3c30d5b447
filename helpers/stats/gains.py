"""Gains: what an intermediate task adds to a target's score, per language and seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from helpers import tasks
from helpers.errors import BadRows, unknown

SCALES = ("gain", "gain_logit", "gain_error", "gain_z")
ARM = ["encoder", "condition", "intermediate"]
CELL = ["target", "language"]
NEEDED = [*ARM, *CELL, "split", "metric", "value", "n", "seed", "status"]


def gains(
    scores: pd.DataFrame,
    *,
    split: str = "test",
    metrics: Mapping[str, str] | None = None,
    chance: Mapping[str, float] | None = None,
    collapsed: bool = False,
    headroom: bool = False,
) -> pd.DataFrame:
    """Compute the gain of every scored run over the mean baseline of its target and language.

    Args:
        scores: tidy score table (``helpers.study.store.SCORE_COLUMNS``).
        split: rows of this split count.
        metrics, chance: main metric, and score of guessing (0 to 1), per target where the task facts
            are not to be asked.
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
    rows = clean(scores, split=split, metrics=metrics, collapsed=collapsed)
    rows["logit"] = _logit(rows, chance)
    base = rows[rows["condition"] == "none"]
    arms = rows[rows["condition"] != "none"]
    if arms.empty:
        raise BadRows("there are only baselines (condition 'none'); run some intermediates first.")
    subtrahend, covariate = _split(base) if headroom else (base, None)
    table = arms.merge(_baselines(subtrahend), on=["encoder", *CELL], how="left", validate="m:1")
    bare = table.loc[table["baseline"].isna(), ["encoder", *CELL]].drop_duplicates()
    if len(bare):
        some = "; ".join(" ".join(map(str, c)) for c in bare.head(5).itertuples(index=False))
        raise BadRows(
            f"{len(bare)} cells have scores but no baseline (condition 'none'): {some}. Run those "
            "baselines, or leave these scores out."
        )
    out = table.rename(columns={"value": "score"})
    difference, room = out["score"] - out["baseline"], 1 - out["baseline"]
    out["gain"] = 100 * difference
    out["gain_logit"] = out["logit"] - out["baseline_logit"]
    out["gain_error"] = difference / room.where(room > 0)
    out["gain_z"] = out["gain"] / out["baseline_sd"].where(out["baseline_sd"] > 0)
    keep = [*ARM, *CELL, "seed", "metric", "n", "score", "baseline", *SCALES]
    out = out[[*keep, "baseline_seeds", "baseline_sd"]]
    if covariate is not None:
        other = covariate.groupby(["encoder", *CELL])["value"].mean().rename("other")
        out = out.merge(other.reset_index(), on=["encoder", *CELL], how="left")
        out["headroom"] = 100 * (1 - out.pop("other"))
    out["english"] = out["language"] == "en"
    return add_flags(out).sort_values([*ARM, *CELL, "seed"], ignore_index=True)


def clean(
    scores: pd.DataFrame,
    *,
    split: str = "test",
    metrics: Mapping[str, str] | None = None,
    collapsed: bool = False,
) -> pd.DataFrame:
    """Return the score rows that count, see `gains`: main metric, one split, finished runs, each once."""
    missing = [c for c in NEEDED if c not in scores.columns]
    if missing:
        raise BadRows(f"the score table lacks {', '.join(missing)}; it has {list(scores.columns)}.")
    use = {"done", "collapsed"} if collapsed else {"done"}
    rows = scores[(scores["split"] == split) & scores["status"].isin(use)]
    rows = rows[rows["target"].astype(str) != ""].copy()
    if "stage" in rows.columns:
        rows = rows[rows["stage"] == "target"]
    if rows.empty:
        have = sorted(map(str, scores["split"].unique()))
        raise BadRows(
            f"no finished score of split {split!r} is there (splits: {have}); run the plan first, "
            "or name another split."
        )
    main = {t: _metric(str(t), set(g["metric"]), metrics) for t, g in rows.groupby("target")}
    rows = rows[rows["metric"] == rows["target"].map(main)]
    bad = ~rows["value"].between(0, 1)
    if bad.any():
        raise BadRows(f"{int(bad.sum())} finished scores are missing or outside 0 to 1.")
    key = [*ARM, *CELL, "seed"]
    if rows.duplicated(key).any():
        row = rows.loc[rows.duplicated(key), key].iloc[0].to_dict()
        raise BadRows(f"two scores for {row}: keep one store or one set of settings per table.")
    return rows.reset_index(drop=True)


def _metric(target: str, present: set[str], metrics: Mapping[str, str] | None) -> str:
    """Return the main metric of a target: the one named, that of the task facts, or the only one."""
    named = (metrics or {}).get(target, "")
    chosen = named or (tasks.get(target).metric if target in tasks.names() else "")
    if chosen in present:
        return chosen
    if len(present) == 1 and not named:
        return next(iter(present))
    raise BadRows(
        f"target {target!r} has the metrics {sorted(present)}, not {chosen!r}; name its main "
        f"metric: metrics={{{target!r}: ...}}."
    )


def _logit(rows: pd.DataFrame, chance: Mapping[str, float] | None) -> pd.Series:
    """Return chance-corrected logits, kept finite by 0.5 / n at both ends."""
    known, given = tasks.names(), chance or {}
    levels = {
        t: float(given[t] if t in given else tasks.get(t).chance if t in known else 0.0)
        for t in rows["target"].astype(str).unique()
    }
    guess = rows["target"].astype(str).map(levels).astype(float)
    edge = np.minimum(0.5 / rows["n"].clip(lower=1).astype(float), 0.5)
    above = ((rows["value"] - guess) / (1 - guess)).clip(lower=edge, upper=1 - edge)
    return pd.Series(np.log(above / (1 - above)), index=rows.index)


def _split(base: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split baseline seeds by position, even and odd; one that trains nothing stands on both sides."""
    position = base.groupby(["encoder", *CELL])["seed"].rank(method="first").astype(int) - 1
    both = untrained(base)
    even, odd = base[(position % 2 == 0) | both], base[(position % 2 == 1) | both]
    if len(odd) == 0:
        raise BadRows("headroom needs at least two baseline seeds per target and language.")
    return even, odd


def untrained(rows: pd.DataFrame) -> pd.Series:
    """Tell which runs trained nothing, so that another seed would give the same score."""
    if "rows_trained" not in rows.columns:
        return pd.Series(False, index=rows.index)
    return (rows["condition"] == "none") & (rows["rows_trained"] == 0)


def _baselines(base: pd.DataFrame) -> pd.DataFrame:
    """Return mean baseline per target and language, and seed spread per target."""
    cells = base.groupby(["encoder", *CELL])
    table = cells.agg(
        baseline=("value", "mean"),
        baseline_logit=("logit", "mean"),
        baseline_seeds=("seed", "size"),
    ).reset_index()
    table["variance"] = cells["value"].var(ddof=1).to_numpy()
    pooled = table.groupby(["encoder", "target"])["variance"].transform("mean")
    table["baseline_sd"] = 100 * np.sqrt(pooled)
    return table.drop(columns="variance")


def add_flags(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``identity_pair`` and ``same_source`` from the task facts; false for unknown tasks."""
    pairs = list(zip(table["intermediate"].astype(str), table["target"].astype(str), strict=True))
    known = tasks.names()
    shared = {p: tasks.relation(*p) for p in set(pairs) if p[0] in known and p[1] in known}
    out = table.copy()
    for flag in ("identity_pair", "same_source"):
        out[flag] = [shared.get(p, {}).get(flag, False) for p in pairs]
    return out


def outcomes(scores: pd.DataFrame) -> pd.DataFrame:
    """Count seeds by how they ended (done, collapsed, failed, not_applicable), per dyad and arm."""
    status = scores["status"].astype(str).str.split(":").str[0].str.replace(" ", "_")
    table = scores.assign(status=status)[[*ARM, "target", "seed", "status"]].drop_duplicates()
    counts = table.groupby([*ARM, "target", "status"]).size().unstack(fill_value=0)
    wanted = ["done", "collapsed", "failed", "not_applicable"]
    return counts.reindex(columns=wanted, fill_value=0).reset_index().rename_axis(columns=None)


def dyads(
    table: pd.DataFrame,
    *,
    condition: str = "single",
    english: bool = False,
    similarity: pd.DataFrame | None = None,
    formats: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Average gains into one row per dyad: seeds within a language first, then languages.

    Languages count the same. One that some intermediate lacks for a target is left out for all of that
    target's dyads, so that no dyad is averaged over easier languages.

    Args:
        table: what `gains` returned.
        condition, english: rows of this condition count, and whether English does.
        similarity: measures per dyad, a column each or long (``measure``, ``value``) as
            `helpers.similarity.measure` returns it; of its languages English is used.
        formats: format per task where the task facts are not to be asked.

    Returns:
        One row per encoder and dyad: gain on each scale, score, baseline, seeds, languages,
        languages_left_out, both formats, block, flags, and the similarity columns.

    Raises:
        BadRows: no row is left, a task's format is unknown, or a similarity is given twice.
    """
    rows = table[table["condition"] == condition]
    rows = rows if english else rows[rows["language"] != "en"]
    if rows.empty:
        have = ", ".join(sorted(table["condition"].unique()))
        raise BadRows(
            f"no {'' if english else 'non-English '}gain of condition {condition!r} (have: {have})."
        )
    # a language counts where every dyad of the target has it
    by = ["encoder", "target"]
    dyad_count = rows.groupby(by)["intermediate"].transform("nunique")
    full = rows.groupby([*by, "language"])["intermediate"].transform("nunique") == dyad_count
    if not full.any():
        raise BadRows(
            "no language is there for every intermediate of any target; complete the runs first."
        )
    out = _average(rows[full])
    dropped = rows[~full].groupby(by)["language"].nunique()
    counts = dropped.reindex(pd.MultiIndex.from_frame(out[by]))
    out["languages_left_out"] = counts.fillna(0).astype(int).to_numpy()
    out = add_formats(add_flags(out), formats)
    return out if similarity is None else add_similarity(out, similarity)


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """Average seeds within a language, then languages."""
    means = [*SCALES, "score", "baseline", *(["headroom"] if "headroom" in rows else [])]
    dyad = ["encoder", "intermediate", "target"]
    by_language = rows.groupby([*dyad, "language"])[means].mean()
    # skipna would hide a scale that one language cannot have; NaN says so
    out = by_language.groupby(level=dyad).mean()
    out = out.mask(by_language.isna().groupby(level=dyad).any())
    counts = rows.groupby(dyad).agg(seeds=("seed", "nunique"), languages=("language", "nunique"))
    return out.join(counts).reset_index()


def add_formats(table: pd.DataFrame, formats: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Add both formats, their block and ``same_format``; from the task facts where not given."""
    out, given, known = table.copy(), formats or {}, tasks.names()
    for role in ("intermediate", "target"):
        names = table[role].astype(str)
        if unheard := sorted(set(names) - set(given) - set(known)):
            raise BadRows(
                f"the format of {unheard[0]!r} is not known: register it, or pass formats={{...}}."
            )
        found = {t: given[t] if t in given else tasks.get(t).format for t in names.unique()}
        out[f"{role}_format"] = names.map(found)
    out["block"] = out["intermediate_format"] + " x " + out["target_format"]
    out["same_format"] = (out["intermediate_format"] == out["target_format"]).astype(float)
    return out


def add_similarity(table: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """Add one column per similarity measure to a dyad table; wide or long, see `dyads`."""
    key = ["intermediate", "target"]
    for column in key:
        if column not in similarity.columns:
            raise unknown("column", column, map(str, similarity.columns))
    long = {"measure", "value"} <= set(similarity.columns)
    if long and "language" in similarity.columns:
        similarity = similarity[similarity["language"] == "en"]
    wide = similarity = similarity[similarity["target"].astype(str) != ""]
    if similarity.duplicated([*key, "measure"] if long else key).any():
        raise BadRows("the similarity table holds a dyad twice; keep one encoder and layer.")
    if long:
        wide = similarity.pivot(index=key, columns="measure", values="value").reset_index()
        wide.columns.name = None
    measures = [c for c in wide.columns if c not in {*key, *table.columns}]
    out = table.merge(wide[[*key, *measures]], on=key, how="left", validate="m:1")
    if not measures or out[measures].isna().all(axis=None):
        raise BadRows("the similarity table has no value for any of these dyads; check task names.")
    return out


def exclude(table: pd.DataFrame) -> pd.DataFrame:
    """Return a dyad table without identity pairs, as the specification wants it."""
    return table[~table["identity_pair"]].reset_index(drop=True)


def measures_of(table: pd.DataFrame) -> list[str]:
    """Return the columns of a dyad table that are similarity measures."""
    own = {
        "encoder", "intermediate", "target", "score", "baseline", "headroom", "seeds", "languages",
        "languages_left_out", "intermediate_format", "target_format", "block", "same_format",
        "identity_pair", "same_source", *SCALES,
    }  # fmt: skip
    return [str(c) for c in table.select_dtypes("number").columns if c not in own]


def intervals(scores: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return the gain of every dyad with an interval over seeds, English left out.

    Whole runs (means over the languages that all arms of a target have) of dyad and baseline are
    compared by Welch's interval. A dyad or baseline that ran once borrows the spread of all arms of its
    target, pooled. A baseline that trains nothing (retrieval) has no noise.

    Args:
        scores: tidy score table.
        level: coverage aimed at.

    Returns:
        encoder, intermediate, target, gain (points), se, df, low, high, seeds, baseline_seeds,
        languages, own_noise (points, by the pooled spread of the dyad's own runs; the shared baseline's
        noise is not in it), spread (``"own runs"``, ``"other runs of the target"``, ``"unknown"``) and
        clear: the interval leaves out zero.
    """
    rows = clean(scores)
    rows = rows[(rows["language"] != "en") & rows["condition"].isin(["none", "single"])]
    by, arm = ["encoder", "target"], ["encoder", "target", "condition", "intermediate"]
    rows = rows.assign(arm=rows["condition"] + " " + rows["intermediate"].astype(str))
    arms = rows.groupby(by)["arm"].transform("nunique")
    rows = rows[rows.groupby([*by, "language"])["arm"].transform("nunique") == arms]
    if not (rows["condition"] == "single").any():
        raise BadRows("no language is there for all arms of any target; complete the runs first.")
    runs = rows.groupby([*arm, "seed"])["value"].agg(["mean", "size"])
    languages = rows.groupby(by)["language"].nunique().rename("languages")
    runs = runs.join(languages, on=by)
    if (short := runs[runs["size"] < runs["languages"]]).size:
        _, target, _, intermediate, _ = short.index[0]
        raise BadRows(
            f"seeds of {intermediate!r} on {target!r} differ in their languages; complete the runs, "
            "or leave those seeds out."
        )
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
    half = stats.t.ppf(0.5 + level / 2, out["df"]) * out["se"]
    out["low"], out["high"] = out["gain"] - half, out["gain"] + half
    out["own_noise"] = np.sqrt(out["pooled"] / out["size"])
    borrowed = np.where(half.notna(), "other runs of the target", "unknown")
    out["spread"] = np.where(own, "own runs", borrowed)
    out["clear"] = (out["low"] > 0) | (out["high"] < 0)
    out = out.rename(columns={"size": "seeds", "base_size": "baseline_seeds"})
    names = ["encoder", "intermediate", "target", "gain", "se", "df", "low", "high", "seeds"]
    return out[[*names, "baseline_seeds", "languages", "own_noise", "spread", "clear"]]
