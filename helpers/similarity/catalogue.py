"""The catalogue of measures: what each needs, what it computes, and how a reader adds one.

A measure is a function of arrays. Its ``needs`` name the arrays, in the order of the function's
arguments; ``helpers.similarity.gather`` knows how to get each of them (``needs()`` lists them).
Values are oriented: larger always means more similar.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helpers.errors import HelpfulError, unknown
from helpers.similarity import crosslingual, features, format, representations, text, transport
from helpers.similarity import weights as weight
from helpers.similarity.arrays import Floats, cosine

__all__ = [
    "FAMILIES",
    "Measure",
    "Undefined",
    "added",
    "get",
    "names",
    "register",
    "table",
    "unregister",
]

FAMILIES = (
    "text",
    "format",
    "labels",
    "representations",
    "weights",
    "transport",
    "cross-lingual",
    "custom",
)
# Rows used where cost grows with their square (pairs of rows) or their cube (assignments).
PAIRED = 500
# Rows of each side for the domain classifier, which takes two tasks at once.
DOMAIN = 1000
# Canonical axes kept on each side: few enough that noise scores low at 1,000 common sentences.
AXES = 50
# Weight of a task's own complexity in the asymmetric Task2Vec distance. The authors tune it for each
# use; this is a choice of this project, and its term depends on the intermediate alone.
COMPLEXITY = 0.1


class Undefined(HelpfulError):
    """A measure that does not exist for a pair of tasks; the text says why."""


@dataclass(frozen=True)
class Measure:
    """One measure of task similarity.

    Attributes:
        name: short lower-case name, the value of the column ``measure``.
        family: one of ``FAMILIES``.
        needs: names of the arrays it takes, in the order of the function's arguments.
        function: the arrays to a float, larger meaning more similar.
        source: paper and, where it differs, what differs.
        directed: whether swapping the tasks changes the value.
        per: ``"dyad"``, or ``"language"`` for a measure of an intermediate and a language.
        languages: whether it can be computed on the target's rows in another language.
        ceiling: whether its value between two seeds of one task is its noise ceiling.
        version: raise it to recompute values that were stored under the old definition.
    """

    name: str
    family: str
    needs: tuple[str, ...]
    function: Callable[..., float]
    source: str = ""
    directed: bool = False
    per: Literal["dyad", "language"] = "dyad"
    languages: bool = False
    ceiling: bool = False
    version: str = "1"

    @cached_property
    def key(self) -> str:
        """Hash of what determines a value beside its arrays: the definition and its code."""
        facts = (self.name, self.version, self.needs, _code(self.function))
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def _code(function: Callable[..., Any]) -> str:
    """Return text that changes when a function's own code does."""
    if isinstance(function, partial):
        given = [*function.args, *(value for _, value in sorted(function.keywords.items()))]
        # The text of a function has its address, which differs from process to process.
        texts = [_code(value) if callable(value) else repr(value) for value in given]
        return f"{_code(function.func)}{texts}{sorted(function.keywords)}"
    if getattr(function, "__module__", "").startswith("helpers.similarity"):
        return _package_code() + getattr(function, "__qualname__", "")
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return repr((code.co_code, code.co_consts, code.co_names)) if code else repr(function)


@cache
def _package_code() -> str:
    """Hash of the modules that define the measures of this package."""
    names = "arrays catalogue crosslingual features format representations text transport weights"
    folder = Path(__file__).parent
    content = b"".join((folder / f"{name}.py").read_bytes() for name in names.split())
    return hashlib.sha256(content).hexdigest()


_MEASURES: dict[str, Measure] = {}


def register(measure: Measure, *, replace: bool = False) -> Measure:
    """Add a measure to the catalogue, so that tables and figures show it.

    Args:
        measure: the measure to add.
        replace: overwrite a measure of the same name (handy in a notebook).

    Returns:
        The measure, unchanged.

    Raises:
        UnknownName: a family or a needed array that does not exist.
        HelpfulError: the name is taken and ``replace`` is false, it could not name a file, or the
            function's arguments do not fit the arrays it needs.
    """
    check(measure)
    if measure.name in _MEASURES and not replace:
        raise HelpfulError(f"measure {measure.name!r} exists; pass replace=True to overwrite it.")
    _MEASURES[measure.name] = measure
    return measure


