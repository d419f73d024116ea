"""A mixture whose components are known groups of points."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike
from .._base.arrays import log_share
from .._base.labels import as_memberships
from .._base.results import RESULTS
from .._base.tables import column_names
from .._base.xla import program
from .._family.em_family import AbstractEMFamily, AbstractRegularEMFamily, verify
from .._family.template import as_template, in_order_of, Template
from .climb import steps_of, without_padding
from .data import read_data
from .em import EMState, initial_state
from .fit import Fit, package
from .problem import working_precision

# M-steps for families whose M-step improves on components instead of finding the best at once.
_STEPS = 20


def mixture_from_labels(
    x: ArrayLike,
    labels: Any,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily,
    *,
    sample_weight: ArrayLike | None = None,
    covariance_prior: float | None = None,
    regularization: float = 1e-6,
    standardize: bool = True,
    dtype: str = "float64",
) -> Fit:
    """The mixture whose components are known groups, such as cell types: one M-step with the labels in place of EM.

    Each component is fitted to the points of its group, with the same prior as in `fit`: a few pseudo-observations with
    the spread pooled over groups steady the small ones.

    Args:
        x: Points, shape ``[n, d]``.
        labels: The group of each point, a name or number, length n; or probabilities of groups, shape ``[n, K]``, whose
            columns a table names. Groups are in increasing order, or in that of the columns.
        family: A component family or a `template`, as for `fit`.
        sample_weight: Nonnegative weights of the points, shape ``[n]``, as in `fit`.
        covariance_prior: Number of pseudo-observations behind each covariance, as in `fit`.
        regularization: Added to the variances, as in `fit`.
        standardize: Center and scale the data inside, as in `fit`.
        dtype: ``"float64"`` or ``"float32"``, as in `fit`.

    Returns:
        The fit. Its ``names`` are the groups, and its ``effective_sizes`` their points.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If labels are missing, a group has no points, or the data are refused by `fit`.
    """
    chosen = as_template(family)
    x = in_order_of(chosen, "x", x)
    names, memberships = as_memberships("labels", labels, np.shape(x)[0] if np.ndim(x) else 0)
    used = slice(None) if sample_weight is None else np.asarray(sample_weight) > 0
    data = read_data(
        x,
        chosen,
        len(names),
        sample_weight=sample_weight,
        covariance_prior=covariance_prior,
        regularization=regularization,
        standardize=standardize,
        tolerance=None,
        dtype=dtype,
        chunk_size=None,
    )
    weighted = memberships[used] * data.weight[:, None]
    empty = np.flatnonzero(weighted.sum(axis=0) == 0)
    if empty.size:
        raise ValueError(f"`labels` must give every group some points; {names[empty[0]]!r} has none.")
    with working_precision(dtype):
        problem = data.problem()
        table = np.zeros((problem.slots, len(problem.x)), problem.x.dtype)
        table[: len(names), : problem.num_points] = weighted.T
        settings = jax.device_put(table), problem.strength, problem.ridge
        start = _labeled_state(problem.template, problem.x, *settings)
        state, mixture = without_padding(problem, *steps_of(problem, start, 0.0, 0))
        verify(mixture.components)
    fitted = package(problem, state, mixture, RESULTS.successful, data)
    sizes = jax.device_put(weighted.sum(axis=0).astype(fitted.effective_sizes.dtype))
    known = {"names": tuple(map(str, names)), "feature_names": column_names(x)}
    return dataclasses.replace(fitted, effective_sizes=sizes, **known)


@program
def _labeled_state(
    template: Template,
    x: Float[Array, "n d"],
    table: Float[Array, "K n"],
    strength: Float[Array, ""],
    ridge: Float[Array, ""],
) -> EMState:
    """The state after the M-step from given memberships."""
    blank = template.blank(table.shape[0], x.shape[1], x.dtype)
    counts, ready = jnp.sum(table, axis=1), blank._prepare(x.T)
    target = blank._pooled(counts, blank._accumulate(ready, table))

    def improved(components: AbstractEMFamily) -> AbstractEMFamily:
        return components._maximize(counts, components._accumulate(ready, table), target, strength, ridge)

    if isinstance(blank, AbstractRegularEMFamily):
        return initial_state(log_share(counts), improved(blank), 1)

    def value(components: AbstractEMFamily) -> Float[Array, ""]:
        """The log-likelihood of points with their labels."""
        return jnp.sum(jnp.where(table > 0, table * components._table(ready), jnp.zeros_like(table)))

    def step(_: Array, components: AbstractEMFamily) -> AbstractEMFamily:
        new = improved(components)
        better = value(new) > value(components)
        return jax.tree.map(lambda old, leaf: jnp.where(better, leaf, old), components, new)

    first = blank._start(x.T, table, ridge)
    return initial_state(log_share(counts), jax.lax.fori_loop(0, _STEPS, step, first), 1)
