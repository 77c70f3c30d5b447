"""Mining of translation pairs by margin scores, on exact nearest neighbours in bounded memory.

Cosines are computed tile by tile (matrix products in 32-bit floats) and only the best ``k`` per row
are kept. Of each tile, the rows whose largest entry cannot change their best ``k`` are passed over;
the others are searched in two steps, first the largest entry of each stretch of columns, then the
entries of the ``k`` best stretches. Nothing is approximated. The cosines that are returned are
computed again in 64-bit floats; equal ones rank by row number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from helpers.errors import BadRows, HelpfulError, unknown

if TYPE_CHECKING:
    import torch

MARGINS = ("ratio", "distance", "absolute")

TILE = 2048  # Rows and columns of a tile on a CPU: 16 MiB of similarities; more gains nothing.
GPU_TILE = 8192  # On a GPU, fewer and larger steps.
STRETCH = 32  # Shorter stretches are slow to reduce, longer ones leave more to search.
_INDEX_BITS = 32
_NOTHING = -(2**63)


@dataclass(frozen=True)
class Neighbours:
    """The best candidates of each query, best first."""

    index: np.ndarray  # their row numbers, (queries, k)
    similarity: np.ndarray  # their cosines in 64-bit floats, (queries, k)


@dataclass(frozen=True)
class Mined:
    """Mined pairs, best first."""

    source: np.ndarray  # row numbers in x, (pairs,)
    target: np.ndarray  # row numbers in y, (pairs,)
    score: np.ndarray  # margin scores, (pairs,)


def mine(x: Any, y: Any, k: int = 4, margin: str = "ratio") -> Mined:
    """Mine translation pairs by margin score.

    The score of a pair is its cosine, compared with the mean cosine of both vectors to their ``k``
    nearest neighbours on the other side. Each side's best pairs are taken by falling score, but for
    those whose source or target is taken, and those that score 0 or less.

    Args:
        x: source vectors, shape ``(n, width)``, each text once.
        y: target vectors, shape ``(m, width)``, each text once.
        k: neighbours per side.
        margin: ``"ratio"`` divides by that mean, ``"distance"`` subtracts it, ``"absolute"``
            ignores it.

    Source:
        Artetxe and Schwenk (2019), as XTREME applies it to BUCC: ``k=4``, ratio.
    """
    if margin not in MARGINS:
        raise unknown("margin", margin, MARGINS)
    forward, backward = nearest_both(x, y, k)
    x_mean, y_mean = forward.similarity.mean(axis=1), backward.similarity.mean(axis=1)
    x_scores = _margin(forward.similarity, x_mean[:, None], y_mean[forward.index], margin)
    y_scores = _margin(backward.similarity, y_mean[:, None], x_mean[backward.index], margin)
    # The best target of each source, then the best source of each target.
    x_best, y_best = x_scores.argmax(axis=1)[:, None], y_scores.argmax(axis=1)[:, None]
    targets = np.take_along_axis(forward.index, x_best, axis=1)[:, 0]
    sources = np.take_along_axis(backward.index, y_best, axis=1)[:, 0]
    source = np.concatenate([np.arange(len(targets)), sources])
    target = np.concatenate([targets, np.arange(len(sources))])
    score = np.concatenate([x_scores.max(axis=1), y_scores.max(axis=1)])
    order = _greedy(source, target, np.argsort(-score, kind="stable"))
    order = order[score[order] > 0]
    return Mined(source[order], target[order], score[order])


def mine_texts(
    source_vectors: Any,
    target_vectors: Any,
    source_texts: Sequence[str],
    target_texts: Sequence[str],
    source_ids: Sequence[Hashable],
    target_ids: Sequence[Hashable],
) -> pd.DataFrame:
    """Mine pairs of texts, merging identical texts before the search, as XTREME does for BUCC.

    Args:
        source_vectors: one vector per source text, shape ``(n, width)``.
        target_vectors: one vector per target text, shape ``(m, width)``.
        source_texts: the texts; those that differ only in white space at their ends are repetitions.
        target_texts: the texts.
        source_ids: their ids, each of one text.
        target_ids: their ids, each of one text.

    Returns:
        Columns ``source``, ``target`` (ids) and ``score``, by falling score, without pairs of which
        a text is repeated.

    Raises:
        BadRows: different numbers of texts, ids and vectors, an id of two texts, a side without
            texts, or as :func:`mine`.
    """
    x_rows, x_ids = _merged("source", source_vectors, source_texts, source_ids)
    y_rows, y_ids = _merged("target", target_vectors, target_texts, target_ids)
    mined = mine(source_vectors[x_rows], target_vectors[y_rows])
    kept = [
        (x_ids[source][0], y_ids[target][0], score)
        for source, target, score in zip(
            mined.source.tolist(), mined.target.tolist(), mined.score.tolist(), strict=True
        )
        if len(x_ids[source]) == len(y_ids[target]) == 1
    ]
    return pd.DataFrame(kept, columns=["source", "target", "score"]).astype({"score": float})


def _merged(
    side: str, vectors: Any, texts: Sequence[str], ids: Sequence[Hashable]
) -> tuple[np.ndarray, list[list[Hashable]]]:
    """Return, of each different text, the row of its vector and the ids of its repetitions."""
    if not len(vectors) == len(texts) == len(ids):
        raise BadRows(f"{len(vectors)} vectors, {len(texts)} texts, {len(ids)} ids: give one each.")
    if not len(texts):
        raise BadRows(f"no {side} texts to mine: both sides need at least one.")
    seen: dict[Hashable, str] = {}
    repeated: dict[str, list[Hashable]] = {}
    for text, name in zip(texts, ids, strict=True):
        if name in seen:
            raise BadRows(
                f"{side} id {name!r} stands for two texts, {seen[name]!r} and {text!r}: give each "
                "text an id of its own."
            )
        seen[name] = text
        repeated.setdefault(text.strip(), []).append(name)
    # A repeated text keeps its last vector, and its first place: ties rank as in the texts.
    last = {text: place for place, text in enumerate(texts)}
    return np.fromiter(last.values(), np.int64), [repeated[text.strip()] for text in last]


@dataclass(frozen=True)
class Threshold:
    """A score above which mined pairs are taken for translations."""

    value: float  # pairs with at least this score are kept
    f1: float  # reached on the pairs it was tuned on, if no two of them share its score


def tune_threshold(pairs: pd.DataFrame, gold: Collection[tuple[Hashable, Hashable]]) -> Threshold:
    """Choose the threshold that gives the best F1 on development pairs.

    As in XTREME, it lies midway between the last pair kept and the next. Where keeping all pairs is
    best there is no next one (the official code fails there): the threshold is the last score.

    Args:
        pairs: columns ``source``, ``target``, ``score``, as :func:`mine_texts` gives them.
        gold: the right pairs (source id, target id).

    Returns:
        The threshold; 0.0 where no pair is right.

    Raises:
        BadRows: no gold pairs.

    Source:
        XTREME's ``bucc_optimize``.
    """
    right = set(gold)
    if not right:
        raise BadRows("no gold pairs: a threshold cannot be tuned without them.")
    ranked = pairs.sort_values("score", ascending=False, kind="stable")
    hits = np.cumsum(
        [pair in right for pair in zip(ranked["source"], ranked["target"], strict=True)]
    )
    if not len(hits) or not hits[-1]:
        return Threshold(0.0, 0.0)
    # In this form and order, so that ties between positions fall as they do in the official code.
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / len(right)
    with np.errstate(invalid="ignore"):
        f1 = np.where(hits > 0, 2 * precision * recall / (precision + recall), 0.0)
    last = int(f1.argmax())
    scores = ranked["score"].to_numpy()
    following = scores[last + 1] if last + 1 < len(scores) else scores[last]
    return Threshold(float(scores[last] + following) / 2, float(f1[last]))


def apply_threshold(pairs: pd.DataFrame, threshold: Threshold | float) -> list[tuple[Any, Any]]:
    """Return the pairs (source id, target id) that score at least the threshold."""
    value = threshold.value if isinstance(threshold, Threshold) else threshold
    kept = pairs[pairs["score"] >= value]
    return list(zip(kept["source"], kept["target"], strict=True))


def in_first_half(source_id: Hashable) -> bool:
    """Say to which half of a corpus a source text belongs, by a hash of its id."""
    return hashlib.sha256(str(source_id).encode()).digest()[0] % 2 == 0


def _margin(cosine: np.ndarray, mine: np.ndarray, theirs: np.ndarray, kind: str) -> np.ndarray:
    if kind == "absolute":
        return cosine
    mean = (mine + theirs) / 2
    if kind == "distance":
        return cosine - mean
    if mean.min() <= 0:
        raise HelpfulError(
            "a ratio margin needs neighbours with positive mean cosine, and some vectors have none "
            "(centred vectors may not): use margin='distance'."
        )
    return cosine / mean


def _greedy(source: np.ndarray, target: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the places of pairs, in the given order, whose source and target are still free."""
    free_source = np.ones(source.max() + 1, bool)
    free_target = np.ones(target.max() + 1, bool)
    kept = []
    for place, one, other in zip(
        order.tolist(), source[order].tolist(), target[order].tolist(), strict=True
    ):
        if free_source[one] and free_target[other]:
            free_source[one] = free_target[other] = False
            kept.append(place)
    return np.array(kept, np.int64)


