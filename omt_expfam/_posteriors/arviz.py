"""What ArviZ 0.23 and 1.x do differently, in one place."""

import importlib
import warnings
from typing import Any

import jax
import numpy as np

from .._base.xla import jit


def _arviz() -> Any:
    with warnings.catch_warnings():
        # ArviZ 0.23 announces its own successor at import.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz

    return arviz


def _is_new(arviz: Any) -> bool:
    return int(arviz.__version__.split(".")[0]) >= 1


def effective_size(draws: np.ndarray) -> float:
    """Bulk effective sample size of draws ``[C, S]``."""
    return float(_number(_arviz().ess(draws)))


def r_hat(draws: np.ndarray) -> float:
    """Rank-normalized split r-hat of draws ``[C, S]``."""
    return float(_number(_arviz().rhat(draws)))


# The farther draws reach into a tail, the larger is its index, also where the weights there hardly differ: it is
# measured on so many.
JUDGED = 2048


def pareto_k_of(log_weights: np.ndarray) -> float:
    """The Pareto k of importance weights ``[N]``, by the first 2,048 of them."""
    return pareto_smoothed(log_weights[:JUDGED])[1]


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Importance weights ``[N]``, their largest smoothed, and the Pareto k of these (Vehtari et al., 2024).

    The k of weights that are not all finite, or too few, is infinite.
    """
    if not np.isfinite(log_weights).all():
        return log_weights, np.inf
    arviz = _arviz()
    if _is_new(arviz):
        # It takes log-likelihoods of what is left out.
        smooth, pareto_k = importlib.import_module("arviz_stats.base").array_stats.psislw(-log_weights)
    else:
        smooth, pareto_k = arviz.psislw(log_weights)
    return np.asarray(smooth), float(_number(pareto_k))


def _number(value: Any) -> Any:
    return np.asarray(value).reshape(())


def leave_one_out(data: Any) -> Any:
    """PSIS-LOO of an ArviZ object with a log-likelihood."""
    return _arviz().loo(data, pointwise=True)


def inference_data(posterior: Any, log_likelihood: bool, key: Any) -> Any:
    """A fitted posterior as ArviZ's object, with one axis for chains and one for draws."""
    arviz = _arviz()

    def chains(values: Any) -> np.ndarray:
        array = np.asarray(values)
        return array.reshape(posterior.num_chains, -1, *array.shape[1:])

    parameters, entries = _without_zeros(posterior.parameters)
    groups: dict[str, dict[str, np.ndarray]] = {
        "posterior": {name: chains(values) for name, values in parameters.items()}
        | {"mixture_mean": chains(_mixture_means(posterior))}
    }
    if posterior.statistics:
        groups["sample_stats"] = {name: chains(values) for name, values in posterior.statistics.items()}
    if log_likelihood:
        groups["log_likelihood"] = {"x": chains(posterior.log_prob_draws(posterior.data()))}
    if key is not None:
        groups["posterior_predictive"] = {"x": chains(posterior.sample_draws(key, posterior.data().shape[0]))}
    if posterior.x is not None:
        groups["observed_data"] = {"x": np.asarray(posterior.x)}
    coords = {
        "component": np.asarray(posterior.names or np.arange(posterior.num_components)),
        "point": np.arange(0 if posterior.x is None else len(posterior.x)),
        "coordinate": np.arange(posterior.dim),
    }
    dims = _dims(parameters, posterior.num_components, posterior.dim)
    dims |= {"mixture_mean": ["coordinate"]}
    dims |= {name: [*dims.get(name, ["component"])[:1], f"{name}_entry"] for name in entries}
    coords |= {f"{name}_entry": np.asarray(labels) for name, labels in entries.items()}
    # ``x`` has a point axis in all groups and a coordinate axis in those that hold points.
    parts = []
    for name, group in groups.items():
        own = dims | {"x": ["point"] if name == "log_likelihood" else ["point", "coordinate"]}
        own = {k: v for k, v in own.items() if k in group}
        used = {axis for axes in own.values() for axis in axes}
        parts.append((name, group, own, {k: v for k, v in coords.items() if k in used}))
    if _is_new(arviz):
        return _as_tree(arviz, parts)
    made = [arviz.from_dict(**{name: group}, dims=own, coords=own_coords) for name, group, own, own_coords in parts]
    return arviz.concat(*made)


def _as_tree(arviz: Any, parts: list[Any]) -> Any:
    """The groups as one ``DataTree``."""
    tree = None
    for name, group, dims, coords in parts:
        part = arviz.from_dict({name: group}, dims=dims, coords=coords)
        if tree is None:
            tree = part
        else:
            tree[name] = part[name]
    return tree


def _without_zeros(parameters: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Cholesky factors as the entries that are not zero by construction, of which r-hat and the like are no numbers.

    Returns:
        All parameters, and the names ``row,column`` of the entries of those that have become vectors.
    """
    kept, entries = {}, {}
    for name, values in parameters.items():
        array = np.asarray(values)
        square = array.ndim == 4 and array.shape[2] == array.shape[3] > 1
        if square and not np.triu(array, 1).any():
            row, column = np.tril_indices(array.shape[2])
            array, entries[name] = array[..., row, column], [f"{i},{j}" for i, j in zip(row, column, strict=True)]
        kept[name] = array
    return kept, entries


def _dims(parameters: Any, num_components: int, dim: int) -> dict[str, list[str]]:
    """Axis names: components first, coordinates where an axis has their number."""
    names = {}
    for name, values in parameters.items():
        shape = values.shape[1:]
        if not shape or shape[0] != num_components:
            continue
        axes = ["component"] + [f"{name}_axis_{i}" for i in range(1, len(shape))]
        if len(shape) > 1 and shape[1] == dim:
            axes[1] = "coordinate"
        names[name] = axes
    return names


def _mixture_means(posterior: Any) -> Any:
    def mean(mixture: Any) -> Any:
        return mixture.mean()

    return jit(jax.vmap(mean))(posterior.mixtures)
