"""The catalogue of measures: what each needs, what it computes, and how a reader adds one.

A measure is a function of arrays. Its ``needs`` name the arrays, in the order of the function's
arguments; ``helpers.similarity.arrays`` knows how to make each of them (``needs()`` lists them).
Values are oriented: larger always means more similar.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from helpers.errors import HelpfulError, unknown
from helpers.similarity import features, gradients, representations, text
from helpers.similarity.representations import Floats, cosine

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
        facts = (self.name, self.version, self.needs, code_of(self.function))
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def code_of(function: Callable[..., Any]) -> str:
    """Return text that changes when a function's own code does, the same in every process."""
    if isinstance(function, partial):
        given = [*function.args, *(value for _, value in sorted(function.keywords.items()))]
        texts = [code_of(value) if callable(value) else repr(value) for value in given]
        return f"{code_of(function.func)}{texts}{sorted(function.keywords)}"
    if getattr(function, "__module__", "").startswith("helpers.similarity"):
        return _package_code() + function.__qualname__
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console, or built in
        code = getattr(function, "__code__", None)
        return repr((code.co_code, code.co_consts, code.co_names)) if code else repr(function)


@cache
def _package_code() -> str:
    """Hash of the modules that do the arithmetic of this package."""
    names = ("catalogue", "features", "gradients", "representations", "text")
    content = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in names)
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
        if need not in needs():
            raise unknown("array", need, needs())
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
    """Return a measure by name; an UnknownName lists the nearest."""
    if name not in _MEASURES:
        raise unknown("measure", name, _MEASURES)
    return _MEASURES[name]


def names(family: str = "") -> list[str]:
    """Return the names of all measures, or of those of one family, in catalogue order."""
    return [m.name for m in _MEASURES.values() if family in ("", m.family)]


def chosen(measures: Collection[str | Measure] | None) -> list[Measure]:
    """Return measures by name, or all; one that was never registered is checked, too."""
    found = [
        get(m) if isinstance(m, str) else m for m in (names() if measures is None else measures)
    ]
    for measure in found:
        check(measure)
    return found


def added() -> list[str]:
    """Return the names of measures that a reader added or replaced in this process."""
    return [name for name, measure in _MEASURES.items() if _OWN.get(name) is not measure]


def table() -> list[dict[str, Any]]:
    """Return the facts of every measure, one mapping each, for a page."""
    return [
        {"measure": m.name, "family": m.family, "directed": m.directed}
        | {"needs": ", ".join(m.needs), "source": m.source}
        for m in _MEASURES.values()
    ]


def needs() -> dict[str, str]:
    """Return every array that a measure can ask for: name to what it is."""
    from helpers.similarity.arrays import ARRAYS

    return {name: array.says for name, array in ARRAYS.items()}


# Steps between arrays and the functions of the other modules.


def _centred(a: Floats, b: Floats, centre: Floats) -> float:
    return cosine(a.mean(axis=0) - centre, b.mean(axis=0) - centre, "centred task embeddings")


def _raw(a: Floats, b: Floats) -> float:
    return cosine(a.mean(axis=0), b.mean(axis=0), "task embeddings")


def _whitened(a: Floats, b: Floats, centre: Floats, root: Floats) -> float:
    first, second = ((x.mean(axis=0) - centre) @ root for x in (a, b))
    return cosine(first, second, "whitened task embeddings")


def _thinned(rows: int, size: int) -> Any:
    """Positions of at most ``size`` rows, evenly spaced: the first ones may be of one source."""
    return np.linspace(0, rows - 1, min(rows, size)).round().astype(int)


def _negative_mmd(a: Floats, b: Floats) -> float:
    return -text.mmd(a[_thinned(len(a), PAIRED)], b[_thinned(len(b), PAIRED)])


def _domain_error(a: Floats, b: Floats) -> float:
    return text.domain_classifier_error(a[_thinned(len(a), DOMAIN)], b[_thinned(len(b), DOMAIN)])


def _negative_perplexity(tuned: Floats, plain: Floats) -> float:
    return -text.pseudo_perplexity_change(tuned, plain)


def _nce(probabilities: Floats, labels: ArrayLike) -> float:
    return features.nce(np.asarray(probabilities).argmax(axis=1), labels)