def nearest(queries: Any, candidates: Any, k: int = 1) -> Neighbours:
    """Find the ``k`` candidates of largest cosine for each query, exactly.

    Vectors are NumPy arrays, of which memory-mapped ones are never held in memory, or torch tensors,
    whose device computes; a vector of zeros has cosine 0 with everything.
    """
    left, right = _pair(queries, candidates)
    best = _Best(len(left), min(k, len(right)), left.device)
    left.keep()
    with _exact_products():
        for first, columns in right.tiles():
            for start, rows in left.tiles():
                best.update(rows @ columns.T, start, first)
    return _rescored(left, right, best.index())


def nearest_both(x: Any, y: Any, k: int = 4) -> tuple[Neighbours, Neighbours]:
    """Find the ``k`` nearest ``y`` of each ``x`` and the reverse, from one pass of products."""
    left, right = _pair(x, y)
    forward = _Best(len(left), min(k, len(right)), left.device)
    backward = _Best(len(right), min(k, len(left)), left.device)
    right.keep()
    with _exact_products():
        for start, rows in left.tiles():
            for first, columns in right.tiles():
                tile = rows @ columns.T
                forward.update(tile, start, first)
                backward.update(tile, first, start, axis=0)
    return _rescored(left, right, forward.index()), _rescored(right, left, backward.index())


