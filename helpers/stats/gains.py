"""Gains: what an intermediate task adds to a target's score, per language and seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

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
        scores: tidy score table (``helpers.study.store.SCORE_COLUMNS``; columns not needed are ignored).
        split: rows of this split count.
        metrics: main metric per target; default: what the task facts say, or the only metric.
        chance: score of guessing per target, 0 to 1; default: what the task facts say, or 0.
        collapsed: whether collapsed runs count too (sensitivity analysis).
        headroom: subtract baseline seeds at even positions only (in sorted order) and report
            those at odd positions in ``headroom``. The same baseline run on both sides of a
            regression makes a slope out of its own noise.

    Returns:
        One row per encoder, condition, intermediate, target, language and seed:

        - ``score``, ``baseline`` (mean over baseline seeds), 0 to 1;
        - ``gain`` in points (0 to 100); ``gain_logit``, difference of chance-corrected logits with
          continuity 0.5 / n; ``gain_error``, share of the error removed; ``gain_z``, points over
          the baseline seeds' standard deviation for that target (NaN where it cannot be known);
        - ``baseline_seeds``, ``baseline_sd`` (points, pooled over languages);
        - ``headroom``: 100 minus the mean of the other baseline half, if asked for;
        - flags ``identity_pair``, ``same_source``, ``english``.

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
    _refuse_bare(table)
    out = _scales(table)
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
    """Return the score rows that count: main metric, one split, finished runs, each once.

    Args:
        scores, split, metrics, collapsed: as in `gains`.

    Raises:
        BadRows: a column is missing, nothing is left, values are no scores, or a run counts twice.
    """
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
    """Return the main metric of a target."""
    chosen = (metrics or {}).get(target, "")
    if not chosen and target in tasks.names():
        chosen = tasks.get(target).metric
    if not chosen and len(present) == 1:
        return next(iter(present))
    if chosen not in present:
        if len(present) == 1 and not (metrics or {}).get(target):
            return next(iter(present))
        raise BadRows(
            f"target {target!r} has the metrics {sorted(present)}, not {chosen!r}; name its main "
            f"metric: metrics={{{target!r}: ...}}."
        )
    return chosen


def _logit(rows: pd.DataFrame, chance: Mapping[str, float] | None) -> pd.Series:
    """Return chance-corrected logits, kept finite by 0.5 / n at both ends."""
    levels = {t: _chance(str(t), chance) for t in rows["target"].unique()}
    guess = rows["target"].map(levels).astype(float)
    edge = np.minimum(0.5 / rows["n"].clip(lower=1).astype(float), 0.5)
    above = ((rows["value"] - guess) / (1 - guess)).clip(lower=edge, upper=1 - edge)
    return pd.Series(np.log(above / (1 - above)), index=rows.index)


def _chance(target: str, chance: Mapping[str, float] | None) -> float:
    if chance is not None and target in chance:
        return float(chance[target])
    return float(tasks.get(target).chance) if target in tasks.names() else 0.0


def _split(base: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split baseline seeds by their position in sorted order: even, odd.

    A baseline that is not trained (retrieval) has no noise of its own and stands on both sides.
    """
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


def _refuse_bare(table: pd.DataFrame) -> None:
    bare = table[table["baseline"].isna()]
    if len(bare):
        cells = bare[["encoder", *CELL]].drop_duplicates()
        some = "; ".join(" ".join(map(str, c)) for c in cells.head(5).itertuples(index=False))
        raise BadRows(
            f"{len(cells)} cells have scores but no baseline (condition 'none'): {some}. Run those "
            "baselines, or leave these scores out."
        )


def _scales(table: pd.DataFrame) -> pd.DataFrame:
    """Add the four scales of gain."""
    out = table.rename(columns={"value": "score"})
    difference = out["score"] - out["baseline"]
    out["gain"] = 100 * difference
    out["gain_logit"] = out["logit"] - out["baseline_logit"]
    room = 1 - out["baseline"]
    out["gain_error"] = difference / room.where(room > 0)
    out["gain_z"] = out["gain"] / out["baseline_sd"].where(out["baseline_sd"] > 0)
    keep = [*ARM, *CELL, "seed", "metric", "n", "score", "baseline", *SCALES]
    return out[[*keep, "baseline_seeds", "baseline_sd"]]


