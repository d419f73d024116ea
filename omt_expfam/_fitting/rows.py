"""Data that stay where they are, on disk or elsewhere, read some rows at a time."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Numbers in a block of rows that is read at once.
_BLOCK = 2**22
# Files mapped into memory that are smaller are read at once, bytes.
_SMALL = 2**28


class Rows:
    """A table of numbers of which only some rows are in memory at a time.

    Args:
        source: Anything with ``shape``, ``dtype`` and slices of rows.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If it is no table.
    """

    def __init__(self, source: Any):
        dtype = np.dtype(source.dtype)
        if dtype.kind not in "fiub":
            raise TypeError(f"`x` must be an array of real numbers; got dtype {dtype}.")
        if len(source.shape) != 2:
            raise ValueError(f"`x` must have shape [n, d]; got shape {tuple(source.shape)}.")
        self._source = source
        self.shape = tuple(int(size) for size in source.shape)
        self.dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Some neighboring rows, in memory."""
        return np.ascontiguousarray(np.asarray(self._source[rows]), self.dtype)

    def blocks(
        self, size: int | None = None, prepare: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows, block by block; the next one is read, and prepared, while one is worked on."""
        size = max(1, _BLOCK // self.shape[1]) if size is None else size
        places = [slice(first, min(first + size, len(self))) for first in range(0, len(self), size)]

        def read(place: slice) -> np.ndarray:
            return self[place] if prepare is None else prepare(self[place])

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(read, places[0])
            for place, following in itertools.zip_longest(places, places[1:]):
                block = ahead.result()
                if following is not None:
                    ahead = pool.submit(read, following)
                yield place, block

    def take(self, index: np.ndarray) -> np.ndarray:
        """Some rows, in the order of their numbers ``index``, by one pass over the data."""
        order = np.argsort(index, kind="stable")
        found = np.empty((len(index), self.shape[1]), self.dtype)
        for place, block in self.blocks():
            first, end = np.searchsorted(index[order], (place.start, place.stop))
            found[order[first:end]] = block[index[order[first:end]] - place.start]
        return found


def blocks_of(points: np.ndarray | Rows) -> Iterator[tuple[slice, np.ndarray]]:
    """All points: at once where they are in memory, else some rows at a time."""
    return points.blocks() if isinstance(points, Rows) else iter([(slice(0, len(points)), points)])


def is_out_of_memory(x: Any) -> bool:
    """Whether rows of ``x`` are better read from where they are.

    Large files mapped into memory, and data sets of h5py, zarr or dask, which come in chunks.
    """
    if isinstance(x, Rows):
        return True
    if isinstance(x, np.memmap):
        return x.nbytes > _SMALL
    return all(hasattr(x, name) for name in ("chunks", "shape", "dtype")) and not hasattr(x, "coords")
