"""Rank intermediate tasks for a target that nobody has run, from a study that somebody has."""

from __future__ import annotations

import pandas as pd

from helpers import findings, results, tasks
from helpers.book import interval, number
from helpers.errors import BadFit, HelpfulError
from helpers.stats import gains, prediction
from helpers.stats.confirmatory import PRIMARY, RANDOM
from helpers.study.profiles import Profile, get

COLUMNS = ("rank", "intermediate", "predicted", "low", "high", "helps", "best", "similarity")


def rank(
    target: str,
    profile: str,
    *,
    measure: str = PRIMARY,
    level: float = 0.95,
    mode: str = "missing",
    progress: bool = True,
) -> pd.DataFrame:
    """Rank the intermediates of a profile for a target of your own.

    The gains of the profile's study are read (or the study is run), the similarity of every
    intermediate to every target, yours among them, is measured, and the specified model predicts
    yours. Needs English training rows of the target, and no labels.

    Args:
        target: name of a registered task.
        profile: whose study to learn from; its data must be at hand.
        measure: similarity to predict from; one that needs no fine-tuned encoder.
        level: coverage of the intervals.
        mode: ``"stored"`` learns from what is there, ``"missing"`` runs the rest of the study.
        progress: whether a live study shows its progress.

    Returns:
        Best first: rank, intermediate, predicted (points of gain over languages other than English),
        low, high, helps (probability that the gain is above zero), best (probability of being the
        best of them), similarity. Without rows, and with a note, where the study is too small to
        predict from, or not there.

    Raises:
        UnknownName: no such task, profile or measure.
        HelpfulError: the study or the similarity cannot be had; the text says why.
    """
    chosen, own = get(profile), tasks.get(target)
    try:
        scores, _ = findings.usable(results.load(profile, mode=mode, progress=progress))
    except HelpfulError as error:
        if mode != "stored":
            raise
        return findings.nothing(f"Nothing to learn from: {error}", COLUMNS)
    targets = list(dict.fromkeys([*chosen.targets, own.name]))
    table = _similarity(chosen, targets, measure)
    dyads = gains.dyads(gains.gains(scores), similarity=table)
    try:
        new, known = _standard(table, dyads, own.name, measure)
        found = prediction.predict_gain(new, known, "gain", [measure], RANDOM, level=level)
    except BadFit as error:
        return findings.nothing(f"Nothing can be predicted: {error}", COLUMNS)
    return found.rename(columns={measure: "similarity"})[list(COLUMNS)]


def advice(ranked: pd.DataFrame) -> str:
    """Say in words what a ranking says of its first candidate, or why there is none.

    Args:
        ranked: what `rank` returned.
    """
    if ranked.empty:
        return findings.note(ranked) or "Nothing was ranked."
    top = ranked.iloc[0]
    gain = number(top["predicted"], unit=" points", sign=True)
    ends = interval(top["low"], top["high"], unit=" points")
    best, helps = (number(top[name], 0, scale=100, unit=" %") for name in ("best", "helps"))
    return (
        f"The first of the list is {top['intermediate']}, with a predicted gain of {gain} ({ends}). "
        f"If the model is right, it is the best of the candidates with a probability of {best} and "
        f"helps at all with one of {helps}."
    )


def _similarity(profile: Profile, targets: list[str], measure: str) -> pd.DataFrame:
    from helpers import similarity
    from helpers.similarity.inputs import Options

    table = similarity.measure(
        (list(profile.intermediates), targets),
        [measure],
        profile.encoder,
        seeds=(0,),
        progress=False,
        # As many as elsewhere in the book: what was read there is not read again.
        options=Options.sized(results.sampled_rows(profile.name)),
    )
    lacking = table[table["status"] != "done"]
    if len(lacking):
        row = lacking.iloc[0]
        raise HelpfulError(
            f"{measure} of {row['intermediate']} and {row['target']} is {row['status']}: "
            f"{row['reason']}"
        )
    return table


def _standard(
    table: pd.DataFrame, dyads: pd.DataFrame, target: str, measure: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the new dyads and the known ones, similarity on one scale, that of the known."""
    known = gains.exclude(dyads[dyads["target"] != target])
    raw = table[table["target"] == target].rename(columns={"value": measure})
    new = gains.add_formats(raw[["intermediate", "target", measure]])
    values = known[measure]
    if len(values) < 2 or not values.std() > 0:
        raise BadFit(f"{measure!r} does not vary over the {len(values)} dyads with a gain.")
    scaled = [
        part.assign(**{measure: (part[measure] - values.mean()) / values.std()})
        for part in (new, known)
    ]
    return scaled[0], scaled[1]