def _knn_change(tuned: Floats, labels: ArrayLike, plain: float) -> float:
    return features.knn_probe(tuned, labels) - float(plain)


def _linear_change(tuned: Floats, labels: ArrayLike, plain: float) -> float:
    return features.linear_probe(tuned, labels) - float(plain)


def _esm(map_: Floats, target: Floats, labels: ArrayLike) -> float:
    return features.logme(gradients.mapped(target, map_), labels)


def _rsa(a: Floats, b: Floats) -> float:
    # Pairs grow with the square of the rows: 500 sentences are already 124,750 of them.
    rows = _thinned(len(a), PAIRED)
    return representations.rsa(a[rows], b[rows])


def _negative_task2vec(a: Floats, b: Floats) -> float:
    return -gradients.task2vec_distance(a, b)


def _negative_asymmetric(a: Floats, b: Floats) -> float:
    # The trivial task uses every filter alike, so only the shape of its Fisher diagonal counts.
    return -gradients.task2vec_distance(a, b, np.full(a.shape, a.mean()), COMPLEXITY)


def _layer_mean(base: Any, a: Any, b: Any) -> float:
    return float(np.mean(list(gradients.task_vector_cosines(base, a, b).values())))


def _inner(a: Floats, b: Floats) -> float:
    """Inner product of two mean unit gradients: the mean cosine over all pairs of heads."""
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))


def _negative_otdd(a: Floats, labels_a: Any, b: Floats, labels_b: Any) -> float:
    # Equal sizes: the exact problem is then an assignment, not a linear programme.
    size = min(len(a), len(b), PAIRED)
    left, right = _thinned(len(a), size), _thinned(len(b), size)
    left, right = left[_repeated(labels_a[left])], right[_repeated(labels_b[right])]
    size = min(len(left), len(right))
    left, right = left[:size], right[:size]
    return -representations.otdd(a[left], labels_a[left], b[right], labels_b[right])


