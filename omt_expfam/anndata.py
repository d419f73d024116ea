"""Plans between AnnData objects: representations in, images, labels, tables and the plan itself back into them.

Nothing here imports the anndata package: whatever has its attributes (``X``, ``obs``, ``obsm``, ``uns``, ``var_names``,
``varm``) will do.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ._base.arguments import as_key, KeyLike
from ._base.labels import as_labels
from ._files.frames import representation
from ._files.tree import decode_object, encode_object
from ._fitting.fit import Fit, fit
from ._fitting.labeled import mixture_from_labels
from ._plans.groups import group_shares
from ._plans.plan import TransportPlan
from ._plans.transfer import Transfer
from ._report.report import report as write_page
from ._storage import library_classes

# Where scanpy keeps the loadings of principal components; others keep them under the name of the representation.
_LOADINGS = {"X_pca": "PCs"}
_UMAP = "X_umap"
_NEEDED = ("X", "obs", "obsm", "uns", "var_names", "varm")
# Loadings that differ by more, relative to the largest, are of another analysis.
_SAME = 1e-3


def points(adata: Any, use_rep: str = "X_pca") -> Float[np.ndarray, "n d"]:
    """The points of a representation.

    Args:
        adata: An AnnData object, n observations.
        use_rep: A key of ``obsm``, or ``"X"``.

    Raises:
        TypeError: If ``adata`` is no AnnData object.
        ValueError: If it has no such representation.
    """
    return _points("adata", adata, use_rep)


def mixtures(
    key: KeyLike,
    source: Any,
    target: Any,
    family: Any,
    num_components: int | None = None,
    *,
    groupby: str | tuple[str | None, str | None] | None = None,
    use_rep: str = "X_pca",
    **settings: Any,
) -> tuple[Fit, Fit]:
    """Fit a mixture to either side, in coordinates that both share.

    Args:
        key: Random key.
        source: An AnnData object.
        target: Another one.
        family: A component family or a `template`, as for `fit`.
        num_components: Number of components of a side whose groups are not known.
        groupby: The column of ``obs`` that holds groups, which are then the components (`mixture_from_labels`); a pair
            for two columns, with ``None`` for a side without. Such a side starts from the components of the other one
            unless ``num_components`` is given.
        use_rep: A key of ``obsm``, or ``"X"``. The features of ``X`` are brought into the order of the source's.
        **settings: Passed on to `fit` and `mixture_from_labels`: ``sample_weight`` aside, those that both take.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the sides have different features or loadings, or there is nothing to tell the number of
            components from; or as `fit` does.
    """
    sides = _pair(source, target, use_rep)
    columns = groupby if isinstance(groupby, tuple) else (groupby, groupby)
    if len(columns) != 2:
        raise ValueError(f"`groupby` must be the name of a column or a pair of two; got {len(columns)}.")
    if columns == (None, None) and num_components is None:
        raise ValueError("`num_components` or `groupby` must be given: how many components are there?")
    known: list[Any] = [
        None if column is None else mixture_from_labels(x, _labels(name, adata, column), family, **settings)
        for name, adata, x, column in zip(("source", "target"), (source, target), sides, columns, strict=True)
    ]
    keys = jax.random.split(as_key(key))
    for side in (0, 1):
        if known[side] is None:
            other = known[1 - side] if num_components is None else None
            number: Any = num_components if other is None else other.mixture.num_components
            start = {} if other is None else {"start": other.mixture}
            known[side] = fit(keys[side], sides[side], family, number, **start, **settings)
    return known[0], known[1]


def annotate(plan: TransportPlan, source: Any, target: Any = None, *, use_rep: str = "X_pca", key: str = "omt") -> None:
    """Write what a plan says of every observation into the AnnData objects, and the plan itself.

    ``source.obsm["omt_image"]`` holds the images (`TransportPlan.push_forward`), ``target.obsm["omt_origin"]`` the
    images of target points in the source (`pull_back`), and in both ``obsm["omt_responsibilities"]`` the
    responsibilities of components and ``obs["omt_component"]`` the likeliest one. ``uns["omt"]`` holds the table of
    correspondences and the plan, in a form that ``write_h5ad`` writes and `read_plan` reads.

    Args:
        plan: The plan.
        source: The AnnData object of its source.
        target: That of its target, or ``None``.
        use_rep: The representation that the plan was made in.
        key: What the names of all entries begin with.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the sides have different features or loadings, or other ones than the plan.
    """
    import pandas as pd

    sides = (_points("source", source, use_rep),) if target is None else _pair(source, target, use_rep)
    features = source.var_names if use_rep == "X" else None
    table = pd.DataFrame(plan.correspondences().to_dict())
    stored = np.frombuffer(encode_object(plan, library_classes()), np.uint8)
    # All is computed before anything is written.
    found = []
    for side, (adata, x) in enumerate(zip((source, target), sides, strict=False)):
        mixture, move = ((plan.source, plan.push_forward), (plan.target, plan.pull_back))[side]
        member, image = np.asarray(mixture.responsibilities(x)), np.asarray(move(x)).astype(x.dtype)
        found.append((adata, member, image, plan.component_names[side]))
    for (adata, member, image, names), what in zip(found, ("image", "origin"), strict=False):
        called: Any = [str(k) for k in range(member.shape[1])] if names is None else list(names)
        kept = image if features is None else pd.DataFrame(image, adata.obs_names, features)
        adata.obsm[f"{key}_{what}"] = kept
        adata.obsm[f"{key}_responsibilities"] = pd.DataFrame(member, adata.obs_names, called)
        adata.obs[f"{key}_component"] = pd.Categorical.from_codes(member.argmax(axis=1), called)
        adata.uns[key] = {"plan": stored, "correspondences": table, "use_rep": use_rep}


def read_plan(adata: Any, key: str = "omt", *, families: Mapping[str, type] | None = None) -> TransportPlan:
    """The plan that `annotate` wrote.

    Args:
        adata: An AnnData object.
        key: As for `annotate`.
        families: Families of your own that the plan may hold, as for `load`.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    _check("adata", adata)
    if key not in adata.uns or "plan" not in adata.uns[key]:
        raise ValueError(f"`adata` must have a plan in uns[{key!r}], which `annotate` writes; it has none.")
    data = np.asarray(adata.uns[key]["plan"], np.uint8).tobytes()
    return decode_object(f"uns[{key!r}]", data, library_classes(), families)


