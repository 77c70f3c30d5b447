"""Predict and score a target in every language."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from helpers import formats, metrics
from helpers.data import Rows
from helpers.data import rows as load_rows
from helpers.errors import BadRows, HelpfulError, MissingData, known
from helpers.formats import Encoded, join, task_scores
from helpers.metrics import Scores, mining
from helpers.metrics.mining import Taken
from helpers.models.encoders import Encoder, can_trim, trim
from helpers.models.network import Network
from helpers.models.training import Tuned, training_task
from helpers.tasks import Task

_PARTS = ("precision", "recall")  # an F1 is stored without what it is made of
Layer = int | Sequence[int] | None
Names = Sequence[str] | None
Row = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """What a tuned encoder predicts for one language of a target."""

    language: str
    rows: Rows
    predictions: Any  # one per row, as ``decode`` gives them; of retrieval: ``Taken`` vectors


def evaluate(
    tuned: Tuned,
    task: Task,
    languages: Names = None,
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
    task, entries = replace(task, labels=_head_task(tuned, task).labels), list[Row]()
    for part in predicted:
        try:
            if task.format == "retrieval":
                values = retrieval_scores(task, part.rows, part.predictions)
                count = sum(row["side"] == "query" for row in part.rows)
            else:
                values = task_scores(task, part.rows, part.predictions, part.language)
                count = len(part.rows)
        except HelpfulError as error:
            lost[part.language] = f"language {part.language!r}: {error}"
            continue
        source = {"data_source": part.rows.source, "data_hash": part.rows.fingerprint}
        facts = {"n": count, "status": "done"} | source
        kept = [{"metric": m, "value": v} for m, v in values.items() if m not in _PARTS]
        entries += [{"language": part.language, "split": split} | one | facts for one in kept]
    # What was lost comes last, with the reason in place of a value.
    for language, why in lost.items():
        facts = {"n": 0, "status": f"failed: {why}", "data_source": "", "data_hash": ""}
        none = {"metric": task.metric, "value": float("nan")}
        entries.append({"language": language, "split": split} | none | facts)
    return [{"task": task.name} | entry for entry in entries]


def predict(tuned: Tuned, task: Task, languages: Names = None, **how: Any) -> list[Prediction]:
    """Predict as :func:`evaluate` does, asked alike; languages without rows are left out."""
    return list(_predict(tuned, task, languages, **how)[0])


def floor(task: Task, *, rows: int | None = None) -> float:
    """Return the score of the best constant answer to English dev rows; a useful run is above it."""
    found = load_rows(task, "en", "dev", rows)
    constant = formats.get(task.format).constant(task, found)
    return task_scores(task, found, constant)[metrics.get(task.metric).main]


def choose_layer(encoder: Encoder, task: Task, language: str = "de") -> int:
    """Choose the hidden state (from 1; of equals the highest) that retrieves best on development data."""
    scores = layer_scores(encoder, task, language)
    return max(scores, key=lambda layer: (scores[layer], layer))


def layer_scores(
    encoder: Encoder, task: Task, language: str = "de", split: str = "dev"
) -> dict[int, float]:
    """Return the main metric of a retrieval target's rows by layer, from 1, in one pass."""
    layers = list(range(1, encoder.layers + 1))
    found, lost = _predict(Tuned(encoder), task, [language], split=split, layer=layers)
    if lost:
        raise MissingData(f"no layer can be chosen for {task.name!r}: {lost[language]}")
    (part,) = found
    states, main = part.predictions, metrics.get(task.metric).main
    each = (Taken(states.vectors[:, i], states.places) for i in range(len(layers)))
    scores = (retrieval_scores(task, part.rows, vectors)[main] for vectors in each)
    return dict(zip(layers, scores, strict=True))


