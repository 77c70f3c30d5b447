"""Exact nearest neighbours in bounded memory, on the CPU or a GPU.

Similarities are computed tile by tile (matrix products in 32-bit floats) and only the best ``k`` per
row are kept. Of each tile, the rows whose largest entry cannot change their best ``k`` are passed
over; the others are searched in two steps, first the largest entry of each stretch of columns, then
the entries of the ``k`` best stretches. Nothing is approximated. The similarities that are returned
are computed again in 64-bit floats; equal ones rank by row number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.errors import BadRows, HelpfulError, unknown

if TYPE_CHECKING:
    import torch

SIMILARITIES = ("cosine", "dot")

TILE = 2048  # Rows and columns of a tile on a CPU: 16 MiB of similarities; more gains nothing.
GPU_TILE = 8192  # On a GPU, fewer and larger steps.
STRETCH = 32  # Shorter stretches are slow to reduce, longer ones leave more to search.
_INDEX_BITS = 32
_NOTHING = -(2**63)


@dataclass(frozen=True)
class Neighbours:
    """The best candidates of each query.

    Attributes:
        index: row numbers of the candidates, best first, shape ``(queries, k)``, 64-bit integers.
        similarity: their similarities, shape ``(queries, k)``, 64-bit floats.
    """

    index: np.ndarray
    similarity: np.ndarray


def nearest(
    queries: Any,
    candidates: Any,
    k: int = 1,
    similarity: str = "cosine",
    device: str | None = None,
) -> Neighbours:
    """Find the ``k`` most similar candidates of each query, exactly.

    Candidates are read once, in order, ``TILE`` rows at a time: a memory-mapped array
    (``numpy.load(path, mmap_mode="r")``) of any size and any float type is never held in memory.

    Args:
        queries: vectors, shape ``(queries, width)``; a NumPy array or a torch tensor.
        candidates: vectors, shape ``(candidates, width)``; likewise.
        k: how many to keep; at most the number of candidates are.
        similarity: ``"cosine"`` or ``"dot"``. A vector of zeros has cosine 0 with everything.
        device: torch device that computes; by default that of the queries, the CPU for arrays.

    Returns:
        Indices and similarities, best first; equal similarities by row number.

    Raises:
        BadRows: no vectors, different widths, or a vector that is not finite.
        UnknownName: no such similarity.
    """
    left, right = _pair(queries, candidates, similarity, device)
    best = _Best(len(left), min(k, len(right)), left.device)
    left.keep()
    with _exact_products():
        for first, columns in right.tiles():
            for start, rows in left.tiles():
                best.update(rows @ columns.T, start, first)
    return _rescored(left, right, best.index())


def nearest_both(
    x: Any, y: Any, k: int = 4, similarity: str = "cosine", device: str | None = None
) -> tuple[Neighbours, Neighbours]:
    """Find the ``k`` nearest ``y`` of each ``x`` and the reverse, from one pass of products.

    Args:
        x: vectors, shape ``(n, width)``.
        y: vectors, shape ``(m, width)``.
        k: how many to keep.
        similarity: ``"cosine"`` or ``"dot"``.
        device: torch device that computes; by default that of ``x``.

    Returns:
        Neighbours of each ``x`` among ``y``, and of each ``y`` among ``x``.

    Raises:
        BadRows: no vectors, different widths, or a vector that is not finite.
        UnknownName: no such similarity.
    """
    left, right = _pair(x, y, similarity, device)
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
        """Stand for ``vectors[places]``.

        Args:
            vectors: shape ``(n, width)``.
            places: row numbers, shape ``(rows,)``.
        """
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
    """Vectors, read in tiles as 32-bit floats on a device, of length 1 for cosines."""

    def __init__(self, vectors: Any, normalise: bool, device: torch.device) -> None:
        if getattr(vectors, "ndim", 0) != 2 or not len(vectors):
            raise BadRows(
                f"vectors must have shape (n, width), got {getattr(vectors, 'shape', '?')}."
            )
        self.vectors = vectors
        self.normalise = normalise
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
        return (
            rows / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
            if self.normalise
            else rows
        )

    def exact(self, index: np.ndarray) -> np.ndarray:
        """Return rows in 64-bit floats, of length 1 for cosines."""
        rows = self.vectors[index]
        rows = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows, np.float64)
        if not self.normalise:
            return rows
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(float).tiny)


class _Best:
    """The best ``k`` entries seen so far of each row of a matrix that arrives in tiles.

    An entry is held as one integer whose upper half orders as its value does and whose lower half
    falls with its column: the largest integers are the best entries, equal values by column.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        import torch

        if k < 1:
            raise HelpfulError(f"k must be at least 1, got {k}.")
        self.k = k
        self.keys = torch.full((rows, k), _NOTHING, dtype=torch.int64, device=device)
        self.worst = torch.full((rows,), -torch.inf, device=device)

    def update(self, tile: torch.Tensor, row: int, column: int, axis: int = 1) -> None:
        """Take in a tile whose upper left entry has the given row and column; columns must rise.

        Args:
            tile: entries, shape ``(rows, columns)``, or the transpose with ``axis=0``.
            row: row of the first entry.
            column: column of the first entry.
            axis: dimension of the tile along which columns run.
        """
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
    """Return the keys of the ``k`` largest entries along an axis, or of all if there are fewer.

    Args:
        tile: entries, shape ``(rows, columns)``, or the transpose with ``axis=0``.
        k: how many.
        column: column of the first entry.
        axis: dimension along which columns run.

    Returns:
        Keys of shape ``(rows, k)``.
    """
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


def _pair(x: Any, y: Any, similarity: str, device: str | None) -> tuple[_Rows, _Rows]:
    import torch

    if similarity not in SIMILARITIES:
        raise unknown("similarity", similarity, SIMILARITIES)
    place = torch.device(device or (x.device if isinstance(x, torch.Tensor) else "cpu"))
    left, right = (_Rows(vectors, similarity == "cosine", place) for vectors in (x, y))
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