def transfer(
    plan: TransportPlan, source: Any, target: Any, groupby: str, *, use_rep: str = "X_pca", key: str = "omt"
) -> Transfer:
    """Carry labels of the source over to the target (`TransportPlan.transfer`), and write them there.

    ``target.obs["omt_cell_type"]`` holds the likeliest label, ``target.obs["omt_cell_type_probability"]`` its
    probability, and ``target.obsm["omt_cell_type"]`` those of all labels, for ``groupby="cell_type"``.

    Args:
        plan: A plan from ``source`` to ``target``; ``plan.reverse()`` carries labels back.
        source: The AnnData object whose labels are known.
        target: The other one.
        groupby: The column of ``source.obs`` that holds them.
        use_rep: The representation that the plan was made in.
        key: What the names of all entries begin with.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If a label is missing, or the sides have different features or loadings.
    """
    import pandas as pd

    x, y = _pair(source, target, use_rep)
    found = plan.transfer(_labels("source", source, groupby), x, y)
    names: Any = [str(name) for name in found.names]
    best = found.probabilities.argmax(axis=1)
    target.obs[f"{key}_{groupby}"] = pd.Categorical.from_codes(best, names)
    target.obs[f"{key}_{groupby}_probability"] = found.probabilities.max(axis=1)
    target.obsm[f"{key}_{groupby}"] = pd.DataFrame(found.probabilities, target.obs_names, names)
    return found


