"""Predict and score a target in every language, and read and write submission folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from helpers import formats, metrics
from helpers.data import Rows
from helpers.data import rows as load_rows
from helpers.errors import HelpfulError, MissingData, unknown
from helpers.formats import Encoded
from helpers.formats.encoded import join
from helpers.metrics.neighbours import Taken
from helpers.metrics.submissions import score_submission, write_submission
from helpers.models import devices, tokenised
from helpers.models.encoders import Encoder, can_trim, trim
from helpers.models.network import Network
from helpers.models.packing import suits
from helpers.models.training import Tuned, training_task
from helpers.predicting import outputs, task_scores
from helpers.retrieving import retrieval_scores
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

_PARTS = ("precision", "recall")  # an F1 is stored without what it is made of


@dataclass(frozen=True)
class Prediction:
    """What a tuned encoder predicts for one language of a target.

    Attributes:
        language: the language.
        rows: the standard rows.
        predictions: one per row, in row order, as the format's ``decode`` gives them; vectors of
            retrieval are read by number, slice or ``numpy.asarray``.
    """

    language: str
    rows: Rows
    predictions: list[Any]


def evaluate(
    tuned: Tuned,
    task: Task,
    languages: Sequence[str] | None = None,
    *,
    rows: int | None = None,
    seed: int = 0,
    split: str = "test",
    layer: int | None = None,
    space: str = "raw",
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """Score a target in many languages, without having seen a label of any but English.

    Args:
        tuned: a fine-tuned encoder; for retrieval targets without training, any encoder.
        task: the target.
        languages: languages to score; default: all of the task's.
        rows: at most so many rows per language, drawn by ``seed``.
        seed: seed of that draw.
        split: ``"test"`` or ``"dev"``.
        layer: hidden state that retrieval reads; ``None``: the last.
        space: geometry in which retrieval compares, ``"raw"``, ``"centre"`` or ``"whiten"``.
        device: where to run; default: the first GPU, else the CPU.

    Returns:
        One mapping per language and metric: ``task``, ``language``, ``split``, ``metric``,
        ``value`` (0 to 1), ``n`` (rows scored), ``status``, ``data_source``, ``data_hash``. The
        main metric of a language comes first. A language whose data are not there has one entry
        with the value NaN and the status ``"failed: why"``.

    Raises:
        UnknownName: a language the task does not have.
        HelpfulError: the encoder was not trained for the task.
    """
    predicted, lost = _predict(tuned, task, languages, rows, seed, split, layer, device)
    scored = [entry for part in predicted for entry in _entries(tuned, task, part, split, space)]
    return scored + [
        _entry(task, language, split, task.metric, float("nan"), 0, f"failed: {why}")
        for language, why in lost.items()
    ]


def predict(
    tuned: Tuned,
    task: Task,
    languages: Sequence[str] | None = None,
    *,
    rows: int | None = None,
    seed: int = 0,
    split: str = "test",
    layer: int | None = None,
    device: torch.device | None = None,
) -> list[Prediction]:
    """Predict a target in many languages in one pass over length-sorted rows.

    Arguments as for :func:`evaluate`. Languages whose data are not there are left out.
    """
    return list(_predict(tuned, task, languages, rows, seed, split, layer, device)[0])


def floor(task: Task, *, rows: int | None = None, split: str = "dev") -> float:
    """Return the score of the best constant answer on a task's English rows.

    A run that is not above it has learnt nothing of its task.

    Args:
        task: a task with labels, tags or answers; not a retrieval task.
        rows: at most so many rows, drawn as training draws its development rows.
        split: which rows.

    Returns:
        The task's main metric, from 0 to 1.
    """
    found = load_rows(task, "en", split, rows)
    constant = formats.get(task.format).constant(task, found)
    return task_scores(task, found, constant)[metrics.main(task.metric)]


def choose_layer(
    encoder: Encoder, task: Task, language: str = "de", *, device: torch.device | None = None
) -> int:
    """Choose the hidden state that retrieves best, on development data of one language.

    The choice is made once, for the plain encoder, and used for every checkpoint.

    Args:
        encoder: the pretrained encoder.
        task: a retrieval target with a development split.
        language: the language that decides.
        device: where to run.

    Returns:
        The layer, from 1 to the encoder's number of layers; of equals, the highest.

    Raises:
        MissingData: the development rows of that language are not there.
    """
    scores = layer_scores(encoder, task, language, device=device)
    return max(scores, key=lambda layer: (scores[layer], layer))


def layer_scores(
    encoder: Encoder,
    task: Task,
    language: str = "de",
    *,
    split: str = "dev",
    layers: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> dict[int, float]:
    """Score a retrieval target in one language from each hidden state, in one pass.

    Args:
        encoder: the pretrained encoder.
        task: a retrieval target.
        language: one of its languages.
        split: ``"dev"`` or ``"test"``.
        layers: which hidden states; default: those of every layer, from 1.
        device: where to run.

    Returns:
        The main metric, 0 to 1, by layer.

    Raises:
        MissingData: the rows of that language are not there.
    """
    chosen = list(layers or range(1, encoder.layers + 1))
    found, lost = _predict(Tuned(encoder), task, [language], None, 0, split, chosen, device)
    if lost:
        raise MissingData(f"no layer can be chosen for {task.name!r}: {lost[language]}")
    (part,) = found
    states = cast(Taken, part.predictions)
    main = metrics.main(task.metric)
    return {
        layer: retrieval_scores(task, part.rows, Taken(states.vectors[:, place], states.places))[
            main
        ]
        for place, layer in enumerate(chosen)
    }


def _predict(
    tuned: Tuned,
    task: Task,
    languages: Sequence[str] | None,
    limit: int | None,
    seed: int,
    split: str,
    layer: int | Sequence[int] | None,
    device: torch.device | None,
) -> tuple[Iterable[Prediction], dict[str, str]]:
    """Return predictions, made one language at a time when they are asked for, and what is missing."""
    head_task = _head_task(tuned, task)
    found, lost = _rows(task, _languages(task, languages), limit, seed, split)
    if not found:
        return [], lost
    if task.format != "retrieval":
        coded = _encoded(tuned, task, head_task, found)
        raw = _outputs(tuned, task, head_task, coded, layer, device)
        return _decoded(replace(task, labels=head_task.labels), found, coded, raw), lost
    texts, places = _distinct(found)
    coded = _encoded(tuned, task, head_task, [texts])
    del texts  # A million texts must not stay while a million vectors are made.
    vectors = _outputs(tuned, task, head_task, coded, layer, device)["vector"]
    return _embedded(found, places, vectors), lost


def _encoded(
    tuned: Tuned, task: Task, head_task: Task, parts: Sequence[Sequence[dict[str, Any]]]
) -> list[Encoded]:
    """Tokenise several sets of rows."""
    format_, settings = formats.get(task.format), tuned.settings
    longest = min(task.max_length, tuned.encoder.max_length)
    if head_task.name in tuned.heads:  # as long as what it was trained on, no longer
        longest = min(longest, head_task.max_length, settings.max_length)
    return [
        tokenised.encode(format_, head_task, part, tuned.encoder, longest, False) for part in parts
    ]


def _outputs(
    tuned: Tuned,
    task: Task,
    head_task: Task,
    coded: Sequence[Encoded],
    layer: int | Sequence[int] | None,
    device: torch.device | None,
) -> dict[str, np.ndarray]:
    """Run the encoder over all sets at once, on the rows of its table that they use."""
    format_, settings = formats.get(task.format), tuned.settings
    used = np.unique(np.concatenate([part.tokens for part in coded]))
    small = tuned.encoder.prune(used)
    if layer and not isinstance(layer, Sequence) and can_trim(small):
        small, layer = trim(small, layer), None  # what lies above is not computed
    for part in coded:
        part.tokens = small.remap(part.tokens).astype(np.int32)
    device = device or devices.best_device()
    precision = devices.resolve_precision(settings.precision, device)
    head = tuned.heads.get(head_task.name) or format_.head(head_task, small.dimension, 0.0)
    packed = suits(small.model, device, precision)
    network = Network(small.model, {task.name: head}, {task.name: format_}, packed=packed)
    return outputs(
        network.to(device).eval(),
        task.name,
        join(coded),
        budget=devices.forward_tokens(device),
        device=device,
        precision=precision,
        pooling=settings.pooling,
        layer=layer,
    )


def _distinct(found: Sequence[Rows]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Return each text once, and the place of every row's text among them.

    The languages of a retrieval target share most candidates (Mewsli-X: a million).
    """
    known: dict[str, int] = {}
    places = [
        np.fromiter((known.setdefault(row["text"], len(known)) for row in part), int, len(part))
        for part in found
    ]
    return [{"side": "candidate", "text": text} for text in known], places