def check(measure: Measure) -> None:
    """Refuse a measure that could never give a value; see ``register``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", measure.name):
        raise HelpfulError(
            f"measure {measure.name!r} needs a name of lower-case letters, digits, '_', '-' and '.': "
            "it names a column and a file."
        )
    if measure.family not in FAMILIES:
        raise unknown("family of measures", measure.family, FAMILIES)
    if isinstance(measure.needs, str):
        raise HelpfulError(
            f"needs of measure {measure.name!r} is the text {measure.needs!r}; a tuple was expected: "
            f"({measure.needs!r},)."
        )
    for need in measure.needs:
        if need not in NEEDS:
            raise unknown("array", need, NEEDS)
    try:
        inspect.signature(measure.function).bind(*measure.needs)
    except TypeError as error:
        raise HelpfulError(
            f"the function of measure {measure.name!r} cannot take {len(measure.needs)} arrays "
            f"({', '.join(measure.needs)}): {error}."
        ) from error
    except ValueError:
        return  # built-in functions may have no signature to check


def unregister(name: str) -> None:
    """Remove a measure from the catalogue."""
    _MEASURES.pop(name, None)


def get(name: str) -> Measure:
    """Return a measure by name.

    Raises:
        UnknownName: no such measure; the error lists the nearest names.
    """
    if name not in _MEASURES:
        raise unknown("measure", name, _MEASURES)
    return _MEASURES[name]


def names(family: str = "") -> list[str]:
    """Return the names of all measures, or of those of one family, in catalogue order."""
    return [m.name for m in _MEASURES.values() if family in ("", m.family)]


def added() -> list[str]:
    """Return the names of measures that a reader added or replaced in this process."""
    return [name for name, measure in _MEASURES.items() if _OWN.get(name) is not measure]


def table() -> list[dict[str, Any]]:
    """Return the facts of every measure, one mapping each, for a page."""
    return [
        {
            "measure": m.name,
            "family": m.family,
            "directed": m.directed,
            "needs": ", ".join(m.needs),
            "source": m.source,
        }
        for m in _MEASURES.values()
    ]


# Every array a measure can ask for: name -> what it is.
NEEDS: Mapping[str, str] = {
    **{
        f"{side}.{thing}": meaning.format(side=side)
        for side in ("intermediate", "target")
        for thing, meaning in {
            "facts": "the {side} as a Task",
            "texts": "list of its texts, one per sampled row",
            "segments": "number of texts encoded together for one decision",
            "pieces": "vocabulary ids of its texts, one after the other, no special ids",
            "counts": "how often each vocabulary id occurs, shape (vocabulary,)",
            "embeddings": "plain encoder's mean state of each row, shape (rows, D)",
            "sentences": "the same by the sentence encoder, shape (rows, D)",
            "features": "plain encoder's state of each labelled unit, shape (units, D)",
            "labels": "label of each unit, shape (units,)",
            "knn_probe": "accuracy of the nearest-neighbour probe on the plain features",
            "linear_probe": "accuracy of the linear probe on the plain features",
            "label_names": "plain encoder's embedding of each label name, shape (C, D)",
            "fisher": "mean squared gradient per row at its own tuned encoder, by component",
            "probe_fisher": "the same at the plain encoder with a fitted head, by filter, (P,)",
            "gradient": "unit gradient at the plain encoder, averaged over fitted heads, (P,)",
            "weights": "parameters of its tuned encoder, by component",
        }.items()
    },
    "tuned.features": "the intermediate's encoder on the target's labelled units, (units, D)",
    "tuned.probabilities": "the intermediate's head on the target's labelled units, (units, Z)",
    "tuned.own": "the intermediate's encoder on its own rows, shape (rows, D)",
    "tuned.map": "linear map from plain to tuned states of its own rows, shape (D + 1, D)",
    "tuned.losses": "masked-language loss of the target's rows after tuning, shape (rows,)",
    "plain.losses": "the same before tuning, shape (rows,)",
    "plain.weights": "parameters of the plain encoder, by component",
    "common.intermediate": "the intermediate's encoder on the common sentences, (rows, D)",
    "common.target": "the target's encoder on the common sentences, shape (rows, D)",
    "common.intermediate_axes": "the first of these on its leading principal axes",
    "common.target_axes": "the second of these on its leading principal axes",
    "study.centre": "mean over the tasks of the study of their mean embedding, shape (D,)",
    "study.whitening": "inverse root of the covariance of embeddings within tasks, (D, D)",
    "study.sentence_centre": "as study.centre, by the sentence encoder",
    "study.texts_with": "number of texts of the study that hold each piece, shape (vocabulary,)",
    "study.texts": "number of texts of the study",
    "early.score": "English score of the target after a short run from the intermediate",
    "parallel.tuned": "embeddings of English sentences and their translations after tuning",
    "parallel.plain": "the same before tuning",
    "parallel.tuned_losses": "masked-language loss of foreign sentences after tuning",
    "parallel.plain_losses": "the same before tuning",
}


def _centred(a: Floats, b: Floats, centre: Floats) -> float:
    return cosine(a.mean(axis=0) - centre, b.mean(axis=0) - centre, "centred task embeddings")


def _raw(a: Floats, b: Floats) -> float:
    return cosine(a.mean(axis=0), b.mean(axis=0), "task embeddings")


def _whitened(a: Floats, b: Floats, centre: Floats, root: Floats) -> float:
    first, second = ((x.mean(axis=0) - centre) @ root for x in (a, b))
    return cosine(first, second, "whitened task embeddings")


def _negative_mmd(a: Floats, b: Floats) -> float:
    return -text.mmd(a[_thinned(len(a), PAIRED)], b[_thinned(len(b), PAIRED)])


def _negative_perplexity(tuned: Floats, plain: Floats) -> float:
    return -text.pseudo_perplexity_change(tuned, plain)


def _nce(probabilities: Floats, labels: Sequence[int]) -> float:
    return features.nce(np.asarray(probabilities).argmax(axis=1), labels)


def _change(
    score: Callable[[Floats, Sequence[int]], float], tuned: Floats, labels: Any, plain: float
) -> float:
    """Score of the tuned features minus that of the plain ones."""
    return score(tuned, labels) - float(plain)


def _rsa(a: Floats, b: Floats) -> float:
    # Pairs grow with the square of the rows: 500 sentences are already 124,750 of them.
    rows = _thinned(len(a), PAIRED)
    return representations.rsa(a[rows], b[rows])


def _negative_task2vec(a: Floats, b: Floats) -> float:
    return -weight.task2vec_distance(a, b)


def _negative_task2vec_asymmetric(a: Floats, b: Floats) -> float:
    # The trivial task uses every filter alike, so only the shape of its Fisher diagonal counts.
    return -weight.task2vec_distance(a, b, np.full(a.shape, a.mean()), COMPLEXITY)


def _layer_mean(base: Any, a: Any, b: Any) -> float:
    return float(np.mean(list(weight.task_vector_cosines(base, a, b).values())))


def _inner(a: Floats, b: Floats) -> float:
    """Inner product of two mean unit gradients: the mean cosine over all pairs of heads."""
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))


def _esm(map_: Floats, target: Floats, labels: Any) -> float:
    return features.logme(weight.mapped(target, map_), labels)


def _negative_otdd(a: Floats, labels_a: Any, b: Floats, labels_b: Any) -> float:
    # Equal sizes: the exact problem is then an assignment, not a linear programme.
    size = min(len(a), len(b), PAIRED)
    left, right = _thinned(len(a), size), _thinned(len(b), size)
    left, right = left[_repeated(labels_a[left])], right[_repeated(labels_b[right])]
    size = min(len(left), len(right))
    left, right = left[:size], right[:size]
    return -transport.otdd(a[left], labels_a[left], b[right], labels_b[right])


def _repeated(labels: Any) -> Any:
    """Places of the labels that occur at least three times among these."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[codes] >= 3)


