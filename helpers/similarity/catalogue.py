"""The catalogue of measures: what each needs, what it computes, and how a reader adds one.

A measure is a function of arrays. Its ``needs`` name the arrays, in the order of the function's
arguments; ``helpers.similarity.arrays`` knows how to make each of them (``needs()`` lists them).
Values are oriented: larger always means more similar.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helpers.errors import HelpfulError, known
from helpers.similarity import features, text
from helpers.similarity import representations as rep
from helpers.similarity.representations import cosine, task2vec_distance

SIDES = ("intermediate", "target")  # of a dyad
# Rows used where cost grows with their square (pairs of rows) or their cube (assignments).
PAIRED = 500
# Rows of each side for the domain classifier, which takes two tasks at once.
DOMAIN = 1000
# Canonical axes kept on each side: few enough that noise scores low at 1,000 common sentences.
AXES = 50
# Weight of a task's own complexity in the asymmetric Task2Vec distance. The authors tune it for each
# use; this is a choice of this project, and its term depends on the intermediate alone.
COMPLEXITY = 0.1
# Changes with any module that does the arithmetic of this package.
_MODULES = ("catalogue", "features", "representations", "text")
_SOURCES = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in _MODULES]
_PACKAGE = hashlib.sha256(b"".join(_SOURCES)).hexdigest()


class Undefined(HelpfulError):
    """A measure that does not exist for a pair of tasks; the text says why."""


@dataclass(frozen=True)
class Measure:
    """One measure of task similarity."""

    name: str  # short and lower-case, the value of the column ``measure``
    family: str  # one of ``FAMILIES``
    needs: tuple[str, ...]  # names of the arrays, in the order of the function's arguments
    function: Callable[..., float]  # of the arrays, larger meaning more similar
    source: str = ""  # paper and, where it differs, what differs
    directed: bool = False  # whether swapping the tasks changes the value
    per: Literal["dyad", "language"] = "dyad"  # or of an intermediate and a language
    languages: bool = False  # whether the target's rows may be in another language
    ceiling: bool = False  # whether its value between two seeds of one task is its noise ceiling

    @cached_property
    def key(self) -> str:
        """Hash of what determines a value beside its arrays: the definition and its code."""
        facts = (self.name, self.needs, code_of(self.function))
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def code_of(function: Callable[..., Any]) -> str:
    """Return text that changes when a function's own code does, the same in every process."""
    # A function of this package changes with any module that does its arithmetic.
    if isinstance(function, partial):
        given = [*function.args, *(value for _, value in sorted(function.keywords.items()))]
        texts = [code_of(value) if callable(value) else repr(value) for value in given]
        return f"{code_of(function.func)}{texts}{sorted(function.keywords)}"
    if getattr(function, "__module__", "").startswith("helpers.similarity"):
        return _PACKAGE + getattr(function, "__qualname__", repr(function))
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console, or built in
        code = getattr(function, "__code__", None)
        return repr((code.co_code, code.co_consts, code.co_names)) if code else repr(function)


_MEASURES: dict[str, Measure] = {}


def register(measure: Measure, *, replace: bool = False) -> Measure:
    """Add a measure to the catalogue, so that tables and figures show it, and return it.

    Args:
        measure: the measure to add. Refused are a family or a needed array that does not exist, a
            name that could not name a file, and a function that does not take the arrays it needs.
        replace: overwrite a measure of the same name (handy in a notebook).
    """
    check(measure)
    if measure.name in _MEASURES and not replace:
        raise HelpfulError(f"measure {measure.name!r} exists; pass replace=True to overwrite it.")
    _MEASURES[measure.name] = measure
    return measure


def check(measure: Measure) -> None:
    """Refuse a measure that could never give a value; see ``register``."""
    name, wanted = measure.name, measure.needs
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        letters = "lower-case letters, digits, '_', '-' and '.'"
        raise HelpfulError(f"measure {name!r} names a column and a file; take {letters}.")
    known("family of measures", measure.family, FAMILIES)
    if isinstance(wanted, str):
        raise HelpfulError(f"{name!r} needs a text; a tuple was expected: ({wanted!r},).")
    for need in wanted:
        known("array", need, needs())
    # Too few or too many arguments would fail on every dyad.
    try:
        inspect.signature(measure.function).bind(*wanted)
    except TypeError as error:
        said = f"the function of measure {name!r} cannot take {len(wanted)} arrays"
        raise HelpfulError(f"{said} ({', '.join(wanted)}): {error}.") from error
    except ValueError:
        return  # built-in functions may have no signature to check


def get(name: str) -> Measure:
    """Return a measure by name; an UnknownName lists the nearest."""
    return _MEASURES[known("measure", name, _MEASURES)]


