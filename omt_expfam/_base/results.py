"""Why a solve stopped, and the error raised when it did not succeed."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from .arrays import is_traced


class RESULTS(eqx.Enumeration):
    """Outcomes of a solve; every member but ``successful`` says what happened and what to change."""

    successful = ""
    weights_not_converged = (
        "The weight coupling stopped before its marginals met the tolerance. Raise `max_steps` or `tolerance`, "
        "or `epsilon_weights` if it is tiny beside the costs."
    )
    weights_not_finite = (
        "The weight coupling met costs that are not finite. Rescale the data, or check the component "
        "covariances for overflow."
    )
    potentials_not_converged = (
        "The plan of a pair of components stopped before its marginals met the tolerance. Raise `max_steps` or "
        "`tolerance` of `NumericalSettings`, or `epsilon_components` if it is tiny beside the variances."
    )
    components_not_converged = (
        "The coupling of some coordinate of two components did not meet its marginals. Enable float64, or raise "
        "`epsilon_components`, or check the families' densities for features that their knots do not name."
    )
    linear_program_failed = (
        "The linear program for the weights (epsilon_weights = 0) was not solved. Rescale the costs or use a "
        "small positive `epsilon_weights`."
    )
    mode_not_found = (
        "The posterior density has no proper maximum near the EM optimum: some direction is flat or runs off. Use "
        "fewer components or tighter priors, or a method that does not need one: Gibbs, NUTS or Bootstrap."
    )
    variational_not_finite = (
        "Variational inference met a bound that is not finite. Lower `learning_rate`, or choose a simpler `guide`."
    )
    variational_not_settled = (
        "The bound of variational inference was still rising at its last step. Raise `num_steps` or `learning_rate`, "
        "or enlarge `batch_size`."
    )
    variational_fell = (
        "The bound of variational inference ended below where it began. Lower `learning_rate`, or raise `num_steps`, "
        "`num_particles` or `batch_size`."
    )
    refits_not_converged = (
        "EM did not converge for some draws of the bootstrap. Raise `max_steps`, or use fewer components."
    )
    chains_not_mixed = (
        "The chains did not mix: r-hat of a label-free quantity exceeds 1.05. Draw and warm up longer, start "
        "at the best of several EM fits (`num_starts`), or use fewer components or tighter priors."
    )
    chains_diverged = (
        "More than 1 % of the transitions diverged. Raise `target_accept`, or use tighter priors or fewer components."
    )
    fit_not_converged = "EM stopped at `max_steps` before the objective settled. Raise `max_steps` or `tolerance`."
    fit_not_finite = (
        "EM met a log-likelihood that is not finite. Raise `regularization` or `covariance_prior`, or use fewer "
        "components."
    )
    fit_fell = (
        "A step of EM lowered its objective, which no M-step may do: `_accumulate` or `_maximize` of the family is "
        "wrong (`omt.check_family` looks further), or float32 is too coarse for it. Fit in float64."
    )
    conjugate_not_converged = (
        "Some points that a map sends to given ones were not found: a potential is nearly flat or nearly kinked there. "
        "Enable float64, or take them as they are from `solve_pull_back`, or raise its `tolerance` or `max_steps`."
    )
    potential_not_finite = (
        "Training of the potential met a value that is not finite; the map is the best before that. Lower "
        "`learning_rate`, and look for points that are far from all others."
    )
    potential_interrupted = (
        "Training of the potential was interrupted; the map is the best until then. Run it again for all its steps."
    )
    too_many_moved = (
        "The map moves more coordinates than `max_moved`, whatever the strength: it is the sparsest that was found. "
        "Raise `max_moved` or `moved_threshold`, give Annealing more `max_rounds`, or select features by Screen()."
    )
    approximation_poor = (
        "The approximation is far from the posterior: its draws' importance weights have a Pareto k above 0.7, and "
        "moments and intervals may be off. Use Gibbs() or NUTS(), or fewer components or tighter priors."
    )
    approximation_left = (
        "Exact chains that start at the draws leave them: the posterior reaches farther than the approximation, or has "
        "its mass elsewhere. Use Gibbs() or NUTS(), or fewer components or tighter priors."
    )


class ConvergenceError(RuntimeError):
    """A solve that did not succeed; the message says what happened and what to change.

    Attributes:
        value: What the solve returned all the same, where that took long: a `PosteriorFit`; else ``None``.
    """

    value: Any = None


def succeeded(result: Any) -> Any:
    """Whether a member of `RESULTS` is a success: a bool, or an array where that is traced or stacked."""
    code, success = result._value, RESULTS.successful._value
    if is_traced(code):
        return result == RESULTS.successful
    flags = np.asarray(code) == np.asarray(success)
    return bool(flags) if flags.ndim == 0 else jax.device_put(flags)


def raise_if_failed(value: Any, result: Any) -> Any:
    """Return ``value``, or raise `ConvergenceError` when ``result`` is not a success.

    Under tracing the check is compiled in with `equinox.error_if`.
    """
    if is_traced(result):
        return result.error_if(value, result != RESULTS.successful)
    if not succeeded(result):
        raise ConvergenceError(RESULTS[result])
    return value
