"""Why a solve stopped, and the error raised when it did not succeed."""

from typing import Any

import equinox as eqx

from ._arrays import is_traced


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
    fit_not_converged = "EM stopped at `max_steps` before the objective settled. Raise `max_steps` or `tolerance`."
    fit_not_finite = (
        "EM met a log-likelihood that is not finite. Raise `regularization` or `covariance_prior`, or use fewer "
        "components."
    )


class ConvergenceError(RuntimeError):
    """A solve that did not succeed; the message says what happened and what to change."""


def raise_if_failed(value: Any, result: Any) -> Any:
    """Return ``value``, or raise `ConvergenceError` when ``result`` is not a success.

    Under tracing the check is compiled in with `equinox.error_if`.
    """
    if is_traced(result):
        return result.error_if(value, result != RESULTS.successful)
    if result != RESULTS.successful:
        raise ConvergenceError(RESULTS[result])
    return value
