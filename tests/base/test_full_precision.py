"""Products of float32 matrices are float32's: GPUs and TPUs round their factors to three digits otherwise."""

import jax
import numpy as np
import pytest
from jax import lax

import omt_expfam as omt
from omt_expfam._base.xla import jit, jit_in_order, program
from omt_expfam.families import Gaussian


@pytest.fixture
def products(monkeypatch):
    """The precision of each product of matrices that is traced or run."""
    found, bind = [], lax.dot_general_p.bind

    def watched(*args, **params):
        found.append(params["precision"])
        return bind(*args, **params)

    monkeypatch.setattr(lax.dot_general_p, "bind", watched)
    return found


def is_full(precision):
    return precision == (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


@pytest.mark.parametrize("compiled", [program, jit, jit_in_order])
def test_compiled_functions_ask_for_full_precision(compiled, products):
    matrix = jax.device_put(np.eye(3, dtype=np.float32))
    compiled(jax.grad(lambda x: lax.dot(x, x).sum()))(matrix)
    assert len(products) >= 3
    assert all(map(is_full, products))
    lax.dot(matrix, matrix)
    assert not is_full(products[-1])


def test_plans_ask_for_full_precision(products):
    """Of everything between mixtures and mapped points, derivatives included, nothing is rounded to fewer digits."""
    # Shapes of no other test: what is traced already would not be seen.
    dim, mean = 7, np.arange(21, dtype=np.float32).reshape(3, 7)
    covariance = np.tile(np.eye(dim, dtype=np.float32), (3, 1, 1))

    def total(mean):
        side = omt.Mixture(np.full(3, 1 / 3, np.float32), Gaussian(mean, covariance))
        plan = omt.transport(side, side, epsilon_components=0.5, epsilon_weights=0.5)
        return plan.cost + plan.push_forward(mean).sum() + plan.interpolate(0.5).covariance().sum()

    jax.eval_shape(jax.grad(total), mean)
    assert len(products) > 20
    assert all(map(is_full, products))