# --- Predicting -----------------------------------------------------------------------------------
def _predict(
    tuned: Tuned,
    task: Task,
    languages: Names,
    rows: int | None = None,
    split: str = "test",
    layer: Layer = None,
) -> tuple[Iterable[Prediction], dict[str, str]]:
    """Return predictions, made one language at a time when asked for, and why languages are lost."""
    head_task, asked = _head_task(tuned, task), task.languages if languages is None else languages
    for language in asked:
        known(f"language of {task.name!r}", language, task.languages)
    # As long as what the head was trained on, no longer.
    longest = min(task.max_length, tuned.encoder.max_length)
    if head_task.name in tuned.heads:
        longest = min(longest, head_task.max_length, tuned.settings.max_length)

    def encoded(some: Sequence[Row]) -> Encoded:
        return formats.get(task.format).encode(head_task, some, tuned.encoder, longest, False)

    found: dict[str, tuple[Rows, Any]] = {}
    lost: dict[str, str] = {}
    for language in asked:
        try:
            part = load_rows(task, language, split, rows)
            found[language] = part, encoded(part) if task.format != "retrieval" else None
        except (BadRows, MissingData) as error:
            lost[language] = str(error)
    # All languages pass through the encoder together, so that batches hold rows of one length.
    if task.format != "retrieval":
        coded = [each for _, each in found.values()]
        raw = _outputs(tuned, task, head_task, coded, layer) if coded else {}
        return _decoded(replace(task, labels=head_task.labels), found, raw, lost), lost
    # The languages of a retrieval target share most candidates (Mewsli-X: a million).
    seen: dict[str, int] = {}
    places = [
        np.fromiter((seen.setdefault(row["text"], len(seen)) for row in part), int, len(part))
        for part, _ in found.values()
    ]
    if not seen:
        return [], lost
    coded_texts = encoded([{"side": "candidate", "text": text} for text in seen])
    del seen  # A million texts must not stay while a million vectors are made.
    vectors = _outputs(tuned, task, head_task, [coded_texts], layer)["vector"]
    both = zip(found.values(), places, strict=True)
    return (Prediction(p.language, p, Taken(vectors, place)) for (p, _), place in both), lost


def _head_task(tuned: Tuned, task: Task) -> Task:
    """Return the task with the label set of the head that will answer it."""
    trained = training_task(task)
    if trained.name in tuned.heads:
        labels = tuned.tasks[trained.name].labels
        if task.labels and task.labels != labels and task.format in ("pair", "tagging"):
            said = f"{task.name!r} has the labels {task.labels} and {trained.name!r} has {labels}"
            raise HelpfulError(f"{said}; give both the same labels in the same order.")
        return replace(trained, labels=labels)
    if task.format == "retrieval":
        return replace(task, train_with="")
    raise HelpfulError(
        f"this encoder has no head for target {task.name!r} (it has heads for "
        f"{sorted(tuned.heads) or 'nothing'}; a collapsed run has none): fine-tune it on "
        f"{trained.name!r} first."
    )


def _outputs(
    tuned: Tuned, task: Task, head_task: Task, coded: Sequence[Encoded], layer: Layer
) -> dict[str, np.ndarray]:
    """Run the encoder over all sets at once, on the rows of its table that they use."""
    format_, settings = formats.get(task.format), tuned.settings
    # Of a table of 250,000 pieces these rows use a few thousand; the others would fill the memory.
    small = tuned.encoder.prune(np.unique(np.concatenate([part.tokens for part in coded])))
    if layer and not isinstance(layer, Sequence) and can_trim(small):
        small, layer = trim(small, layer), None  # what lies above is not computed
    for part in coded:
        part.tokens = small.remap(part.tokens).astype(np.int32)
    head = tuned.heads.get(head_task.name) or format_.head(head_task, small.dimension, 0.0)
    how: dict[str, Any] = {"precision": settings.precision, "packed": None}
    network = Network(small.model, {task.name: head}, {task.name: format_}, **how)
    return network.outputs(task.name, join(coded), pooling=settings.pooling, layer=layer)