class Taken:
    """Rows of an array, taken only where they are read: a choice among a million is no copy."""

    ndim = 2

    def __init__(self, vectors: np.ndarray, places: np.ndarray) -> None:
        """Stand for ``vectors[places]``."""
        self.vectors = vectors
        self.places = places
        self.shape = (len(places), vectors.shape[1])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.places)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return the rows that a slice, a mask or an array of numbers asks for."""
        return self.vectors[self.places[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, in an array of their own."""
        return np.asarray(self[:], dtype)


class _Rows:
    """Vectors, read in tiles as 32-bit floats on a device, of length 1."""

    def __init__(self, vectors: Any, device: torch.device) -> None:
        if getattr(vectors, "ndim", 0) != 2 or not len(vectors):
            raise BadRows(
                f"vectors must have shape (n, width), got {getattr(vectors, 'shape', '?')}."
            )
        self.vectors = vectors
        self.device = device
        self.tile = TILE if device.type == "cpu" else GPU_TILE
        self.kept: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def keep(self) -> None:
        """Hold all prepared rows, unless they are on disk: they are about to be read repeatedly."""
        if not isinstance(self.vectors, np.memmap):
            import torch

            width = self.vectors.shape[1]
            kept = torch.empty(len(self), width, dtype=torch.float32, device=self.device)
            for start, rows in self.tiles():
                kept[start : start + len(rows)] = rows
            self.kept = kept

    def tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the number of the first row and the rows, ``tile`` at a time."""
        for start in range(0, len(self), self.tile):
            if self.kept is not None:
                yield start, self.kept[start : start + self.tile]
            else:
                yield start, self._prepared(start)

    def _prepared(self, start: int) -> torch.Tensor:
        import torch

        part = self.vectors[start : start + self.tile]
        if not isinstance(part, torch.Tensor):
            part = torch.from_numpy(np.array(part, np.float32))
        rows = part.detach().to(self.device, torch.float32)
        norms = torch.linalg.vector_norm(rows, dim=1)
        if not bool(torch.isfinite(norms).all()):
            row = start + int(torch.isfinite(norms).logical_not().nonzero()[0, 0])
            raise BadRows(f"vector {row} is not finite: look at the text it was made from.")
        return rows / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None]

    def exact(self, index: np.ndarray) -> np.ndarray:
        """Return rows in 64-bit floats, of length 1."""
        rows = self.vectors[index]
        rows = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows, np.float64)
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(float).tiny)


class _Best:
    """The best ``k`` entries seen so far of each row of a matrix that arrives in tiles.

    An entry is one integer whose upper half orders as its value and whose lower half falls with its
    column: the largest integers are the best entries, equal values by column.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        import torch

        if k < 1:
            raise HelpfulError(f"k must be at least 1, got {k}.")
        self.k = k
        self.keys = torch.full((rows, k), _NOTHING, dtype=torch.int64, device=device)
        self.worst = torch.full((rows,), -torch.inf, device=device)

    def update(self, tile: torch.Tensor, row: int, column: int, axis: int = 1) -> None:
        """Take in a tile (its transpose with ``axis=0``) from a row and column on; columns rise."""
        import torch

        mine = slice(row, row + tile.shape[1 - axis])
        hit = (tile.amax(dim=axis) > self.worst[mine]).nonzero()[:, 0]
        if not len(hit):
            return
        if len(hit) < tile.shape[1 - axis]:
            tile = tile.index_select(1 - axis, hit)
        keys = _largest(tile, self.k, column, axis)
        keys = torch.cat([self.keys[row + hit], keys], dim=1).topk(self.k).values
        self.keys[row + hit] = keys
        self.worst[row + hit] = _value(keys[:, -1])

    def index(self) -> np.ndarray:
        """Return the columns of the best entries, best first, shape ``(rows, k)``."""
        return _column(self.keys).cpu().numpy()


