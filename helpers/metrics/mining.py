"""Mining of translation pairs by margin scores, on exact nearest neighbours in bounded memory.

Cosines are computed tile by tile (matrix products in 32-bit floats) and only the best ``k`` per row
are kept. Of each tile, the rows whose largest entry cannot change their best ``k`` are passed over;
the others are searched in two steps, first the largest entry of each stretch of columns, then the
entries of the ``k`` best stretches. Nothing is approximated. The cosines that are returned are
computed again in 64-bit floats; equal ones rank by row number.
"""

import hashlib
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from helpers.errors import BadRows, HelpfulError

TILE = 2048  # Rows and columns of a tile: 16 MiB of similarities; more gains nothing.
STRETCH = 32  # Shorter stretches are slow to reduce, longer ones leave more to search.
_INDEX_BITS = 32
_NOTHING = -(2**63)


@dataclass(frozen=True)
class Neighbours:
    """The best candidates of each query, best first."""

    index: np.ndarray  # their row numbers, (queries, k)
    similarity: np.ndarray  # their cosines in 64-bit floats, (queries, k)


class Threshold(NamedTuple):
    """A score above which mined pairs are taken for translations."""

    value: float  # pairs with at least this score are kept
    f1: float  # reached on the pairs it was tuned on, if no two of them share its score


