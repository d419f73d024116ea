"""The P-block for components whose coordinates are independent categories: small discrete problems."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import batch_size, is_traced, power_of_two, safe_log, to_jax
from .._base.buckets import cut, pad
from .._base.xla import program
from .._components.category_form import (
    CategoryForm,
    check_categories,
    cost_matrix,
    nearest_category,
    spread_of_categories,
)
from .._components.interface import AbstractComponents
from .._weights.entropic import entropic_coupling
from .._weights.exact import exact_coupling
from .coordinates import AbstractCoordinateCouplings, solve_wide
from .interface import AbstractComponentMaps, PairSelection

# The marginal error (L1) that a problem is solved to, and the most steps that it may take.
_TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
_STEPS = 1000


class CategoryMaps(AbstractComponentMaps):
    """Maps to the nearest category of the law of y given x, tabulated for each source component.

    Attributes:
        laws: Laws of y given each category, shape ``[K0, d, C, C]``.
        cost: The cost of every two categories.
    """

    laws: Float[Array, "K0 d C C"]
    cost: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        return _apply_maps(self, x, responsibilities)


class CategoryCouplings(AbstractCoordinateCouplings):
    """Couplings of components whose coordinates are independent categories.

    What is a mean elsewhere is the category of least mean cost, for the default cost the most likely one; dispersions
    are mean costs from it.

    Attributes:
        costs: Mean cost of each pair, summed over coordinates.
        kl: KL divergence of each pair from independence, in nats.
        errors: Bounds of the absolute errors of costs plus epsilon KL.
        epsilon: Regularization, units of the cost.
        source: Source components.
        target: Target components.
        laws: Laws of y given every category of x, shape ``[K0, K1, d, C, C]``, and of x given those of y.
        marginal_error: Largest marginal error (L1) of the solved plans.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    errors: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents
    laws: tuple[Float[Array, "K0 K1 d C C"], Float[Array, "K1 K0 d C C"]]
    marginal_error: Float[Array, ""]

    def transpose(self) -> "CategoryCouplings":
        return self._transposed(laws=(self.laws[1], self.laws[0]))

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> CategoryMaps:
        return CategoryMaps(_collapse(self.laws[0], row_shares), _given_form(self.source).cost)

    def conditional_offset(
        self, x: Float[Array, "n d"], y: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        """Zero: categories have no differences."""
        return jnp.zeros_like(x)

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        """Mean costs from ``y``, on the diagonal."""
        return _mean_costs(self, x, y, weight, shares)

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _draw_all(self, jax.random.uniform(key, x.shape, x.dtype), x, source, target)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        raise TypeError("Categories have no covariance of x with y. Draw pairs by `sample_joint`.")

    # -- one point -------------------------------------------------------------------------------------------------

    def _law_at(self, x: Float[Array, " d"], i: Array, j: Array) -> Float[Array, "d C"]:
        return self.laws[0][i, j, jnp.arange(x.shape[0]), _place(x, self.laws[0].shape[-1])]

    def _moments_at(self, x: Float[Array, " d"], i: Array, j: Array) -> tuple[Array, Array]:
        law, cost = self._law_at(x, i, j), _given_form(self.target).cost
        return nearest_category(law, cost), spread_of_categories(law, cost)

    def _log_density_at(self, x: Float[Array, " d"], y: Float[Array, " d"], i: Array, j: Array) -> Array:
        law = self._law_at(x, i, j)
        inside = (y == jnp.round(y)) & (y >= 0) & (y < law.shape[1])
        values = jnp.take_along_axis(law, _place(y, law.shape[1])[:, None], axis=1)[:, 0]
        return jnp.sum(jnp.where(inside, safe_log(values), -jnp.inf))

    def _work(self) -> int:
        return self.source.dim * self.laws[0].shape[-1]


def solve_category_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""]
) -> CategoryCouplings:
    """Solve all coordinates of all pairs, in float64 where nothing is traced.

    Without regularization a coupling is a vertex of the linear program; for the cost that is one between different
    categories, it is the limit of regularized ones: what both laws share stays, and the rest is coupled independently.

    Raises:
        ValueError: If the two sides have other categories or costs.
        TypeError: If there is no regularization, costs are one's own and something is traced.
    """
    cost = _given_form(source).cost
    check_categories(_given_form(source), _given_form(target))
    sharp = not is_traced(epsilon) and float(epsilon) == 0
    if is_traced(source, target, epsilon):
        if sharp and not _is_plain(cost):
            raise TypeError(
                "Categories with costs of their own are not coupled at `epsilon_components` = 0 where traced."
            )
        forms = _form(source), _form(target)
        plans = _sharp_plans(forms) if sharp else _plans(*_problems(forms), epsilon)
        return _couple(source, target, epsilon, plans)

    def solve(wide_source: Any, wide_target: Any, wide_epsilon: Any) -> CategoryCouplings:
        own = _shaped(wide_source), _shaped(wide_target)
        if not sharp:
            problems = _problems_of(own)
            num = problems[1].shape[0]
            table, left, right = pad(problems, power_of_two(num))
            plans = cut(_plans(table, left, right, wide_epsilon), num)
        elif _is_plain(cost):
            plans = _sharp_of(own)
        else:
            table, left, right = (np.asarray(value) for value in _problems_of(own))
            solved = [
                exact_coupling(*map(to_jax, (table[0], p, q)))[0].weights for p, q in zip(left, right, strict=True)
            ]
            plans = to_jax(np.stack([np.asarray(plan) for plan in solved]))
        return _couple(wide_source, wide_target, wide_epsilon, plans)

    return solve_wide(solve, source, target, epsilon)