def _largest(tile: torch.Tensor, k: int, column: int, axis: int) -> torch.Tensor:
    """Return the keys of the ``k`` largest entries along an axis, shape ``(rows, k)``."""
    import torch

    width = tile.shape[axis]
    if width < 2 * k * STRETCH:
        values = tile if axis else tile.T.contiguous()
        return _keys(values, column).topk(min(k, width)).values
    if width % STRETCH:
        missing = -width % STRETCH
        shape = (0, missing) if axis else (0, 0, 0, missing)
        tile = torch.nn.functional.pad(tile, shape, value=-torch.inf)
    parts = tile.unflatten(axis, (-1, STRETCH))
    tops = parts.amax(dim=axis + 1)
    # A stretch is passed over only if k others hold an entry that ranks before all of its own.
    chosen = _column(_keys(tops if axis else tops.T.contiguous(), 0).topk(k).values)
    if axis:
        place = torch.arange(len(tile), device=tile.device)[:, None] * parts.shape[1] + chosen
        values = parts.flatten(0, 1).index_select(0, place.flatten()).view(len(tile), -1)
    else:
        values = (
            parts.gather(0, chosen.T[:, None].expand(-1, STRETCH, -1)).permute(2, 0, 1).flatten(1)
        )
    place = column + chosen[:, :, None] * STRETCH + torch.arange(STRETCH, device=tile.device)
    return _keys(values, place.flatten(1)).topk(k).values


def _keys(values: torch.Tensor, column: int | torch.Tensor) -> torch.Tensor:
    """Return one integer per entry that orders by value, then by falling column."""
    import torch

    if isinstance(column, int):
        column = torch.arange(column, column + values.shape[1], device=values.device)
    bits = values.contiguous().view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    return ordered.bitwise_left_shift_(_INDEX_BITS).add_(2**_INDEX_BITS - 1).sub_(column)


def _value(keys: torch.Tensor) -> torch.Tensor:
    """Return the values that keys were made of; -inf for places that are still empty."""
    import torch

    ordered = keys >> _INDEX_BITS
    bits = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(torch.int32)
    return bits.view(torch.float32).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _column(keys: torch.Tensor) -> torch.Tensor:
    return 2**_INDEX_BITS - 1 - (keys & (2**_INDEX_BITS - 1))


def _pair(x: Any, y: Any) -> tuple[_Rows, _Rows]:
    import torch

    device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
    left, right = _Rows(x, device), _Rows(y, device)
    if x.shape[1] != y.shape[1]:
        raise BadRows(f"vectors of widths {x.shape[1]} and {y.shape[1]} cannot be compared.")
    return left, right


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep full 32-bit products: training may have allowed coarser ones, which reorder neighbours."""
    import torch

    backends = (torch.backends.cuda, torch.backends.mkldnn)
    products = [getattr(backend, "matmul", None) for backend in backends]
    switches: list[Any] = [switch for switch in products if hasattr(switch, "fp32_precision")]
    before = [switch.fp32_precision for switch in switches]
    # Versions of torch without these switches have one for all.
    legacy = "" if switches else torch.get_float32_matmul_precision()
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        if legacy:
            torch.set_float32_matmul_precision("highest")
        with torch.inference_mode():
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
        if legacy:
            torch.set_float32_matmul_precision(legacy)


def _rescored(queries: _Rows, candidates: _Rows, index: np.ndarray) -> Neighbours:
    """Return neighbours with similarities in 64-bit floats, in the order that these give."""
    similarity = np.empty(index.shape)
    step = max(1, TILE // index.shape[1])
    for start in range(0, len(index), step):
        part = slice(start, min(start + step, len(index)))
        rows = queries.exact(np.arange(part.start, part.stop))
        similarity[part] = np.einsum("qw,qkw->qk", rows, candidates.exact(index[part]))
    order = np.lexsort((index, -similarity), axis=1)
    return Neighbours(*(np.take_along_axis(a, order, axis=1) for a in (index, similarity)))