def _decoded(
    task: Task, found: dict[str, tuple[Rows, Any]], raw: dict[str, Any], lost: dict[str, str]
) -> Iterator[Prediction]:
    """Cut the joint outputs into languages and decode each; say why where that is not possible."""
    every = sum(len(part.tokens) for _, part in found.values())
    sequences, tokens = 0, 0
    for language, (rows, part) in found.items():
        # Outputs are of tokens or of sequences.
        of_tokens = slice(tokens, tokens + len(part.tokens))
        of_sequences = slice(sequences, sequences + len(part))
        tokens, sequences = of_tokens.stop, of_sequences.stop
        mine = {k: v[of_tokens if len(v) == every else of_sequences] for k, v in raw.items()}
        try:
            decoded = formats.get(task.format).decode(task, rows, part, mine)
        except HelpfulError as error:
            lost[language] = f"language {language!r}: {error}"
        else:
            yield Prediction(language, rows, decoded)


# --- Retrieval ------------------------------------------------------------------------------------
def retrieval_scores(task: Task, rows: Sequence[Row], vectors: np.ndarray | Taken) -> Scores:
    """Score a retrieval target in one language, from one vector per row; the main value first."""
    base, _, cut = task.metric.partition("@")
    sides: dict[str, list[Row]] = {"query": [], "candidate": []}
    is_query = np.zeros(len(rows), bool)
    # Memory-mapped rows are read once; of a million candidates only the ids are kept.
    for place, row in enumerate(rows):
        is_query[place] = row["side"] == "query"
        whole = is_query[place] or base == "pair_f1"
        sides[row["side"]].append(row if whole else {"id": row["id"]})
    queries, candidates = sides.values()
    if not queries or not candidates:
        side = "candidates" if queries else "queries"
        raise BadRows(f"no {side} among {len(rows)} rows: retrieval needs both sides.")
    if not isinstance(vectors, Taken):
        vectors = Taken(vectors, np.arange(len(rows)))
    left, right = (Taken(vectors.vectors, vectors.places[side]) for side in (is_query, ~is_query))
    # BUCC mines pairs by margin; Tatoeba asks for the nearest candidate; LAReQA and Mewsli-X rank
    # them, by inner products of vectors that XTREME-R's dual encoders normalise: cosines.
    if base == "pair_f1":
        return _mined(queries, candidates, left, right)
    found = mining.nearest(left, right, k=1 if base == "accuracy" else int(cut or 20)).index
    ids = np.array([row["id"] for row in candidates], dtype=object)
    ranked, gold = [list(ids[places]) for places in found], [row["gold"] for row in queries]
    if base != "accuracy":
        return metrics.score(task.metric, ranked, gold)
    hits = [int(best[0] in members) for best, members in zip(ranked, gold, strict=True)]
    return metrics.score("accuracy", hits, [1] * len(hits))


def _mined(queries: list[Row], candidates: list[Row], left: Taken, right: Taken) -> Scores:
    """Tune the threshold on one half of the queries, as there is no dev set; score the other."""
    columns = [
        [row[name] for row in side] for name in ("text", "id") for side in (queries, candidates)
    ]
    pairs = mining.mine_texts(left, right, *columns)
    gold = [(row["id"], other) for row in queries for other in row["gold"]]
    # Both halves are mined together: what a threshold is tuned on is the score, not the search.
    first = np.array([mining.in_first_half(source) for source in pairs["source"]], bool)
    tuning = [pair for pair in gold if mining.in_first_half(pair[0])]
    tuned = mining.tune_threshold(pairs[first], tuning)
    kept = mining.apply_threshold(pairs[~first], tuned.value)
    values = metrics.score("pair_f1", kept, [p for p in gold if not mining.in_first_half(p[0])])
    return values | {"best_threshold_f1": mining.tune_threshold(pairs, gold).f1}