def transitions(
    plan: TransportPlan,
    source: Any,
    target: Any,
    groupby: str,
    target_groupby: str | None = None,
    *,
    use_rep: str = "X_pca",
) -> Any:
    """Which part of each group of the source goes to each group of the target, as a data frame.

    Groups that are the plan's own components are read off its coupling; others through the components that they share
    (`group_shares`).

    Args:
        plan: A plan from ``source`` to ``target``.
        source: The AnnData object of its source.
        target: That of its target.
        groupby: The column of ``source.obs`` that holds the groups.
        target_groupby: That of ``target.obs``; the same by default.
        use_rep: The representation that the plan was made in.

    Returns:
        A data frame with a row for each group of the source, each of sum one, and a column for each of the target.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If a group is missing, or the sides have different features or loadings.
    """
    import pandas as pd

    columns = groupby, groupby if target_groupby is None else target_groupby
    x, y = _pair(source, target, use_rep)
    sides = zip(("source", "target"), (source, target), (plan.source, plan.target), (x, y), columns, strict=True)
    groups, names = [], []
    for (name, adata, mixture, found, column), own in zip(sides, plan.component_names, strict=True):
        labels = _labels(name, adata, column).astype(str)
        names.append(sorted(set(labels)))
        groups.append(None if set(own or ()) == set(labels) else group_shares(mixture, found, labels))
    flows = plan.group_flows(*groups)
    rows, into = ([flows.names.index(name) for name in side] for side in names)
    return pd.DataFrame(flows.transitions[0][np.ix_(rows, into)], *names)


def report(
    path: str | os.PathLike[str],
    plan: TransportPlan,
    source: Any,
    target: Any,
    groupby: str | None = None,
    target_groupby: str | None = None,
    *,
    use_rep: str = "X_pca",
    basis: str | None = None,
    **options: Any,
) -> None:
    """Write one HTML page on a plan (`omt_expfam.report`), its pictures in the embedding of the objects.

    Args:
        path: The page.
        plan: A plan from ``source`` to ``target``.
        source: The AnnData object of its source.
        target: That of its target.
        groupby: The column of ``source.obs`` that holds labels.
        target_groupby: That of ``target.obs``; the same by default, where it is there.
        use_rep: The representation that the plan was made in.
        basis: The key of ``obsm`` whose first two columns are the coordinates to draw at; by default ``"X_umap"``,
            where both have it.
        **options: Passed on to `omt_expfam.report`.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If a column or the basis is missing, or the sides have different features or loadings.
    """
    x, y = _pair(source, target, use_rep)
    sides = ("source", source), ("target", target)
    if basis is None and all(_UMAP in side.obsm for _, side in sides):
        basis = _UMAP
    if basis is not None:
        options["embedding"] = tuple(_points(name, side, basis)[:, :2] for name, side in sides)
    if groupby is not None:
        other = groupby if target_groupby is None and groupby in target.obs else target_groupby
        found = None if other is None else _labels("target", target, other)
        options["labels"] = (_labels("source", source, groupby), found)
    write_page(path, plan, x, y, **options)


def to_genes(adata: Any, values: Any, *, use_rep: str = "X_pca") -> Any:
    """Points of a principal component space as the features that its loadings make of them, as a data frame.

    The features' means are those of ``adata.X``: ``adata``'s own points give what the components keep of it, and the
    difference of two such tables is a displacement of features. Features without any loading are left out.

    Args:
        adata: The AnnData object whose representation it is, n observations.
        values: Points of that representation, shape ``[n, d]``; or the name of an entry of ``obsm``.
        use_rep: The representation. ``varm["PCs"]`` holds the loadings of ``"X_pca"``, ``varm[use_rep]`` those of
            others.

    Returns:
        A data frame with a row for each observation and a column for each feature.

    Raises:
        TypeError: If ``adata`` is no AnnData object.
        ValueError: If there are no such loadings, or the points have another shape than the representation.
    """
    import pandas as pd

    own = _points("adata", adata, use_rep)
    loadings = _loadings(adata, use_rep)
    if loadings is None or loadings.shape[1] < own.shape[1]:
        raise ValueError(f"`adata` must have the loadings of {use_rep!r} in varm[{_kept(use_rep)!r}]; it has not.")
    moved = _points("adata", adata, values) if isinstance(values, str) else np.asarray(values)
    if moved.shape != own.shape:
        raise ValueError(f"`values` must have the shape of {use_rep!r}, {own.shape}; got {moved.shape}.")
    loadings = np.asarray(loadings[:, : own.shape[1]], np.float64)
    used = np.flatnonzero((loadings != 0).any(axis=1))
    means = np.asarray(adata.X.mean(axis=0), np.float64).reshape(-1)[used]
    table = (moved - own.mean(axis=0, dtype=np.float64)) @ loadings[used].T + means
    return pd.DataFrame(table, adata.obs_names, adata.var_names[used])


