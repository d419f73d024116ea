"""Where points stand in a picture: two of their coordinates, or an embedding of the user's own, such as a UMAP."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._base.arguments import ArrayLike, as_host_or_traced, as_points
from .._base.arrays import spread_indices
from .._components.mixture import Mixture
from ._style import as_text, axis_name, check_dims, informative_dims

# Of so many known points, as many neighbors say where another one stands.
_MOST_POINTS, _NEIGHBORS = 5000, 10
# Closer than this share of the largest coordinate is the same point.
_TINY = 1e-12


class Places:
    """Places in the plane for points of the data's space.

    Attributes:
        dims: The dimensions that are shown, ``None`` for an embedding.
        names: What to write at both axes.
    """

    def __init__(
        self, dims: tuple[int, ...] | None, *, names: Any = None, function: Any = None, known: Any = None
    ) -> None:
        self.dims = dims
        self._function, self._known, self._tree = function, known, None
        if dims is None:
            self.names = ("embedding 1", "embedding 2")
        else:
            self.names = tuple(axis_name(i) if names is None else as_text(names[i]) for i in dims)

    @property
    def on_line(self) -> bool:
        """Whether there is one dimension to show, and no plane."""
        return self.dims is not None and len(self.dims) == 1

    def of(self, points: Any) -> np.ndarray:
        """Places of points, shapes ``[n, d]`` to ``[n, 2]`` (``[n, 1]`` on the line).

        Points that have no place of their own stand among their nearest neighbors that have one, at the mean by the
        inverse squared distance.
        """
        values = np.asarray(points, np.float64)
        if self.dims is not None:
            return values[:, list(self.dims)]
        if self._function is not None:
            return _as_plane("embedding", self._function(np.asarray(points)), len(values))
        from scipy.spatial import KDTree

        known, places = self._known
        if self._tree is None:
            self._tree = KDTree(known)
        num = min(_NEIGHBORS, len(known))
        distance, index = (part.reshape(-1, num) for part in self._tree.query(values, k=num))
        scale = np.maximum(distance[:, :1], _TINY * (1 + np.abs(known).max()))
        weight = 1 / (_TINY + (distance / scale) ** 2) if num > 1 else np.ones_like(distance)
        exact = distance[:, 0] <= _TINY * (1 + np.abs(known).max())
        weight[exact] = np.eye(num)[0]
        return np.einsum("nk,nkc->nc", weight / weight.sum(axis=1, keepdims=True), places[index])

    def moments(self, mixture: Mixture, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and covariances of a mixture's components in the plane, shapes ``[K, 2]`` and ``[K, 2, 2]``.

        In an embedding they are those of the points' places, by responsibility.
        """
        if self.dims is not None:
            chosen = list(self.dims)
            mean = np.asarray(mixture.components.mean(), np.float64)[:, chosen]
            return mean, np.asarray(mixture.components.covariance(), np.float64)[:, chosen][:, :, chosen]
        shown = np.asarray(points)[spread_indices(len(points), _MOST_POINTS)]
        member = np.asarray(mixture.responsibilities(shown), np.float64)
        places, mass = self.of(shown), member.sum(axis=0)
        shares = member / np.where(mass > 0, mass, 1)
        mean = shares.T @ places
        offset = places[:, None] - mean
        covariance = np.einsum("nk,nki,nkj->kij", shares, offset, offset)
        # A component of no point has no place.
        mean[mass <= 0], covariance[mass <= 0] = np.nan, np.nan
        return mean, covariance


def as_places(
    embedding: Any,
    dims: ArrayLike | None,
    sides: Sequence[tuple[str, Any]],
    mixtures: Sequence[Mixture] = (),
    *,
    names: Any = None,
) -> Places:
    """Places by an embedding where there is one, else by two dimensions.

    Args:
        embedding: A function of points; or the coordinates of each side's points, shapes ``[n, 2]``, as a sequence
            (of one side, the array itself will do); ``None`` for two dimensions of the data.
        dims: The two dimensions, or ``None`` for the first two that tell something.
        sides: Name and points of each side, ``None`` for points that are not given.
        mixtures: What the dimensions are to tell something about where no points are given.
        names: Names of the dimensions, or ``None``.

    Raises:
        ValueError: If there are not one pair of coordinates for each point, or both ``dims`` and ``embedding``.
    """
    given = [(name, points) for name, points in sides if points is not None]
    dim = mixtures[0].dim if mixtures else np.shape(given[0][1])[1]
    if embedding is None:
        shown = informative_dims(dim, mixtures, given) if dims is None or dim == 1 else check_dims(dims, dim)
        return Places(shown, names=names)
    if dims is not None:
        raise ValueError("`dims` choose two dimensions of the data: leave them out where there is an `embedding`.")
    if callable(embedding):
        return Places(None, function=embedding)
    absent = [name for name, points in sides if points is None]
    if absent:
        raise ValueError(f"`{absent[0]}` must be given with an `embedding` of points; or give it as a function.")
    tables = [embedding] if _is_table(embedding) else list(embedding)
    if len(tables) != len(sides):
        names = " and ".join(name for name, _ in sides)
        raise ValueError(f"`embedding` must hold coordinates of {names}, {len(sides)} arrays; got {len(tables)}.")
    known, places = [], []
    for table, (name, points) in zip(tables, sides, strict=True):
        values = np.asarray(as_points(name, points, dim), np.float64)
        own = _as_plane(f"embedding of {name}", table, len(values))
        chosen = spread_indices(len(values), _MOST_POINTS)
        known.append(values[chosen])
        places.append(own[chosen])
    return Places(None, known=(np.concatenate(known), np.concatenate(places)))


def coordinates(embedding: Any, number: int, points: Any, places: Places) -> np.ndarray:
    """Places of all points of one side: those that were given, where they were."""
    if embedding is None or callable(embedding):
        return places.of(points)
    table = embedding if _is_table(embedding) else embedding[number]
    return np.asarray(table, np.float64)


def _is_table(embedding: Any) -> bool:
    """Whether coordinates are those of one side."""
    return len(getattr(embedding, "shape", ())) == 2


def _as_plane(name: str, table: Any, num: int) -> np.ndarray:
    values = np.asarray(as_host_or_traced(name, table), np.float64)
    if values.shape != (num, 2) or not np.isfinite(values).all():
        raise ValueError(f"`{name}` must hold two finite numbers for each of {num} points; got shape {values.shape}.")
    return values