def _given_form(components: AbstractComponents) -> CategoryForm:
    form = components.category_form()
    assert form is not None  # solve_couplings has asked.
    return form


def _form(components: AbstractComponents) -> CategoryForm:
    form = _given_form(components)
    # Probabilities that summed to one in float32 miss it in float64.
    return CategoryForm(form.probability / jnp.sum(form.probability, axis=-1, keepdims=True), form.cost)


_shaped = program(_form)


def _is_plain(cost: tuple[tuple[float, ...], ...]) -> bool:
    """Whether different categories all cost the same."""
    return len({value for row in cost for value in row}) == 2


def _problems(forms: tuple[CategoryForm, CategoryForm]) -> tuple[Array, Array, Array]:
    """Costs and the two laws of every pair and coordinate, one after another."""
    left, right = forms[0].probability, forms[1].probability
    shape = left.shape[0], right.shape[0], *left.shape[1:]
    sides = jnp.broadcast_to(left[:, None], shape), jnp.broadcast_to(right[None], shape)
    left, right = (side.reshape(-1, side.shape[-1]) for side in sides)
    cost = cost_matrix(forms[0].cost, left.dtype)
    return jnp.broadcast_to(cost, (left.shape[0], *cost.shape)), left, right


_problems_of = program(_problems)


@program
def _plans(cost: Array, left: Array, right: Array, epsilon: Float[Array, ""]) -> Float[Array, "p C C"]:
    tolerance, steps = jnp.asarray(_TOLERANCE[str(cost.dtype)], cost.dtype), jnp.asarray(_STEPS)

    def one(item: tuple[Array, Array, Array]) -> Array:
        return entropic_coupling(*item, epsilon, tolerance, jnp.zeros_like(item[2]), steps).weights

    return jax.lax.map(one, (cost, left, right))


def _sharp_plans(forms: tuple[CategoryForm, CategoryForm]) -> Float[Array, "p C C"]:
    """What two laws share stays where it is, and the rest is coupled independently."""

    def one(p: Array, q: Array) -> Array:
        stays = jnp.minimum(p, q)
        rest = jnp.sum(p - stays)
        moved = (p - stays)[:, None] * (q - stays)[None, :] / jnp.where(rest > 0, rest, jnp.ones_like(rest))
        return jnp.diag(stays) + moved

    _, left, right = _problems(forms)
    return jax.vmap(one)(left, right)


_sharp_of = program(_sharp_plans)


