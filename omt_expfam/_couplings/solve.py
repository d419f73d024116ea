"""The route of every pair of components: closed form, problems of lines, counts or angles, or numerical."""

from typing import Any, Literal

import numpy as np

from .._base.arrays import is_traced, on_host
from .._components.columns import has_angles
from .._components.interface import AbstractComponents
from .._components.joined import as_blocks, Blocks
from .._numerics.support import ends
from .category import solve_category_couplings
from .circle.couplings import solve_circle_couplings
from .gaussian import solve_gaussian_couplings
from .interface import AbstractCouplings, check_spaces, matched, weighted_sum
from .joined import BlockCouplings, pair_table
from .lattice.couplings import solve_lattice_couplings
from .mixed import MixedCouplings
from .numerical_solve import solve_numerical_couplings
from .product import solve_product_couplings
from .unbalanced import solve_unbalanced_couplings

Route = Literal["gaussian", "elliptical", "product", "lattice", "circle", "category", "mixed", "numerical"]


def route_of(source: AbstractComponents, target: AbstractComponents, epsilon: Any = None) -> Route:
    """The best route that both sides offer, for components of one family on either side.

    Args:
        source: Source components.
        target: Target components.
        epsilon: Regularization, if it is to be looked at: without any, elliptical components have a closed form.

    Raises:
        TypeError: If columns are of other kinds on one side than on the other, or a support is none that is known.
    """
    check_spaces(source, target)
    if len(source.column_parts()) > 1:
        return "mixed"
    if source.category_form() is not None:
        return "category"
    for side in (source, target):
        ends(side.support)
    if has_angles(source):
        return "circle"
    if source.gaussian_form() is not None and target.gaussian_form() is not None:
        return "gaussian"
    if epsilon is not None and not is_traced(epsilon) and float(epsilon) == 0 and share_generator(source, target):
        return "elliptical"
    if source.product_form() is not None and target.product_form() is not None:
        return "product"
    counts = source.lattice_form() is not None, target.lattice_form() is not None
    if counts[0] != counts[1]:
        raise TypeError(
            "`source` and `target` must both have counts, or both continuous coordinates; got "
            f"{_name(source)} and {_name(target)}."
        )
    return "lattice" if counts[0] else "numerical"


def share_generator(source: AbstractComponents, target: AbstractComponents) -> bool:
    """Whether all components of both sides are elliptical, and known to have one generator."""
    forms = source.elliptical_form(), target.elliptical_form()
    degrees = [None if form is None else form.degrees for form in forms]
    if degrees[0] is None or degrees[1] is None or is_traced(degrees):
        return False
    values = np.concatenate([np.asarray(value) for value in degrees])
    return bool((values == values[0]).all())


def solve_couplings(
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Any,
    progress: bool | None = None,
    numerical: Any = None,
    prices: Any = None,
) -> AbstractCouplings:
    """Solve the P-block by the best route that both sides offer.

    Gaussian components are coupled in closed form, and so are elliptical ones without regularization; components with
    independent coordinates, counts or angles coordinate by coordinate, and all others numerically; sets of several
    families are coupled block by block.

    Args:
        source: Source components.
        target: Target components.
        epsilon: Regularization, units of squared distance.
        progress: Whether to show a progress bar.
        numerical: How accurately to couple numerically.
        prices: Prices of changing the marginals of both sides, ``None`` where they are kept.

    Raises:
        ValueError: If marginals have a price and some components are not Gaussian.
    """
    if prices is not None:
        if isinstance(source, Blocks) or isinstance(target, Blocks) or route_of(source, target) != "gaussian":
            raise ValueError(
                "`component_relaxation` must be infinite unless all components are Gaussian; got "
                f"{_name(source)} and {_name(target)}. Relax the masses of whole components, with `source_relaxation` "
                "and `target_relaxation`."
            )
        return solve_unbalanced_couplings(source, target, epsilon, prices)
    if isinstance(source, Blocks) or isinstance(target, Blocks):
        return solve_block_couplings(source, target, epsilon, progress, numerical)
    match route_of(source, target, epsilon):
        case "gaussian" | "elliptical":
            return solve_gaussian_couplings(source, target, epsilon, progress)
        case "product":
            return solve_product_couplings(source, target, epsilon, progress)
        case "lattice":
            return solve_lattice_couplings(source, target, epsilon, progress)
        case "circle":
            return solve_circle_couplings(source, target, epsilon, progress)
        case "category":
            return solve_category_couplings(source, target, epsilon)
        case "mixed":
            return solve_mixed_couplings(source, target, epsilon, progress, numerical)
        case "numerical":
            return solve_numerical_couplings(source, target, epsilon, numerical, progress)


def solve_block_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Any, *options: Any
) -> BlockCouplings:
    """Couple every pair of blocks by its own best route.

    Args:
        source: Source components, at least one side being `Blocks`.
        target: Target components.
        epsilon: Regularization, units of squared distance.
        options: Passed on to `solve_couplings`.
    """
    # Blocks in the order of the set, each component once per place: indices of couplings are then ranks.
    source, target = (_unrolled(as_blocks(components)) for components in (source, target))
    parts = tuple(tuple(solve_couplings(a, b, epsilon, *options) for b in target.blocks) for a in source.blocks)
    costs = pair_table(source, target, [[part.costs for part in row] for row in parts])
    kl = pair_table(source, target, [[part.kl for part in row] for row in parts])
    return BlockCouplings(costs, kl, epsilon, source, target, parts)


def solve_mixed_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Any, *options: Any
) -> MixedCouplings:
    """Couple every block of columns by its own best route.

    Args:
        source: Source components.
        target: Target components, of the same blocks of columns.
        epsilon: Regularization, units of the cost.
        options: Passed on to `solve_couplings`.
    """
    pairs = matched(source, target)
    weights = [weight for *_, weight in pairs]
    parts = tuple(
        solve_couplings(one, other, on_host(lambda _, value, w=weight: value / w, epsilon), *options)
        for one, other, weight in pairs
    )
    costs = weighted_sum(weights, [part.costs for part in parts])
    kl = weighted_sum([1.0] * len(parts), [part.kl for part in parts])
    return MixedCouplings(costs, kl, epsilon, source, target, parts)


def _unrolled(components: Blocks) -> Blocks:
    """The same set with blocks that hold its components in the set's order."""
    return components.select(slice(None))


def _name(components: AbstractComponents) -> str:
    return "several families" if isinstance(components, Blocks) else type(components).__name__