def mine(x: Any, y: Any, k: int = 4) -> pd.DataFrame:
    """Mine pairs of rows (``source``, ``target``, ``score``) of x and y by margin, each text once.

    Source: Artetxe and Schwenk (2019), ratio margin, as XTREME applies it to BUCC.
    """
    # A pair scores its cosine over the mean cosine of both to their nearest on the other side.
    forward, backward = nearest_both(x, y, k)
    x_mean, y_mean = (side.similarity.mean(axis=1) for side in (forward, backward))
    found = []
    # The best target of each source, then the best source of each target.
    for near, own, theirs, one, other in (
        (forward, x_mean, y_mean, "source", "target"),
        (backward, y_mean, x_mean, "target", "source"),
    ):
        mean = (own[:, None] + theirs[near.index]) / 2
        if mean.min() <= 0:
            said = "a ratio margin needs neighbours with positive mean cosine, and some have none"
            raise HelpfulError(f"{said}: are they centred? Mine from the encoder's own vectors.")
        score = near.similarity / mean
        best = score.argmax(axis=1)[:, None]
        chosen = np.take_along_axis(near.index, best, axis=1)[:, 0]
        rows = {one: np.arange(len(chosen)), other: chosen, "score": score.max(axis=1)}
        found.append(pd.DataFrame(rows))
    pairs = pd.concat(found)
    pairs = pairs[pairs["score"] > 0].sort_values("score", ascending=False, kind="stable")
    # Each text is in one pair at most: the better one takes it.
    taken: tuple[set[int], set[int]] = set(), set()
    free = []
    for pair in zip(pairs["source"].tolist(), pairs["target"].tolist(), strict=True):
        free.append(pair[0] not in taken[0] and pair[1] not in taken[1])
        if free[-1]:
            taken[0].add(pair[0])
            taken[1].add(pair[1])
    return pairs[free].reset_index(drop=True)


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
        source_vectors, target_vectors: one vector per text, shapes ``(n, width)``, ``(m, width)``.
        source_texts, target_texts: those that differ only in white space at their ends are repetitions.
        source_ids, target_ids: an id for each text, of that text alone.

    Returns:
        Columns ``source``, ``target`` (ids) and ``score``, by falling score, without pairs of which
        a text is repeated. BadRows says what does not fit together.
    """
    x_rows, x_ids = _merged("source", source_vectors, source_texts, source_ids)
    y_rows, y_ids = _merged("target", target_vectors, target_texts, target_ids)
    mined = mine(source_vectors[x_rows], target_vectors[y_rows])
    kept = [
        (x_ids[one][0], y_ids[other][0], score)
        for one, other, score in zip(*(mined[name].tolist() for name in mined), strict=True)
        if len(x_ids[one]) == len(y_ids[other]) == 1
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
            said = f"{side} id {name!r} stands for two texts, {seen[name]!r} and {text!r}"
            raise BadRows(f"{said}: give each text an id of its own.")
        seen[name] = text
        repeated.setdefault(text.strip(), []).append(name)
    # A repeated text keeps its last vector, and its first place: ties rank as in the texts.
    last = {text: place for place, text in enumerate(texts)}
    return np.fromiter(last.values(), np.int64), [repeated[text.strip()] for text in last]


def tune_threshold(pairs: pd.DataFrame, gold: Collection[tuple[Hashable, Hashable]]) -> Threshold:
    """Choose the threshold that gives the best F1 on development pairs, as XTREME does.

    Args:
        pairs: columns ``source``, ``target``, ``score``, as :func:`mine_texts` gives them.
        gold: the right pairs (source id, target id), at least one.

    Returns:
        The threshold, midway between the last pair kept and the next (where keeping all is best and
        the official code fails, the last score); 0.0 where no pair is right.
    """
    right = set(gold)
    if not right:
        raise BadRows("no gold pairs: a threshold cannot be tuned without them.")
    # F1 after each pair by falling score; the best place decides.
    ranked = pairs.sort_values("score", ascending=False, kind="stable")
    hits = np.cumsum([pair in right for pair in apply_threshold(ranked, -np.inf)])
    if not len(hits) or not hits[-1]:
        return Threshold(0.0, 0.0)
    # In this form and order, so that ties between positions fall as they do in the official code.
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / len(right)
    with np.errstate(invalid="ignore"):
        f1 = np.where(hits > 0, 2 * precision * recall / (precision + recall), 0.0)
    last = int(f1.argmax())
    scores = ranked["score"].to_numpy()
    following = scores[min(last + 1, len(scores) - 1)]
    return Threshold(float(scores[last] + following) / 2, float(f1[last]))


def apply_threshold(pairs: pd.DataFrame, threshold: float) -> list[tuple[Any, Any]]:
    """Return the pairs (source id, target id) that score at least the threshold."""
    kept = pairs[pairs["score"] >= threshold]
    return list(zip(kept["source"], kept["target"], strict=True))


def in_first_half(source_id: Hashable) -> bool:
    """Say to which half of a corpus a source text belongs, by a hash of its id."""
    return hashlib.sha256(str(source_id).encode()).digest()[0] % 2 == 0


# --- Exact search ---------------------------------------------------------------------------------
def nearest(queries: Any, candidates: Any, k: int = 1) -> Neighbours:
    """Find the ``k`` candidates of largest cosine for each query, exactly; memory maps stay on disk."""
    return nearest_both(queries, candidates, k, both=False)[0]


def nearest_both(x: Any, y: Any, k: int = 4, both: bool = True) -> list[Neighbours]:
    """Find the ``k`` nearest ``y`` of each ``x`` and the reverse, from one pass of products."""
    for side in (x, y):
        if getattr(side, "ndim", 0) != 2 or not len(side):
            raise BadRows(f"vectors must have shape (n, width), got {getattr(side, 'shape', '?')}.")
    if x.shape[1] != y.shape[1]:
        raise BadRows(f"vectors of widths {x.shape[1]} and {y.shape[1]} cannot be compared.")
    if k < 1:
        raise HelpfulError(f"k must be at least 1, got {k}.")
    best = [_Best(len(x), min(k, len(y)))] + [_Best(len(y), min(k, len(x)))] * both
    with torch.inference_mode(), _exact_products():
        # Queries are held, unless they are on disk: they are read once for each tile of candidates.
        held = None if isinstance(x, np.memmap) else list(_tiles(x))
        for column, columns in _tiles(y):
            for row, rows in held or _tiles(x):
                tile = rows @ columns.T
                best[0].update(tile, row, column)
                if both:
                    best[1].update(tile, column, row, axis=0)
    return [_rescored(*side, one) for side, one in zip(((x, y), (y, x)), best, strict=False)]


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep full 32-bit products: training may have allowed coarser ones, which reorder neighbours."""
    # Versions of torch without a switch for processors have one for all devices.
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    before = switch.fp32_precision if switch else torch.get_float32_matmul_precision()
    own: Any = partial(setattr, switch, "fp32_precision")
    put = own if switch else torch.set_float32_matmul_precision
    put("ieee" if switch else "highest")
    try:
        yield
    finally:
        put(before)