def add_flags(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``identity_pair`` and ``same_source`` to a table with intermediates and targets.

    Both come from the task facts (`helpers.tasks.relation`); a pair with a task that is not
    registered shares nothing that is known, and both flags are false.
    """
    pairs = list(zip(table["intermediate"].astype(str), table["target"].astype(str), strict=True))
    shared = {pair: _shared(*pair) for pair in set(pairs)}
    out = table.copy()
    for flag in ("identity_pair", "same_source"):
        out[flag] = [shared[pair].get(flag, False) for pair in pairs]
    return out


def _shared(intermediate: str, target: str) -> dict[str, bool]:
    known = tasks.names()
    both = intermediate in known and target in known
    return tasks.relation(intermediate, target) if both else {}


def outcomes(scores: pd.DataFrame) -> pd.DataFrame:
    """Count runs by how they ended, per encoder, condition, intermediate and target.

    Args:
        scores: tidy score table.

    Returns:
        Columns encoder, condition, intermediate, target, done, collapsed, failed, not_applicable:
        numbers of seeds.
    """
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

    Languages count the same. A language that some intermediate lacks for a target is left out for
    all of that target's dyads, so that no dyad is averaged over easier languages.

    Args:
        table: what `gains` returned.
        condition: rows of this condition count.
        english: whether English counts among the languages.
        similarity: measures per dyad, either wide (``intermediate``, ``target`` and one column per
            measure) or long (``intermediate``, ``target``, ``measure``, ``value``), as
            `helpers.similarity.measure` returns it; of its languages English is used.
        formats: format per task; default: the task facts.

    Returns:
        One row per encoder and dyad: gain on each scale, ``score``, ``baseline``, ``seeds``,
        ``languages``, ``languages_left_out``, ``intermediate_format``, ``target_format``,
        ``block``, flags, and the similarity columns.

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
    keep, left_out = _common_languages(rows)
    out = _average(keep)
    out["languages_left_out"] = _per_target(out, left_out)
    out = add_formats(add_flags(out), formats)
    return out if similarity is None else add_similarity(out, similarity)


def _per_target(table: pd.DataFrame, counts: pd.Series) -> np.ndarray:
    index = pd.MultiIndex.from_frame(table[["encoder", "target"]])
    return counts.reindex(index).fillna(0).astype(int).to_numpy()


def _common_languages(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Keep the languages every dyad of a target has; count the others per target."""
    by = ["encoder", "target"]
    dyad_count = rows.groupby(by)["intermediate"].transform("nunique")
    have = rows.groupby([*by, "language"])["intermediate"].transform("nunique")
    full = have == dyad_count
    dropped = rows[~full].groupby(by)["language"].nunique()
    if not full.any():
        raise BadRows(
            "no language is there for every intermediate of any target; complete the runs first."
        )
    return rows[full], dropped


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    means = [*SCALES, "score", "baseline", *(["headroom"] if "headroom" in rows else [])]
    dyad = ["encoder", "intermediate", "target"]
    by_language = rows.groupby([*dyad, "language"])[means].mean()
    # skipna would hide a scale that one language cannot have; NaN says so
    out = by_language.groupby(level=dyad).mean()
    out = out.mask(by_language.isna().groupby(level=dyad).any())
    counts = rows.groupby(dyad).agg(seeds=("seed", "nunique"), languages=("language", "nunique"))
    return out.join(counts).reset_index()


def add_formats(table: pd.DataFrame, formats: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Add ``intermediate_format``, ``target_format``, ``block`` and ``same_format``.

    Args:
        table: a table with intermediates and targets.
        formats: format per task; default: the task facts.

    Raises:
        BadRows: the format of a task is not known.
    """
    out = table.copy()
    for role in ("intermediate", "target"):
        out[f"{role}_format"] = [_format(str(t), formats) for t in out[role]]
    out["block"] = out["intermediate_format"] + " x " + out["target_format"]
    out["same_format"] = (out["intermediate_format"] == out["target_format"]).astype(float)
    return out


def _format(task: str, formats: Mapping[str, str] | None) -> str:
    if formats and task in formats:
        return formats[task]
    if task in tasks.names():
        return tasks.get(task).format
    raise BadRows(f"the format of {task!r} is not known: register it, or pass formats={{...}}.")


def add_similarity(table: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """Add one column per similarity measure to a dyad table.

    Args:
        table: one row per dyad.
        similarity: wide or long, see `dyads`.

    Raises:
        UnknownName: the similarity table lacks the dyad's columns.
        BadRows: a dyad has two values of a measure, or no dyad has any.
    """
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


def exclude(
    table: pd.DataFrame, *, identity: bool = True, formats: Collection[str] = ()
) -> pd.DataFrame:
    """Return a dyad table without pairs the specification leaves out.

    Args:
        table: dyad table.
        identity: leave out identity pairs.
        formats: leave out targets of these formats, such as ``("retrieval",)``.
    """
    keep = pd.Series(True, index=table.index)
    if identity:
        keep &= ~table["identity_pair"]
    if formats:
        keep &= ~table["target_format"].isin(list(formats))
    return table[keep].reset_index(drop=True)


def measures_of(table: pd.DataFrame, known: Sequence[str] = ()) -> list[str]:
    """Return the columns of a dyad table that are similarity measures.

    Args:
        table: dyad table with similarity columns.
        known: further columns that are not measures.
    """
    own = {
        "encoder", "intermediate", "target", "score", "baseline", "headroom", "seeds", "languages",
        "languages_left_out", "intermediate_format", "target_format", "block", "same_format",
        "identity_pair", "same_source", *SCALES, *known,
    }  # fmt: skip
    numeric = table.select_dtypes("number").columns
    return [str(c) for c in numeric if c not in own]