def names(family: str = "") -> list[str]:
    """Return the names of all measures, or of those of one family, in catalogue order."""
    return [m.name for m in _MEASURES.values() if family in ("", m.family)]


def chosen(measures: Collection[str | Measure] | None) -> list[Measure]:
    """Return measures by name, or all; one that was never registered is checked, too."""
    asked = names() if measures is None else measures
    found = [get(one) if isinstance(one, str) else one for one in asked]
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
    from helpers.similarity import arrays, inputs  # noqa: F401  (the first fills the second)

    return {name: array.says for name, array in inputs.ARRAYS.items()}


# --- Steps between arrays and the functions of the other modules ----------------------------------
def _embedding(a: Any, b: Any, centre: Any = 0.0, root: Any = None) -> float:
    """Cosine of two tasks' mean embeddings, from a centre and whitened where these are given."""
    means = [x.mean(axis=0) - centre for x in (a, b)]
    first, second = means if root is None else [mean @ root for mean in means]
    return cosine(first, second, "task embeddings")


def _minus(function: Callable[..., float]) -> Callable[..., float]:
    return lambda *arrays: -function(*arrays)


def _thinned(function: Callable[..., float], size: int) -> Callable[..., float]:
    """Let a function have at most so many rows of each array."""
    return lambda *arrays: function(*(a[evenly(len(a), size)] for a in arrays))


def evenly(rows: int, size: int) -> Any:
    """Positions of at most ``size`` rows, evenly spaced: the first ones may be of one source."""
    return np.linspace(0, rows - 1, min(rows, size)).round().astype(int)


def _negative_otdd(a: Any, labels_a: Any, b: Any, labels_b: Any) -> float:
    # Sets of equal size, in which every class still has at least three rows.
    size, sides = min(len(a), len(b), PAIRED), []
    for states, labels in ((a, labels_a), (b, labels_b)):
        places = evenly(len(states), size)
        _, codes, counts = np.unique(labels[places], return_inverse=True, return_counts=True)
        sides.append(places[counts[codes] >= 3])
    left, right = (places[: min(map(len, sides))] for places in sides)
    return -rep.otdd(a[left], labels_a[left], b[right], labels_b[right])


# The measures of this package: family, name, needs (* stands for either task), function, source, and
# what else is true of it.

_HEAD, _TUNED = "tuned.probabilities target.labels", "tuned.features target.labels"
_CENTRED, _WEIGHTS = "*.embeddings study.centre", "plain.weights *.weights"
_OTDD = "intermediate.features intermediate.labels target.features target.labels"
_DRIFT = "parallel.tuned parallel.plain"
_OF_TARGET = {"directed": True, "languages": True}
_DIRECTED, _CEILING, _LANGUAGE = {"directed": True}, {"ceiling": True}, {"per": "language"}

