"""How many programs a first call compiles, and which further calls compile none: what a user waits for at first."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import omt_expfam as omt
from benchmarks._programs import counted
from omt_expfam._numerical_couplings import solve_numerical_couplings


def programs(call, *args):
    """The programs that a call compiles."""
    with counted() as found:
        call(*args)
    return found


# -- numerical couplings --------------------------------------------------------------------------------------------


def student(seed, num):
    loc = np.random.default_rng(seed).normal(size=(num, 2)).astype("float32")
    tril = np.broadcast_to(np.eye(2, dtype="float32"), (num, 2, 2))
    return omt.NumPyroComponents(dist.MultivariateStudentT(np.full(num, 6.0, "float32"), loc, tril))


def test_numerical_couplings_compile_a_family_and_a_pair():
    """Another epsilon, seed or tolerance, and other numbers of components, compile nothing."""
    first = programs(lambda: student(0, 3))
    assert first.count <= 1, first
    assert programs(lambda: student(1, 3)).count == 0
    sides = {num: student(2, num) for num in (3, 4, 2)}

    def couple(left, right, epsilon, **changes):
        epsilon = jnp.asarray(epsilon, "float32")
        return solve_numerical_couplings(sides[left], sides[right], epsilon, omt.NumericalSettings(64, 2048, **changes))

    first = programs(couple, 3, 3, 1.0)
    assert first.count <= 4, first
    assert {"_sample_side", "_couple"} <= set(first.names)
    for call in ((3, 3, 0.7), (4, 2, 1.0)):
        found = programs(couple, *call)
        assert found.count == 0, found
    found = programs(lambda: couple(2, 4, 0.5, seed=3, tolerance=1e-3, max_steps=100))
    assert found.count == 0, found