def _domain_error(a: Floats, b: Floats) -> float:
    return text.domain_classifier_error(a[_thinned(len(a), DOMAIN)], b[_thinned(len(b), DOMAIN)])


def _thinned(rows: int, size: int) -> Any:
    """Positions of at most ``size`` rows, evenly spaced: the first ones may be of one source."""
    return np.linspace(0, rows - 1, min(rows, size)).round().astype(int)


def _early(score: float) -> float:
    return float(score)


_TEXT = ("intermediate.embeddings", "target.embeddings")
_PIECES = ("intermediate.pieces", "target.pieces")
_TUNED = ("tuned.features", "target.labels")
_HEAD = ("tuned.probabilities", "target.labels")
_LABELS = ("intermediate.labels", "target.labels")
_COMMON = ("common.intermediate", "common.target")
_COMMON_AXES = ("common.intermediate_axes", "common.target_axes")
_WEIGHTS = ("plain.weights", "intermediate.weights", "target.weights")
_PARALLEL = ("parallel.tuned", "parallel.plain")

_BUILT_IN: tuple[Measure, ...] = (
    Measure(
        "text_embedding", "text", (*_TEXT, "study.centre"), _centred, "Vu et al. 2020, centred"
    ),
    Measure("text_embedding_raw", "text", _TEXT, _raw, "Vu et al. 2020"),
    Measure(
        "text_embedding_whitened",
        "text",
        (*_TEXT, "study.centre", "study.whitening"),
        _whitened,
        "Vu et al. 2020, centred and whitened",
    ),
    Measure(
        "sentence_embedding",
        "text",
        ("intermediate.sentences", "target.sentences", "study.sentence_centre"),
        _centred,
        "Poth et al. 2021, centred",
    ),
    Measure("token_similarity", "text", _PIECES, text.token_similarity, "Ruder and Plank 2017"),
    Measure(
        "tfidf",
        "text",
        ("intermediate.counts", "target.counts", "study.texts_with", "study.texts"),
        text.tfidf_cosine,
        "Salton and Buckley 1988",
    ),
    Measure("vocabulary_overlap", "text", _PIECES, text.vocabulary_overlap, "Jaccard 1912"),
    Measure("mmd", "text", _TEXT, _negative_mmd, "Gretton et al. 2012, negative"),
    Measure("domain_error", "text", _TEXT, _domain_error, "Ben-David et al. 2007"),
    Measure(
        "pseudo_perplexity",
        "text",
        ("tuned.losses", "plain.losses"),
        _negative_perplexity,
        "Salazar et al. 2020, negative change",
        directed=True,
    ),
    Measure(
        "same_format",
        "format",
        ("intermediate.facts", "target.facts"),
        format.same_format,
        "this project",
    ),
    Measure(
        "same_inputs",
        "format",
        ("intermediate.segments", "target.segments"),
        format.same_input_count,
        "this project",
    ),
    Measure(
        "label_names",
        "format",
        ("intermediate.label_names", "target.label_names"),
        format.label_name_cosine,
        "this project",
    ),
    Measure("label_entropy", "format", _LABELS, format.label_entropy_similarity, "this project"),
    Measure("label_count", "format", _LABELS, format.label_count_similarity, "this project"),
    *(
        Measure(name, "labels", needs, function, source, directed=True, languages=True)
        for name, needs, function, source in (
            ("leep", _HEAD, features.leep, "Nguyen et al. 2020"),
            ("nce", _HEAD, _nce, "Tran et al. 2019"),
            ("nleep", _TUNED, features.nleep, "Li et al. 2021"),
            ("logme", _TUNED, features.logme, "You et al. 2021"),
            ("h_score", _TUNED, features.h_score, "Bao et al. 2019; Ibrahim et al. 2022"),
            ("transrate", _TUNED, features.transrate, "Huang et al. 2022"),
            ("gbc", _TUNED, features.gbc, "Pandy et al. 2022"),
            (
                "knn_probe",
                (*_TUNED, "target.knn_probe"),
                partial(_change, features.knn_probe),
                "Cover and Hart 1967, minus the plain encoder",
            ),
            (
                "linear_probe",
                (*_TUNED, "target.linear_probe"),
                partial(_change, features.linear_probe),
                "Alain and Bengio 2016, minus the plain encoder",
            ),
        )
    ),
    Measure(
        "esm_logme",
        "labels",
        ("tuned.map", "target.features", "target.labels"),
        _esm,
        "Schulte et al. 2024",
        directed=True,
        languages=True,
    ),
    Measure(
        "early_score",
        "labels",
        ("early.score",),
        _early,
        "Poth et al. 2021; a partial outcome: a ceiling, not a similarity",
        directed=True,
    ),
    *(
        Measure(name, "representations", needs, function, source, directed, ceiling=True)
        for name, needs, function, source, directed in (
            ("cka", _COMMON, representations.linear_cka, "Kornblith et al. 2019, debiased", False),
            ("rsa", _COMMON, _rsa, "Kriegeskorte et al. 2008", False),
            ("svcca", _COMMON_AXES, representations.svcca, "Raghu et al. 2017", False),
            ("pwcca", _COMMON_AXES, representations.pwcca, "Morcos et al. 2018", True),
        )
    ),
    Measure(
        "task_embedding",
        "weights",
        ("intermediate.fisher", "target.fisher"),
        weight.task_embedding_cosine,
        "Vu et al. 2020, with per-example gradients",
        ceiling=True,
    ),
    Measure(
        "task2vec",
        "weights",
        ("intermediate.probe_fisher", "target.probe_fisher"),
        _negative_task2vec,
        "Achille et al. 2019, negative",
    ),
    Measure(
        "task2vec_asymmetric",
        "weights",
        ("intermediate.probe_fisher", "target.probe_fisher"),
        _negative_task2vec_asymmetric,
        "Achille et al. 2019, negative",
        directed=True,
    ),
    Measure(
        "gradient_cosine",
        "weights",
        ("intermediate.gradient", "target.gradient"),
        _inner,
        "after Pruthi et al. 2020",
        ceiling=True,
    ),
    Measure(
        "task_vector",
        "weights",
        _WEIGHTS,
        weight.task_vector_cosine,
        "Ilharco et al. 2023",
        ceiling=True,
    ),
    Measure(
        "task_vector_layers",
        "weights",
        _WEIGHTS,
        _layer_mean,
        "Ilharco et al. 2023, mean over components",
        ceiling=True,
    ),
    Measure(
        "otdd",
        "transport",
        ("intermediate.features", "intermediate.labels", "target.features", "target.labels"),
        _negative_otdd,
        "Alvarez-Melis and Fusi 2020, negative",
    ),
    Measure(
        "alignment_cka",
        "cross-lingual",
        _PARALLEL,
        crosslingual.alignment_drift,
        "debiased CKA of parallel text, tuned minus plain",
        per="language",
    ),
    Measure(
        "alignment_retrieval",
        "cross-lingual",
        _PARALLEL,
        partial(crosslingual.alignment_drift, score=crosslingual.retrieval_accuracy),
        "retrieval of parallel text, tuned minus plain",
        per="language",
    ),
    Measure(
        "mlm_drift",
        "cross-lingual",
        ("parallel.tuned_losses", "parallel.plain_losses"),
        _negative_perplexity,
        "masked-language loss, plain minus tuned",
        per="language",
    ),
)
for _measure in _BUILT_IN:
    register(_measure)
_OWN: Mapping[str, Measure] = dict(_MEASURES)
