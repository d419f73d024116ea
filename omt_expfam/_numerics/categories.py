"""Categories: whole numbers from zero on that name kinds, between which there is no order."""

from typing import Any

from numpyro.distributions import constraints


class _Categories(constraints.ParameterFreeConstraint):
    """Whole numbers from zero on."""

    is_discrete = True
    lower_bound = 0

    def __call__(self, x: Any) -> Any:
        return (x >= 0) & (x % 1 == 0)


# The support of a coordinate that is a category.
categories = _Categories()


def is_categories(support: Any) -> bool:
    """Whether a support is one of categories."""
    return isinstance(support, _Categories)