def _embedded(
    found: Sequence[Rows], places: Sequence[np.ndarray], vectors: np.ndarray
) -> Iterator[Prediction]:
    for part, place in zip(found, places, strict=True):
        yield Prediction(part.language, part, cast(list[Any], Taken(vectors, place)))


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


def _languages(task: Task, languages: Sequence[str] | None) -> Sequence[str]:
    for language in languages or ():
        if language not in task.languages:
            raise unknown(f"language of {task.name!r}", language, task.languages)
    return task.languages if languages is None else languages


def _rows(
    task: Task, languages: Sequence[str], limit: int | None, seed: int, split: str
) -> tuple[list[Rows], dict[str, str]]:
    found, lost = [], {}
    for language in languages:
        try:
            found.append(load_rows(task, language, split, limit, seed))
        except MissingData as error:
            lost[language] = str(error)
    return found, lost


def _decoded(
    task: Task, found: Sequence[Rows], coded: Sequence[Encoded], raw: dict[str, np.ndarray]
) -> Iterator[Prediction]:
    """Cut the joint outputs into languages and decode each."""
    format_ = formats.get(task.format)
    sequences, tokens = 0, 0
    for rows, part in zip(found, coded, strict=True):
        mine = {
            name: array[tokens : tokens + len(part.tokens)]
            if _by_token(array, coded)
            else array[sequences : sequences + len(part)]
            for name, array in raw.items()
        }
        yield Prediction(rows.language, rows, format_.decode(task, rows, part, mine))
        sequences, tokens = sequences + len(part), tokens + len(part.tokens)


def _by_token(array: np.ndarray, coded: Sequence[Encoded]) -> bool:
    return len(array) == sum(len(part.tokens) for part in coded)


def _entries(
    tuned: Tuned, task: Task, part: Prediction, split: str, space: str
) -> list[dict[str, Any]]:
    facts = {"data_source": part.rows.source, "data_hash": part.rows.fingerprint}
    task = replace(task, labels=_head_task(tuned, task).labels)
    if task.format == "retrieval":
        values = retrieval_scores(task, part.rows, cast(Taken, part.predictions), space)
        count = sum(row["side"] == "query" for row in part.rows)
    else:
        values = task_scores(task, part.rows, part.predictions, part.language)
        count = len(part.rows)
    return [
        _entry(task, part.language, split, metric, value, count, "done") | facts
        for metric, value in values.items()
        if metric not in _PARTS
    ]


def _entry(
    task: Task, language: str, split: str, metric: str, value: float, n: int, status: str
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