def _check(name: str, adata: Any) -> None:
    missing = [part for part in _NEEDED if not hasattr(adata, part)]
    if missing:
        raise TypeError(f"`{name}` must be an AnnData object; got {type(adata).__name__}, which has no {missing[0]!r}.")


def _points(name: str, adata: Any, use_rep: str) -> np.ndarray:
    _check(name, adata)
    table = representation(adata, use_rep)
    if table is None:
        known = ", ".join(["X", *adata.obsm])
        raise ValueError(f"`use_rep` must name a representation of `{name}`, which has {known}; got {use_rep!r}.")
    return table


def _pair(source: Any, target: Any, use_rep: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of both sides, features in the source's order.

    Raises:
        TypeError: If a side is no AnnData object.
        ValueError: If their coordinates are not the same.
    """
    x, y = _points("source", source, use_rep), _points("target", target, use_rep)
    names = source.var_names, target.var_names
    if use_rep == "X":
        order = _order(*names)
        return x, y[:, order]
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`source` and `target` must have {use_rep!r} of one dimension; got {x.shape[1]} and {y.shape[1]}."
        )
    loadings = [_loadings(side, use_rep) for side in (source, target)]
    if loadings[0] is not None and loadings[1] is not None:
        first, second = (np.asarray(table)[:, : x.shape[1]] for table in loadings)
        second = second[_order(*names)] if set(names[0]) == set(names[1]) else second
        if first.shape != second.shape or not np.allclose(first, second, rtol=0, atol=_SAME * np.abs(first).max()):
            raise ValueError(
                f"`source` and `target` must have the same loadings of {use_rep!r} in varm[{_kept(use_rep)!r}]: theirs "
                "differ, so that their coordinates mean different things. Concatenate them, and compute one analysis."
            )
    return x, y


def _order(first: Any, second: Any) -> np.ndarray:
    """Where each name of the first is in the second.

    Raises:
        ValueError: If names occur twice, or the second has others.
    """
    where = {name: index for index, name in enumerate(second)}
    if len(where) != len(second) or len(set(first)) != len(first):
        raise ValueError("`source` and `target` must have features of different names: call `var_names_make_unique`.")
    absent = [name for name in first if name not in where]
    if absent or len(first) != len(second):
        name, side, other = (
            (absent[0], "source", "target")
            if absent
            else (next(name for name in second if name not in set(first)), "target", "source")
        )
        raise ValueError(
            f"`source` and `target` must have the same features; {name!r} of the {side} is missing in the {other}."
        )
    return np.array([where[name] for name in first])


def _kept(use_rep: str) -> str:
    """Where the loadings of a representation are kept."""
    return _LOADINGS.get(use_rep, use_rep)


def _loadings(adata: Any, use_rep: str) -> np.ndarray | None:
    kept = _kept(use_rep)
    return np.asarray(adata.varm[kept]) if kept in adata.varm else None


def _labels(name: str, adata: Any, column: str) -> np.ndarray:
    if column not in adata.obs:
        raise ValueError(f"`groupby` must name a column of `{name}.obs`; got {column!r}.")
    return as_labels(f"{name}.obs[{column!r}]", adata.obs[column], len(adata.obs))
