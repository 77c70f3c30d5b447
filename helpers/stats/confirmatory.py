"""The confirmatory analysis, as the specification page of the book fixes it.

Nothing here is chosen by looking at gains; see ``book/specification.md``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from helpers import tasks
from helpers.errors import BadFit, BadRows
from helpers.stats import design, gains, permutation, reml
from helpers.stats.reml import Fit
from helpers.study.profiles import PROFILES

PRIMARY = "text_embedding"
RANDOM = ("intermediate", "target", "block")
DYAD = ("intermediate", "target")
TASKS = list(DYAD)
FORMATS = ("intermediate_format", "target_format")
# Slopes too small to matter, per outcome: in points, and in standard deviations of a target's gains.
NEGLIGIBLE = {"gain": 0.5, "gain_within": 0.1}
LEVEL = 0.05
DISTANCE = "syntactic"
LEAST = 5  # languages of a dyad whose slope on distance counts
SEEDS, ROWS = 3, 2000  # per dyad, and per task for the primary similarity
ILLUSTRATIVE = ("tiny", "demo")
# The controls of the specification, by how the names of their measures end.
CONTROLS = {
    "random encoder": "_random",
    "shuffled labels": "_shuffled",
    "early score": "early_score",
}
# Plans that were rewritten once the scores were known, by the commit that the scores name.
CHANGED = {
    "5b8ff98d86a9": "The plan was rewritten to what had been run four minutes after the scores were "
    "stored (commit a61c192): ten intermediates for eight, other targets, one seed for three, doubled "
    "learning rates, other epochs, batches and numbers of rows."
}


def departures(
    scores: pd.DataFrame,
    profile: str,
    similarity: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
) -> dict[str, str]:
    """Say where a study falls short of what the specification asks for.

    Args:
        scores, profile: tidy score table of the targets analysed, and the name of its profile, whose
            intermediate tasks and trained targets must all be there, in all languages but ``absent``.
        similarity: what `results.similarities` returned; None: not looked at.
        controls: what `multiverse.controls` returned; None or without rows: none was measured.

    Returns:
        A word for each departure, to the sentence that says it; empty if there is none.
    """
    out, chosen = dict[str, str](), PROFILES.get(profile)
    if profile in ILLUSTRATIVE:
        out["profile"] = f"The profile is {profile}, which the specification calls illustrative."
    elif chosen:  # a target that was given up in time may have baselines, and nothing else
        inside = scores["target"].isin(chosen.targets)
        inside &= scores["intermediate"].isin(["", *chosen.intermediates])
        if more := (~inside & (scores["condition"] == "single")).sum():
            out["tasks"] = f"{more} scores are of tasks that are not in the plan."
        scores = scores[inside]
    rest, lost = gains.usable(scores)
    if lost:
        out["targets without a baseline"] = " ".join(lost)
    done = rest[rest["status"] == "done"]
    # A run that collapsed twice is over: among as many finished ones it counts as run.
    failed, trained = rest[rest["status"] == "collapsed"], done[~gains.untrained(done)]
    over = failed.groupby("run").filter(lambda run: run["seed"].nunique() > 1)
    finished, twice = (t.groupby(["condition", *TASKS])["run"].nunique() for t in (trained, over))
    ran = finished + twice.reindex(finished.index, fill_value=0).clip(upper=finished)
    counts, base = (ran[ran.index.isin([c], 0)].droplevel(0) for c in ("single", "none"))
    for what, seeds, least in (("dyads", counts, SEEDS), ("trained baselines", base, 2 * SEEDS)):
        if few := (seeds < least).sum():
            said = f"{few} of {len(seeds)} {what} have fewer than {least} seeds"
            out[f"seeds of {what}"] = f"{said} (the fewest: {seeds.min()})."
    first, then = {*rest.query("condition == 'single'")["intermediate"]}, {*rest["target"]}
    if chosen and "profile" not in out:
        first |= {*chosen.intermediates}
        learning = gains.trained_targets(pd.DataFrame({"target": chosen.targets}))
        then |= {*learning["target"]}.difference(scores["target"])
    if (planned := len(first) * len(then)) > len(counts):
        out["missing dyads"] = f"{planned - len(counts)} of {planned} dyads have no finished run."
    known, short = {name: tasks.get(name) for name in tasks.names()}, []
    absent = chosen.absent if chosen else {}
    for target, part in done[done["target"].isin(known)].groupby("target"):
        seen = {*part.loc[gains.everywhere(part), "language"]}  # `gains.dyads` drops the others
        asked = {*known[str(target)].languages} - {"en", *absent.get(str(target), ())}
        if not asked <= seen:
            short.append(f"{target} in {len(asked & seen)} of {len(asked)}")
    if short:
        out["languages"] = f"Not every language was scored: {', '.join(short)}."
    if similarity is not None:
        own = similarity.query("measure == @PRIMARY and language == 'en'")
        own = own[own["target"].isin(rest["target"])]
        measured = pd.MultiIndex.from_frame(own.loc[own["value"].notna(), TASKS])
        if few := (~counts.index.isin(measured)).sum():
            out["similarity"] = f"{few} of {len(counts)} dyads have no {PRIMARY}."
        if (size := own["n"].max()) < ROWS:
            out["rows of text"] = f"Similarity was measured on {size:,} rows a task, not {ROWS:,}."
        # a bitext that nothing trains lends the English side of what it is tested on
        read = [known[t] for t in own["target"].unique() if t in known and not known[t].train_with]
        if bare := [task.name for task in read if not task.source.serving("en", "train")]:
            said = "comes from English sentences that are no training rows"
            out["text of targets"] = f"The similarity of {', '.join(bare)} {said}."
    there = " ".join(controls["measure"]) if controls is not None and len(controls) else ""
    if lacking := [what for what, sign in CONTROLS.items() if sign not in there]:
        out["controls"] = f"Controls were not measured: {', '.join(lacking)}."
    commits = sorted(scores["commit"].unique())
    for commit, said in CHANGED.items():
        if any(name.startswith(commit) for name in commits):
            out["plan changed after the scores"] = said
    if dirty := [name for name in commits if name.endswith("+changes")]:
        out["uncommitted code"] = f"Scores come from uncommitted code: {', '.join(dirty)}."
    return out


@dataclass(frozen=True)
class Confirmatory:
    """Result of `confirm`.

    Attributes:
        table: indexed by hypothesis: question, dyads, estimate, low, high, df, p (REML,
            Kenward-Roger), p_likelihood (likelihood ratio), p_permutation (within formats),
            p_smallest (what permutation could reach), and verdict in words.
        equivalence: two one-sided tests of H1's slope against the bound of the specification.
        fits: the REML fit per hypothesis, where there is one.
        notes: plain sentences a reader needs.
    """

    table: pd.DataFrame
    equivalence: pd.DataFrame
    fits: Mapping[str, Fit]
    notes: tuple[str, ...]


def confirm(
    dyads: pd.DataFrame,
    rows: pd.DataFrame | None = None,
    *,
    departs: Collection[str],
    controls: pd.DataFrame | None = None,
    outcome: str = "gain",
    n: int = 9999,
    seed: int = 0,
) -> Confirmatory:
    """Run H1, H2 and H3 in order, each with three ways of inference side by side.

    Args:
        dyads: dyad table of one encoder; identity pairs only lend their similarity to permutations.
        rows: what `gains.gains` returned with the column ``syntactic`` (distance) joined, for H3.
        departs: names of what `departures` returned; if there is any, every verdict is withheld.
        controls: what `multiverse.controls` returned; if one failed, every verdict is withheld.
        outcome: ``"gain"`` in points, or ``"gain_within"`` as `gains.scale_within` adds it.
        n, seed: relabellings.

    Raises:
        BadFit: H1 cannot be fitted; a later hypothesis that cannot is reported as such.
    """
    scaled = prepared(dyads, PRIMARY)
    used = scaled.dropna(subset=[outcome])
    test = partial(_answer, used, scaled, outcome, n=n, seed=seed)
    asked: dict[str, tuple[str, Callable[[], tuple[pd.Series, Fit]]]] = {
        "H1": ("slope above zero", partial(test, [])),
        "H2": ("slope above zero beside equal formats", partial(test, ["same_format"])),
    }
    if rows is not None:
        slopes = partial(_falling, rows, scaled, outcome, n, seed)
        asked["H3"] = (f"slope falls with {DISTANCE} distance", slopes)
    answers, fits, notes = dict[str, pd.Series](), dict[str, Fit](), list[str]()
    for name, (question, ask) in asked.items():
        try:
            row, fits[name] = ask()
            answers[name] = pd.concat([pd.Series({"question": question}), row])
        except BadFit as error:
            if name == "H1":
                raise
            notes.append(f"{name} was not tested: {error}")
    table = pd.DataFrame(answers).T.rename_axis("hypothesis")
    every = table.reindex(list(asked))  # one that could not be tested ends the sequence
    table["verdict"] = pd.Series(_verdicts(every), every.index)
    if departs:
        said = f"the study departs from its specification ({', '.join(departs)})"
        table["verdict"] = f"withheld: {said}"
    elif controls is not None and not controls["passed"].all():
        failed = ", ".join(controls.loc[~controls["passed"], "measure"])
        table["verdict"] = f"withheld: the control {failed} failed"
    unit = "points" if outcome == "gain" else "standard deviations of the target's gains"
    negligible = pd.DataFrame({unit: equivalence(fits["H1"], PRIMARY, NEGLIGIBLE[outcome])}).T
    notes = list(dict.fromkeys([*fits["H1"].notes, *notes]))
    return Confirmatory(table, negligible.rename_axis("bound in"), fits, tuple(notes))


def prepared(dyads: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Blank the gains of identity pairs and standardise a similarity over the dyads analysed; others go."""
    if measure not in dyads.columns:
        raise BadRows(f"the dyad table has no similarity {measure!r}; add it with gains.dyads.")
    if dyads["encoder"].nunique() > 1:
        raise BadRows("one encoder at a time: filter the dyad table by encoder.")
    known = dyads.dropna(subset=[measure]).copy()
    outcomes = known.columns.intersection(list(NEGLIGIBLE))
    known.loc[known["identity_pair"].astype(bool), outcomes] = np.nan
    here = known.loc[known["gain"].notna(), measure]
    if here.size < 2 or not here.std() > 0:
        raise BadFit(f"{measure!r} does not vary over the {here.size} dyads that have a gain.")
    known[measure] = (known[measure] - here.mean()) / here.std()
    return known