def _tiles(vectors: Any) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number of the first row and the rows, in 32-bit floats of length 1, by tile."""
    for start in range(0, len(vectors), TILE):
        rows = torch.from_numpy(np.array(vectors[start : start + TILE], np.float32))
        norms = torch.linalg.vector_norm(rows, dim=1)
        odd = norms.isfinite().logical_not().nonzero()
        if len(odd):
            row = start + int(odd[0, 0])
            raise BadRows(f"vector {row} is not finite: look at the text it was made from.")
        yield start, rows / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None]


def _rescored(queries: Any, candidates: Any, best: "_Best") -> Neighbours:
    """Return neighbours with cosines in 64-bit floats, in the order that these give."""

    def exact(vectors: Any, index: np.ndarray) -> np.ndarray:
        rows = np.asarray(vectors[index], np.float64)
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(float).tiny)

    index = _column(best.keys).numpy()
    similarity = np.empty(index.shape)
    step = max(1, TILE // index.shape[1])
    for start in range(0, len(index), step):
        part = np.arange(start, min(start + step, len(index)))
        rows, others = exact(queries, part), exact(candidates, index[part])
        similarity[part] = np.einsum("qw,qkw->qk", rows, others)
    order = np.lexsort((index, -similarity), axis=1)
    return Neighbours(*(np.take_along_axis(a, order, axis=1) for a in (index, similarity)))


class Taken:
    """``vectors[places]``, taken only where it is read: a choice among a million is no copy."""

    ndim = 2

    def __init__(self, vectors: np.ndarray, places: np.ndarray) -> None:
        self.vectors, self.places = vectors, places
        self.shape = (len(places), vectors.shape[1])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.vectors[self.places[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class _Best:
    """The best ``k`` entries seen so far of each row of a matrix that arrives in tiles."""

    def __init__(self, rows: int, k: int) -> None:
        self.k = k
        # An entry is one integer whose upper half orders as its value and whose lower half falls with
        # its column: the largest integers are the best entries, equal values by column.
        self.keys = torch.full((rows, k), _NOTHING)
        self.worst = torch.full((rows,), -torch.inf)

    def update(self, tile: torch.Tensor, row: int, column: int, axis: int = 1) -> None:
        """Take in a tile (its transpose with ``axis=0``) from a row and column on; columns rise."""
        # Rows whose largest entry cannot change their best are passed over.
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


def _largest(tile: torch.Tensor, k: int, column: int, axis: int) -> torch.Tensor:
    """Return the keys of the ``k`` largest entries along an axis, shape ``(rows, k)``."""
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
        place = torch.arange(len(tile))[:, None] * parts.shape[1] + chosen
        values = parts.flatten(0, 1).index_select(0, place.flatten()).view(len(tile), -1)
    else:
        values = (
            parts.gather(0, chosen.T[:, None].expand(-1, STRETCH, -1)).permute(2, 0, 1).flatten(1)
        )
    place = column + chosen[:, :, None] * STRETCH + torch.arange(STRETCH)
    return _keys(values, place.flatten(1)).topk(k).values


def _keys(values: torch.Tensor, column: int | torch.Tensor) -> torch.Tensor:
    """Return one integer per entry that orders by value, then by falling column."""
    if isinstance(column, int):
        column = torch.arange(column, column + values.shape[1])
    bits = values.contiguous().view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    return ordered.bitwise_left_shift_(_INDEX_BITS).add_(2**_INDEX_BITS - 1).sub_(column)


def _value(keys: torch.Tensor) -> torch.Tensor:
    """Return the values that keys were made of; -inf for places that are still empty."""
    ordered = keys >> _INDEX_BITS
    bits = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(torch.int32)
    return bits.view(torch.float32).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _column(keys: torch.Tensor) -> torch.Tensor:
    return 2**_INDEX_BITS - 1 - (keys & (2**_INDEX_BITS - 1))