def _repeated(labels: Any) -> Any:
    """Places of the labels that occur at least three times among these."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[codes] >= 3)


def _retrieval_drift(tuned: Floats, plain: Floats) -> float:
    score = representations.retrieval_accuracy
    return representations.alignment_drift(tuned, plain, score)


def _ours(
    family: str, *rows: tuple[str, tuple[str, ...], Callable[..., float], str], **facts: Any
) -> None:
    """Put measures of the package into the catalogue."""
    for name, wanted, function, source in rows:
        _MEASURES[name] = Measure(name, family, wanted, function, source, **facts)


def _both(thing: str) -> tuple[str, str]:
    return f"intermediate.{thing}", f"target.{thing}"


_MEAN, _PIECES = _both("embeddings"), _both("pieces")
_CENTRED = (*_MEAN, "study.centre")
_WHITENED = (*_CENTRED, "study.whitening")
_SENTENCES = (*_both("sentences"), "study.sentence_centre")
_COUNTS = (*_both("counts"), "study.texts_with", "study.texts")
_LABELS = _both("labels")
_LOSSES = ("tuned.losses", "plain.losses")
_HEAD = ("tuned.probabilities", "target.labels")
_TUNED = ("tuned.features", "target.labels")
_KNN, _LINEAR = (*_TUNED, "target.knn_probe"), (*_TUNED, "target.linear_probe")
_MAPPED = ("tuned.map", "target.features", "target.labels")
_EARLY = ("early.score",)
_COMMON = ("common.intermediate", "common.target")
_AXES = ("common.intermediate_axes", "common.target_axes")
_FISHER, _PROBE, _GRADIENT = _both("fisher"), _both("probe_fisher"), _both("gradient")
_WEIGHTS = ("plain.weights", *_both("weights"))
_SETS = ("intermediate.features", "intermediate.labels", "target.features", "target.labels")
_PARALLEL = ("parallel.tuned", "parallel.plain")
_DRIFT = ("parallel.tuned_losses", "parallel.plain_losses")

_ours(
    "text",
    ("text_embedding", _CENTRED, _centred, "Vu et al. 2020, centred"),
    ("text_embedding_raw", _MEAN, _raw, "Vu et al. 2020"),
    ("text_embedding_whitened", _WHITENED, _whitened, "Vu et al. 2020, centred and whitened"),
    ("sentence_embedding", _SENTENCES, _centred, "Poth et al. 2021, centred"),
    ("token_similarity", _PIECES, text.token_similarity, "Ruder and Plank 2017"),
    ("tfidf", _COUNTS, text.tfidf_cosine, "Salton and Buckley 1988"),
    ("vocabulary_overlap", _PIECES, text.vocabulary_overlap, "Jaccard 1912"),
    ("mmd", _MEAN, _negative_mmd, "Gretton et al. 2012, negative"),
    ("domain_error", _MEAN, _domain_error, "Ben-David et al. 2007"),
)
_ours(
    "text",
    ("pseudo_perplexity", _LOSSES, _negative_perplexity, "Salazar et al. 2020, negative change"),
    directed=True,
)
_ours(
    "format",
    ("same_format", _both("facts"), text.same_format, "this project"),
    ("same_inputs", _both("segments"), text.same_input_count, "this project"),
    ("label_names", _both("label_names"), text.label_name_cosine, "this project"),
    ("label_entropy", _LABELS, text.label_entropy_similarity, "this project"),
    ("label_count", _LABELS, text.label_count_similarity, "this project"),
)
_ours(
    "labels",
    ("leep", _HEAD, features.leep, "Nguyen et al. 2020"),
    ("nce", _HEAD, _nce, "Tran et al. 2019"),
    ("nleep", _TUNED, features.nleep, "Li et al. 2021"),
    ("logme", _TUNED, features.logme, "You et al. 2021"),
    ("h_score", _TUNED, features.h_score, "Bao et al. 2019; Ibrahim et al. 2022"),
    ("transrate", _TUNED, features.transrate, "Huang et al. 2022"),
    ("gbc", _TUNED, features.gbc, "Pandy et al. 2022"),
    ("knn_probe", _KNN, _knn_change, "Cover and Hart 1967, minus the plain encoder"),
    ("linear_probe", _LINEAR, _linear_change, "Alain and Bengio 2016, minus the plain encoder"),
    ("esm_logme", _MAPPED, _esm, "Schulte et al. 2024"),
    directed=True,
    languages=True,
)
_ours("labels", ("early_score", _EARLY, float, "Poth et al. 2021; a ceiling"), directed=True)
_ours(
    "representations",
    ("cka", _COMMON, representations.linear_cka, "Kornblith et al. 2019, debiased"),
    ("rsa", _COMMON, _rsa, "Kriegeskorte et al. 2008"),
    ("svcca", _AXES, representations.svcca, "Raghu et al. 2017"),
    ceiling=True,
)
_ours(
    "representations",
    ("pwcca", _AXES, representations.pwcca, "Morcos et al. 2018"),
    directed=True,
    ceiling=True,
)
_ours(
    "weights",
    ("task_embedding", _FISHER, gradients.task_embedding_cosine, "Vu et al. 2020, per example"),
    ceiling=True,
)
_ours("weights", ("task2vec", _PROBE, _negative_task2vec, "Achille et al. 2019, negative"))
_ours(
    "weights",
    ("task2vec_asymmetric", _PROBE, _negative_asymmetric, "Achille et al. 2019, negative"),
    directed=True,
)
_ours(
    "weights",
    ("gradient_cosine", _GRADIENT, _inner, "after Pruthi et al. 2020"),
    ("task_vector", _WEIGHTS, gradients.task_vector_cosine, "Ilharco et al. 2023"),
    ("task_vector_layers", _WEIGHTS, _layer_mean, "Ilharco et al. 2023, mean over components"),
    ceiling=True,
)
_ours("transport", ("otdd", _SETS, _negative_otdd, "Alvarez-Melis and Fusi 2020, negative"))
_ours(
    "cross-lingual",
    ("alignment_cka", _PARALLEL, representations.alignment_drift, "debiased CKA, tuned - plain"),
    ("alignment_retrieval", _PARALLEL, _retrieval_drift, "retrieval, tuned - plain"),
    ("mlm_drift", _DRIFT, _negative_perplexity, "masked-language loss, plain - tuned"),
    per="language",
)
_OWN: Mapping[str, Measure] = dict(_MEASURES)