# fmt: off
_ROWS: tuple[tuple[str, str, str, Callable[..., float], str, dict[str, Any]], ...] = (
    ("text", "text_embedding", _CENTRED, _embedding, "Vu et al. 2020, centred", {}),
    ("text", "text_embedding_raw", "*.embeddings", _embedding, "Vu et al. 2020", {}),
    ("text", "text_embedding_whitened", f"{_CENTRED} study.whitening", _embedding,
     "Vu et al. 2020, centred and whitened", {}),
    ("text", "sentence_embedding", "*.sentences study.sentence_centre", _embedding,
     "Poth et al. 2021, centred", {}),
    ("text", "token_similarity", "*.pieces", text.token_similarity, "Ruder and Plank 2017", {}),
    ("text", "tfidf", "*.counts study.texts_with study.texts", text.tfidf_cosine,
     "Salton and Buckley 1988", {}),
    ("text", "vocabulary_overlap", "*.pieces", text.vocabulary_overlap, "Jaccard 1912", {}),
    ("text", "mmd", "*.embeddings", _minus(_thinned(text.mmd, PAIRED)),
     "Gretton et al. 2012, negative", {}),
    ("text", "domain_error", "*.embeddings", _thinned(text.domain_classifier_error, DOMAIN),
     "Ben-David et al. 2007", {}),
    ("text", "pseudo_perplexity", "tuned.losses plain.losses",
     _minus(text.pseudo_perplexity_change), "Salazar et al. 2020, negative change", _DIRECTED),
    ("format", "same_format", "*.facts", lambda a, b: float(a.format == b.format),
     "this project", {}),
    ("format", "same_inputs", "*.segments", lambda a, b: float(a == b), "this project", {}),
    ("format", "label_names", "*.label_names", text.label_name_cosine, "this project", {}),
    ("format", "label_entropy", "*.labels", text.label_entropy_similarity, "this project", {}),
    ("format", "label_count", "*.labels", text.label_count_similarity, "this project", {}),
    ("labels", "leep", _HEAD, features.leep, "Nguyen et al. 2020", _OF_TARGET),
    ("labels", "nce", _HEAD, lambda p, y: features.nce(np.argmax(p, axis=1), y),
     "Tran et al. 2019", _OF_TARGET),
    ("labels", "nleep", _TUNED, features.nleep, "Li et al. 2021", _OF_TARGET),
    ("labels", "logme", _TUNED, features.logme, "You et al. 2021", _OF_TARGET),
    ("labels", "h_score", _TUNED, features.h_score, "Bao et al. 2019; Ibrahim et al. 2022",
     _OF_TARGET),
    ("labels", "transrate", _TUNED, features.transrate, "Huang et al. 2022", _OF_TARGET),
    ("labels", "gbc", _TUNED, features.gbc, "Pandy et al. 2022", _OF_TARGET),
    ("labels", "knn_probe", f"{_TUNED} target.knn_probe",
     lambda x, y, plain: features.knn_probe(x, y) - float(plain),
     "Cover and Hart 1967, minus the plain encoder", _OF_TARGET),
    ("labels", "linear_probe", f"{_TUNED} target.linear_probe",
     lambda x, y, plain: features.linear_probe(x, y) - float(plain),
     "Alain and Bengio 2016, minus the plain encoder", _OF_TARGET),
    ("labels", "esm_logme", "tuned.map target.features target.labels",
     lambda map_, x, y: features.logme(rep.mapped(x, map_), y),
     "Schulte et al. 2024", _OF_TARGET),
    ("labels", "early_score", "early.score", float, "Poth et al. 2021; a ceiling", _DIRECTED),
    ("representations", "cka", "common.*", rep.linear_cka,
     "Kornblith et al. 2019, debiased", _CEILING),
    # Pairs grow with the square of the rows: 500 sentences are already 124,750 of them.
    ("representations", "rsa", "common.*", _thinned(rep.rsa, PAIRED),
     "Kriegeskorte et al. 2008", _CEILING),
    ("representations", "svcca", "common.*_axes", rep.svcca, "Raghu et al. 2017", _CEILING),
    ("representations", "pwcca", "common.*_axes", rep.pwcca, "Morcos et al. 2018",
     _DIRECTED | _CEILING),
    ("weights", "task_embedding", "*.fisher", rep.task_embedding_cosine,
     "Vu et al. 2020, per example", _CEILING),
    ("weights", "task2vec", "*.probe_fisher", _minus(task2vec_distance),
     "Achille et al. 2019, negative", {}),
    # The trivial task uses every filter alike, so only the shape of its Fisher diagonal counts.
    ("weights", "task2vec_asymmetric", "*.probe_fisher",
     lambda a, b: -task2vec_distance(a, b, np.full(a.shape, a.mean()), COMPLEXITY),
     "Achille et al. 2019, negative", _DIRECTED),
    # The inner product of two mean unit gradients is the mean cosine over all pairs of heads.
    ("weights", "gradient_cosine", "*.gradient",
     lambda a, b: float(np.dot(a.astype(np.float64), b.astype(np.float64))),
     "after Pruthi et al. 2020", _CEILING),
    ("weights", "task_vector", _WEIGHTS, rep.task_vector_cosine, "Ilharco et al. 2023", _CEILING),
    ("weights", "task_vector_layers", _WEIGHTS,
     lambda *w: float(np.mean(list(rep.task_vector_cosines(*w).values()))),
     "Ilharco et al. 2023, mean over components", _CEILING),
    ("transport", "otdd", _OTDD, _negative_otdd, "Alvarez-Melis and Fusi 2020, negative", {}),
    ("cross-lingual", "alignment_cka", _DRIFT, rep.alignment_drift,
     "debiased CKA, tuned - plain", _LANGUAGE),
    ("cross-lingual", "alignment_retrieval", _DRIFT,
     lambda a, b: rep.alignment_drift(a, b, rep.retrieval_accuracy),
     "retrieval, tuned - plain", _LANGUAGE),
    ("cross-lingual", "mlm_drift", "parallel.tuned_losses parallel.plain_losses",
     _minus(text.pseudo_perplexity_change), "masked-language loss, plain - tuned", _LANGUAGE),
)
# fmt: on
for _family, _name, _wanted, _function, _source, _facts in _ROWS:
    _both = [
        need.replace("*", side)
        for need in _wanted.split()
        for side in (SIDES if "*" in need else ("",))
    ]
    _MEASURES[_name] = Measure(_name, _family, tuple(_both), _function, _source, **_facts)
_OWN: Mapping[str, Measure] = dict(_MEASURES)
FAMILIES = (*dict.fromkeys(measure.family for measure in _OWN.values()), "custom")