@program
def _couple(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], plans: Float[Array, "p C C"]
) -> CategoryCouplings:
    """Put the coordinates of each pair together."""
    forms = _form(source), _form(target)
    cost = cost_matrix(forms[0].cost, plans.dtype)
    plans = plans.reshape(source.num_components, target.num_components, source.dim, *cost.shape)
    left, right = forms[0].probability[:, None], forms[1].probability[None]
    shape = plans.shape[:-1]
    left, right = jnp.broadcast_to(left, shape), jnp.broadcast_to(right, shape)
    missed = jnp.sum(jnp.abs(jnp.sum(plans, axis=-1) - left), -1) + jnp.sum(jnp.abs(jnp.sum(plans, -2) - right), -1)
    product = left[..., :, None] * right[..., None, :]
    ratio = jnp.where(plans > 0, plans / jnp.where(product > 0, product, jnp.ones_like(product)), jnp.ones_like(plans))
    costs, kl = jnp.einsum("ijdce,ce->ij", plans, cost), jnp.sum(plans * jnp.log(ratio), axis=(2, 3, 4))
    # Mass that misses its marginal moves once more, and its logarithm is off by as much.
    largest = jnp.max(cost) + epsilon * (1 - jnp.log(jnp.finfo(cost.dtype).eps))
    errors = largest * jnp.sum(missed, axis=2) + 16 * jnp.finfo(cost.dtype).eps * (costs + epsilon * kl + jnp.max(cost))
    return CategoryCouplings(
        costs=costs,
        kl=kl,
        errors=errors,
        epsilon=epsilon,
        source=source,
        target=target,
        laws=(_given(plans, cost), _given(jnp.swapaxes(jnp.swapaxes(plans, 0, 1), -1, -2), cost.T)),
        marginal_error=jnp.max(missed),
    )


def _given(plans: Float[Array, "*b C C"], cost: Float[Array, "C C"]) -> Float[Array, "*b C C"]:
    """Laws given rows; what has no mass stays as near as it can."""
    total = jnp.sum(plans, axis=-1, keepdims=True)
    alone = jax.nn.one_hot(jnp.argmin(cost, axis=1), cost.shape[0], dtype=plans.dtype)
    alone = jnp.broadcast_to(alone, plans.shape)
    return jnp.where(total > 0, plans / jnp.where(total > 0, total, jnp.ones_like(total)), alone)


def _place(x: Array, num: int) -> Array:
    return jnp.clip(jnp.round(x).astype(int), 0, num - 1)


@program
def _collapse(laws: Float[Array, "K0 K1 d C C"], row_shares: Float[Array, "K0 K1"]) -> Float[Array, "K0 d C C"]:
    return jnp.einsum("ij,ijdce->idce", row_shares, laws)


@program
def _apply_maps(maps: CategoryMaps, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Array:
    place = _place(x, maps.laws.shape[-1])

    def add(total: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        laws, weight = item
        return total + weight[:, None, None] * laws[jnp.arange(x.shape[1])[None, :], place], None

    start = jnp.zeros((*x.shape, maps.laws.shape[-1]), x.dtype)
    return nearest_category(jax.lax.scan(add, start, (maps.laws, responsibilities.T))[0], maps.cost)


@program
def _mean_costs(couplings: CategoryCouplings, x: Array, y: Array, weight: Array, shares: PairSelection) -> Array:
    costs = cost_matrix(_given_form(couplings.target).cost, x.dtype)

    def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
        laws = jax.vmap(lambda point: couplings._law_at(point, pair.source, pair.target))(x)
        mean = jnp.sum(laws * costs[_place(y, costs.shape[0])], axis=-1)
        return total + (weight[:, pair.source] * pair.weight)[:, None] * mean, None

    return jax.vmap(jnp.diag)(jax.lax.scan(add, jnp.zeros_like(x), shares)[0])


@program
def _draw_all(couplings: CategoryCouplings, uniform: Array, x: Array, source: Array, target: Array) -> Array:
    def one(item: tuple[Array, ...]) -> Array:
        u, point, i, j = item
        total = jnp.cumsum(couplings._law_at(point, i, j), axis=1)
        return jnp.sum(u[:, None] * total[:, -1:] >= total, axis=1).astype(x.dtype)

    size = min(batch_size(couplings._work()), max(x.shape[0], 1))
    return jax.lax.map(one, (uniform, x, source, target), batch_size=size)