def analysed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the dyads that are analysed, with the primary similarity standardised over them."""
    return prepared(table, PRIMARY).dropna(subset=["gain"]).reset_index(drop=True)


def _answer(
    used: pd.DataFrame, scaled: pd.DataFrame, outcome: str, extra: list[str], n: int, seed: int
) -> tuple[pd.Series, Fit]:
    """Return the estimate with three p-values, and the fit."""
    fit = reml.crossed_reml(used, outcome, [PRIMARY, *extra], RANDOM)
    both = [PRIMARY, *extra], extra
    full, reduced = (reml.crossed_reml(used, outcome, f, RANDOM, reml=False) for f in both)
    row = fit[PRIMARY][["estimate", "low", "high", "df", "p"]]
    row["p_likelihood"] = reml.compare(full, reduced)
    try:
        found = permutation.qap(scaled, outcome, PRIMARY, *DYAD, FORMATS, n, seed, given=extra)
        row["p_permutation"], row["p_smallest"] = found.p, found.smallest
    except BadFit:
        row["p_permutation"] = row["p_smallest"] = np.nan
    return pd.concat([pd.Series({"dyads": fit.cross.rows}, dtype=object), row]), fit


def sloped(measure: str = PRIMARY) -> tuple[str, ...]:
    """Return the random effects of a model whose slope may differ between intermediates and targets."""
    return (*RANDOM, *(f"{measure}|{task}" for task in TASKS))


def _verdicts(table: pd.DataFrame) -> list[str]:
    """Say what the fixed sequence of tests, and its companion, allow to say."""
    out, going = [], True
    for name, row in table.iterrows():
        rejected = bool(row["p"] < LEVEL)
        right = rejected and (row["estimate"] > 0) == (name != "H3")
        if not going:
            out.append("not tested: an earlier hypothesis was not supported")
        elif not row["p_smallest"] < LEVEL:
            out.append("unsettled: too few tasks for the permutation to reach 5 %")
        elif rejected != bool(row["p_permutation"] < LEVEL):
            out.append("unsettled: model and permutation disagree")
        elif rejected and not right:
            out.append("contradicted: the slope has the other sign")
        else:
            out.append("supported" if right else "not supported")
        going = going and out[-1] == "supported"
    return out


def equivalence(fit: Fit, term: str, bound: float) -> pd.Series:
    """Test whether a slope lies within a bound above zero, by two one-sided tests (Schuirmann 1987)."""
    estimate, se, df = fit[term][["estimate", "se", "df"]]
    above = float(stats.t.sf((estimate + bound) / se, df))
    p = max(above, float(stats.t.cdf((estimate - bound) / se, df)))
    half = float(stats.t.ppf(1 - LEVEL, df)) * se
    ends = {"estimate": estimate, "low": estimate - half, "high": estimate + half}
    return pd.Series({**ends, "bound": bound, "p": p, "equivalent": p < LEVEL})


def _falling(
    rows: pd.DataFrame, scaled: pd.DataFrame, outcome: str, n: int, seed: int
) -> tuple[pd.Series, Fit]:
    """Return the answer to H3: the slope on similarity of each dyad's own slope on distance."""
    keep = [PRIMARY, "block", *FORMATS, "identity_pair"]
    facts = scaled.assign(identity_pair=scaled["gain"].isna())[[*TASKS, *keep]]
    single = rows.query("language != 'en' and condition == 'single'")
    by = single.groupby([*TASKS, "language"], as_index=False)
    means = by.agg(**{"gain": ("gain", "mean"), DISTANCE: (DISTANCE, "first")})
    means = means.dropna(subset=[DISTANCE]).merge(facts, on=TASKS)
    # a dyad stays one observation, in however many languages; distance counts in its own spread
    languages = means.groupby("language")[[DISTANCE]].first()
    means[DISTANCE] = means["language"].map(design.standardise(languages, [DISTANCE])[DISTANCE])
    slopes = distance_slopes(means, "gain", DISTANCE, keep)
    # the slope of an identity pair goes, as its gain did; its similarity stays for permutations
    slopes = slopes.assign(encoder="", gain=slopes["slope"])
    slopes = prepared(gains.scale_within(slopes), PRIMARY)
    return _answer(slopes.dropna(subset=[outcome]), slopes, outcome, [], n, seed)


def distance_slopes(
    data: pd.DataFrame, outcome: str, covariate: str, keep: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the least-squares slope on a language covariate within each dyad of five languages or more."""
    design.require(data, [*TASKS, outcome, covariate], [outcome, covariate])
    by = [*TASKS, *keep]
    x = data[covariate] - data.groupby(by)[covariate].transform("mean")
    parts = data[by].assign(xy=x * data[outcome], xx=x**2, languages=1)
    out = parts.groupby(by, as_index=False).sum()
    out = out[(out["languages"] >= LEAST) & (out["xx"] > 1e-12)]
    if out.empty:
        raise BadFit(f"no dyad has {LEAST} languages that differ in {covariate!r}: add languages.")
    out["slope"] = out["xy"] / out["xx"]
    return out.drop(columns=["xy", "xx"]).reset_index(drop=True)
