"""Programs are compiled once per shape, quickly where arrays are small, and are parts of others' programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.programs import counted
from omt_expfam._base import xla
from omt_expfam._base.xla import brief_program, program


@program
def double(x):
    return 2 * x


@brief_program
def triple(x):
    return 3 * x


@pytest.mark.parametrize("size", [8, 2**18 + 8])
def test_a_program_is_compiled_once(size):
    x = np.full(size, 3.0, np.float32)
    double(x[:4])  # once per process: which options this XLA knows
    with counted() as programs:
        first, second = double(x), double(x + 1)
    assert programs.count == 1
    np.testing.assert_array_equal(first, np.full(size, 6.0))
    np.testing.assert_array_equal(second, np.full(size, 8.0))


def test_only_small_arrays_are_compiled_quickly(monkeypatch):
    asked = []
    known = xla._compiled
    monkeypatch.setattr(xla, "_compiled", lambda *arguments: asked.append(arguments[2]) or known(*arguments))
    double(jnp.ones(8))
    double(jnp.ones(2**18 + 8))
    assert asked == ["quick"]
    # What is seldom run is not optimized where there is little to do.
    triple(jnp.ones(8))
    triple(jnp.ones(2**15 + 8))
    assert asked == ["quick", "brief", "quick"]
    np.testing.assert_array_equal(jax.jit(triple)(jnp.ones(4)), 3 * np.ones(4))


def test_programs_are_parts_of_others():
    """Under jit, vmap and grad, also where all arguments are constants: compiler options are for whole programs."""
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(jax.jit(lambda v: double(v) + double(jnp.ones(4)))(x), 2 * np.arange(4.0) + 2)
    np.testing.assert_array_equal(jax.vmap(double)(x), 2 * np.arange(4.0))
    assert float(jax.grad(lambda v: double(v))(1.5)) == 2.0
    assert float(jax.jit(jax.grad(lambda v: jnp.sum(double(v))))(x)[0]) == 2.0


def test_options_that_a_backend_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setitem(xla._OPTIONS, "quick", {"xla_no_such_option": True})
    assert xla._known.__wrapped__("cpu", "quick") is None
    assert xla._known("gpu", "quick") is None
