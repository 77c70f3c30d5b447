"""Predict and score a target in every language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from helpers import formats, metrics
from helpers.data import Rows
from helpers.data import rows as load_rows
from helpers.errors import BadRows, HelpfulError, MissingData, unknown
from helpers.formats import Encoded, task_scores
from helpers.formats.encoded import join
from helpers.metrics import mining
from helpers.metrics.mining import Taken
from helpers.metrics.submissions import score_submission, write_submission
from helpers.models import network
from helpers.models.encoders import Encoder, can_trim, trim
from helpers.models.network import Network, outputs
from helpers.models.training import Tuned, training_task
from helpers.tasks import Task

__all__ = [
    "Prediction",
    "choose_layer",
    "evaluate",
    "floor",
    "layer_scores",
    "predict",
    "score_submission",
    "write_submission",
]

_T = TypeVar("_T")
_PARTS = ("precision", "recall")  # an F1 is stored without what it is made of


@dataclass(frozen=True)
class Prediction:
    """What a tuned encoder predicts for one language of a target."""

    language: str
    rows: Rows
    predictions: list[Any]  # one per row, as ``decode`` gives them; of retrieval: ``Taken`` vectors


def evaluate(
    tuned: Tuned,
    task: Task,
    languages: Sequence[str] | None = None,
    *,
    rows: int | None = None,
    split: str = "test",
    layer: int | None = None,
) -> list[dict[str, Any]]:
    """Score a target in many languages, without having seen a label of any but English.

    Args:
        tuned: a fine-tuned encoder; for retrieval targets without training, any encoder.
        task: the target.
        languages: languages to score; default: all of the task's.
        rows: at most so many rows per language, the same ones whenever asked.
        split: ``"test"`` or ``"dev"``.
        layer: hidden state that retrieval reads; ``None``: the last.

    Returns:
        One mapping per language and metric: ``task``, ``language``, ``split``, ``metric``,
        ``value`` (0 to 1), ``n`` (rows scored), ``status``, ``data_source``, ``data_hash``. The
        main metric of a language comes first. A language whose rows are not there, or cannot be
        read or scored, has one entry with the value NaN and the status ``"failed: why"``.

    Raises:
        UnknownName: a language the task does not have.
        HelpfulError: the encoder was not trained for the task.
    """
    predicted, lost = _predict(tuned, task, languages, rows, split, layer)
    task = replace(task, labels=_head_task(tuned, task).labels)
    entries: list[dict[str, Any]] = []
    for part in predicted:
        facts = {"data_source": part.rows.source, "data_hash": part.rows.fingerprint}
        try:
            values, count = _scores(task, part)
        except HelpfulError as error:
            lost[part.language] = f"language {part.language!r}: {error}"
            continue
        entries += [
            _entry(task, part.language, split, metric, value, count) | facts
            for metric, value in values.items()
            if metric not in _PARTS
        ]
    return entries + [
        _entry(task, language, split, task.metric, float("nan"), 0, f"failed: {why}")
        for language, why in lost.items()
    ]


def _scores(task: Task, part: Prediction) -> tuple[dict[str, float], int]:
    """Score one language: the values, and the number of rows or queries."""
    if task.format == "retrieval":
        values = retrieval_scores(task, part.rows, cast(Taken, part.predictions))
        return values, sum(row["side"] == "query" for row in part.rows)
    return task_scores(task, part.rows, part.predictions, part.language), len(part.rows)


def _entry(
    task: Task, language: str, split: str, metric: str, value: float, n: int, status: str = "done"
) -> dict[str, Any]:
    return {
        "task": task.name,
        "language": language,
        "split": split,
        "metric": metric,
        "value": value,
        "n": n,
        "status": status,
        "data_source": "",
        "data_hash": "",
    }


def predict(
    tuned: Tuned,
    task: Task,
    languages: Sequence[str] | None = None,
    *,
    rows: int | None = None,
    split: str = "test",
    layer: int | None = None,
) -> list[Prediction]:
    """Predict a target in many languages in one pass over length-sorted rows.

    Arguments as for :func:`evaluate`. Languages whose rows cannot be had are left out.
    """
    return list(_predict(tuned, task, languages, rows, split, layer)[0])


def floor(task: Task, *, rows: int | None = None) -> float:
    """Return the main metric of the best constant answer on a task's English development rows.

    A run that is not above it has learnt nothing of its task.
    """
    found = load_rows(task, "en", "dev", rows)
    constant = formats.get(task.format).constant(task, found)
    return task_scores(task, found, constant)[metrics.main(task.metric)]


def choose_layer(encoder: Encoder, task: Task, language: str = "de") -> int:
    """Choose the hidden state that retrieves best, on development data of one language.

    The choice is made once, for the plain encoder, and used for every checkpoint. Layers count from
    1; of equals, the highest.
    """
    scores = layer_scores(encoder, task, language)
    return max(scores, key=lambda layer: (scores[layer], layer))


def layer_scores(encoder: Encoder, task: Task, language: str = "de") -> dict[int, float]:
    """Score a retrieval target's development rows from each hidden state, in one pass.

    Args:
        encoder: the pretrained encoder.
        task: a retrieval target.
        language: one of its languages.

    Returns:
        The main metric, 0 to 1, by layer, from 1.

    Raises:
        MissingData: the rows of that language are not there.
    """
    chosen = list(range(1, encoder.layers + 1))
    found, lost = _predict(Tuned(encoder), task, [language], None, "dev", chosen)
    if lost:
        raise MissingData(f"no layer can be chosen for {task.name!r}: {lost[language]}")
    (part,) = found
    states = cast(Taken, part.predictions)
    main = metrics.main(task.metric)
    return {
        layer: retrieval_scores(task, part.rows, Taken(states.vectors[:, i], states.places))[main]
        for i, layer in enumerate(chosen)
    }


# --- Predicting -----------------------------------------------------------------------------------
def _predict(
    tuned: Tuned,
    task: Task,
    languages: Sequence[str] | None,
    limit: int | None,
    split: str,
    layer: int | Sequence[int] | None,
) -> tuple[Iterable[Prediction], dict[str, str]]:
    """Return predictions, made one language at a time when they are asked for, and what is lost.

    A language whose rows are not there or cannot be read is lost with the reason; the others go on.
    """
    head_task = _head_task(tuned, task)
    for language in languages or ():
        if language not in task.languages:
            raise unknown(f"language of {task.name!r}", language, task.languages)
    asked = task.languages if languages is None else languages
    found, lost = _kept(asked, lambda language: load_rows(task, language, split, limit))
    if task.format != "retrieval":
        coded, bad = _kept(
            found, lambda language: _encoded(tuned, task, head_task, found[language])
        )
        lost |= bad
        if not coded:
            return [], lost
        raw = _outputs(tuned, task, head_task, list(coded.values()), layer)
        kept = [found[language] for language in coded]
        labelled = replace(task, labels=head_task.labels)
        return _decoded(labelled, kept, list(coded.values()), raw, lost), lost
    if not found:
        return [], lost
    # The languages of a retrieval target share most candidates (Mewsli-X: a million).
    known: dict[str, int] = {}
    places = [
        np.fromiter((known.setdefault(row["text"], len(known)) for row in part), int, len(part))
        for part in found.values()
    ]
    texts = [{"side": "candidate", "text": text} for text in known]
    coded_texts = _encoded(tuned, task, head_task, texts)
    del texts, known  # A million texts must not stay while a million vectors are made.
    vectors = _outputs(tuned, task, head_task, [coded_texts], layer)["vector"]
    return (
        Prediction(part.language, part, cast(list[Any], Taken(vectors, place)))
        for part, place in zip(found.values(), places, strict=True)
    ), lost


def _kept(
    languages: Iterable[str], make: Callable[[str], _T]
) -> tuple[dict[str, _T], dict[str, str]]:
    """Make something of each language; say why where its rows do not allow it."""
    made: dict[str, _T] = {}
    lost: dict[str, str] = {}
    for language in languages:
        try:
            made[language] = make(language)
        except (BadRows, MissingData) as error:
            lost[language] = str(error)
    return made, lost


def _head_task(tuned: Tuned, task: Task) -> Task:
    """Return the task with the label set of the head that will answer it."""
    trained = training_task(task)
    if trained.name in tuned.heads:
        labels = tuned.tasks[trained.name].labels
        if task.labels and task.labels != labels and task.format in ("pair", "tagging"):
            raise HelpfulError(
                f"target {task.name!r} has the labels {task.labels}, but {trained.name!r} was "
                f"trained with {labels}; give both the same labels in the same order."
            )
        return replace(trained, labels=labels)
    if task.format == "retrieval":
        return replace(task, train_with="")
    raise HelpfulError(
        f"this encoder has no head for target {task.name!r}: fine-tune it on {trained.name!r} "
        f"first (it has heads for {sorted(tuned.heads) or 'nothing'}; a collapsed run has none)."
    )


def _encoded(tuned: Tuned, task: Task, head_task: Task, part: Sequence[dict[str, Any]]) -> Encoded:
    """Tokenise a set of rows."""
    longest = min(task.max_length, tuned.encoder.max_length)
    if head_task.name in tuned.heads:  # as long as what it was trained on, no longer
        longest = min(longest, head_task.max_length, tuned.settings.max_length)
    format_ = formats.get(task.format)
    return format_.encode(head_task, part, tuned.encoder, longest, False)


def _outputs(
    tuned: Tuned,
    task: Task,
    head_task: Task,
    coded: Sequence[Encoded],
    layer: int | Sequence[int] | None,
) -> dict[str, np.ndarray]:
    """Run the encoder over all sets at once, on the rows of its table that they use."""
    format_, settings = formats.get(task.format), tuned.settings
    small = tuned.encoder.prune(np.unique(np.concatenate([part.tokens for part in coded])))
    if layer and not isinstance(layer, Sequence) and can_trim(small):
        small, layer = trim(small, layer), None  # what lies above is not computed
    for part in coded:
        part.tokens = small.remap(part.tokens).astype(np.int32)
    device = network.best_device()
    precision = network.resolve_precision(settings.precision, device)
    head = tuned.heads.get(head_task.name) or format_.head(head_task, small.dimension, 0.0)
    packed = network.suits(small.model, device, precision)
    joined = Network(small.model, {task.name: head}, {task.name: format_}, packed=packed)
    return outputs(
        joined.to(device).eval(),
        task.name,
        join(coded),
        budget=network.forward_tokens(device),
        device=device,
        precision=precision,
        pooling=settings.pooling,
        layer=layer,
    )


def _decoded(
    task: Task,
    found: Sequence[Rows],
    coded: Sequence[Encoded],
    raw: dict[str, np.ndarray],
    lost: dict[str, str],
) -> Iterator[Prediction]:
    """Cut the joint outputs into languages and decode each; say why where that is not possible."""
    every = sum(len(part.tokens) for part in coded)
    sequences, tokens = 0, 0
    for rows, part in zip(found, coded, strict=True):
        mine = {
            name: array[tokens : tokens + len(part.tokens)]
            if len(array) == every
            else array[sequences : sequences + len(part)]
            for name, array in raw.items()
        }
        sequences, tokens = sequences + len(part), tokens + len(part.tokens)
        try:
            decoded = formats.get(task.format).decode(task, rows, part, mine)
        except HelpfulError as error:
            lost[rows.language] = f"language {rows.language!r}: {error}"
        else:
            yield Prediction(rows.language, rows, decoded)


# --- Retrieval ------------------------------------------------------------------------------------
def retrieval_scores(
    task: Task, rows: Sequence[dict[str, Any]], vectors: np.ndarray | Taken
) -> dict[str, float]:
    """Score a retrieval target in one language, from one vector per row; the main value first.

    ``accuracy`` asks for the nearest candidate of each query (Tatoeba), ``pair_f1`` mines pairs by
    ratio margin (BUCC), ``map@k`` and ``mrr@k`` rank the candidates (LAReQA, Mewsli-X).
    """
    base = task.metric.partition("@")[0]
    queries: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []
    is_query = np.zeros(len(rows), bool)
    # Memory-mapped rows are read once; of a million candidates only the ids are kept.
    for place, row in enumerate(rows):
        is_query[place] = row["side"] == "query"
        if is_query[place]:
            queries.append(row)
        else:
            candidates.append(row if base == "pair_f1" else {"id": row["id"]})
    for side, members in (("queries", queries), ("candidates", candidates)):
        if not members:
            raise BadRows(f"no {side} among {len(rows)} rows: retrieval needs both sides.")
    if not isinstance(vectors, Taken):
        vectors = Taken(vectors, np.arange(len(rows)))
    left, right = (Taken(vectors.vectors, vectors.places[side]) for side in (is_query, ~is_query))
    if base == "pair_f1":
        return _mined(queries, candidates, left, right)
    depth = int(task.metric.partition("@")[2] or 20) if base in ("map", "mrr") else 1
    # XTREME-R takes inner products, of vectors that its dual encoders normalise: cosines.
    found = mining.nearest(left, right, k=depth).index
    ids = np.array([row["id"] for row in candidates], dtype=object)
    ranked = [list(ids[places]) for places in found]
    gold = [row["gold"] for row in queries]
    if base == "accuracy":
        hits = [best[0] in right_ones for best, right_ones in zip(ranked, gold, strict=True)]
        return metrics.score("accuracy", [int(hit) for hit in hits], [1] * len(hits))
    return metrics.score(task.metric, ranked, gold)


def _mined(
    queries: list[dict[str, Any]], candidates: list[dict[str, Any]], left: Taken, right: Taken
) -> dict[str, float]:
    """Tune the threshold on one half of the queries, as there is no dev set; score the other."""
    texts = ([row["text"] for row in side] for side in (queries, candidates))
    ids = ([row["id"] for row in side] for side in (queries, candidates))
    pairs = mining.mine_texts(left, right, *texts, *ids)
    gold = [(row["id"], other) for row in queries for other in row["gold"]]
    first = np.array([mining.in_first_half(source) for source in pairs["source"]], bool)
    tuning = [pair for pair in gold if mining.in_first_half(pair[0])]
    tuned = mining.tune_threshold(pairs[first], tuning)
    kept = mining.apply_threshold(pairs[~first], tuned)
    values = metrics.score("pair_f1", kept, [p for p in gold if not mining.in_first_half(p[0])])
    return values | {"best_threshold_f1": mining.tune_threshold(pairs, gold).f1}
