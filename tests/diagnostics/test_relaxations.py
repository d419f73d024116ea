"""Ladders of prices: each rung is the plan at that price, and known growth chooses among them."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam.diagnostics import relaxation_path
from tests.pictures import cut
from tests.plans.test_masses import pair, SETTINGS

GROWTH = [2.0, 1.0, 1.0, 1.0, 0.0]


@pytest.fixture(scope="module")
def path():
    with jax.enable_x64(True):
        return relaxation_path(*pair(), **SETTINGS)


def test_every_rung_is_a_plan(path, x64):
    for n in (4, 11):
        rho = float(path.relaxation[n])
        plan = omt.transport(*pair(), **SETTINGS, source_relaxation=rho, target_relaxation=rho)
        np.testing.assert_allclose(path.mass[n], plan.mass, rtol=1e-7)
        np.testing.assert_allclose(path.cost[n], plan.cost, rtol=1e-7)
        np.testing.assert_allclose(path.growth[n], plan.growth, rtol=1e-6, atol=1e-9)
        far = np.asarray(plan.component_costs) > 10 * path.typical
        np.testing.assert_allclose(path.far_share[n], np.asarray(plan.weights)[far].sum(), rtol=1e-6, atol=1e-12)


def test_known_growth_chooses(path):
    """The rule's price finds the growth within 5 %, as the best one does, and nothing goes over far pairs there."""
    assert path.relaxation[0] < path.suggested < path.relaxation[-1]
    near = int(np.argmin(np.abs(np.log(path.relaxation / path.suggested))))
    assert path.sound[near]
    np.testing.assert_allclose(path.growth[near], GROWTH, atol=0.05)
    assert path.error(GROWTH)[near] < 0.02
    assert path.error(GROWTH)[-1] > 0.3
    assert path.best(GROWTH) < path.relaxation[-3]
    assert (np.diff(path.mass) > 0).all()
    assert "lies" in str(path)
    with pytest.raises(ValueError, match=r"`growth` must have shape \(5,\); got \(2,\)."):
        path.error([1.0, 2.0])


def test_shares_files_and_a_picture(path, x64, tmp_path):
    plan = omt.transport(*pair(), **SETTINGS)
    shares = relaxation_path(plan, kind=omt.Partial, relaxations=[0.4, 0.8, 0.9])
    np.testing.assert_allclose(shares.mass, [0.4, 0.8, 0.9], rtol=1e-6)
    # The last tenth goes from group to group, over two far pairs.
    np.testing.assert_allclose(shares.far_share, [0, 0, 0.2 / 0.9], atol=1e-4)
    assert "share" in str(shares)
    omt.save(tmp_path / "path.omt", path)
    np.testing.assert_array_equal(omt.load(tmp_path / "path.omt").growth, path.growth)
    for found in (path, shares):
        panel = omt.plot.relaxation_path(found)
        assert len(panel.lines) >= 3
        assert not cut(panel.figure)
    plt.close("all")


def test_bad_input_is_refused(path):
    with pytest.raises(ValueError, match="`relaxations` must be positive; got -1"):
        relaxation_path(*pair(np.float32), **SETTINGS, relaxations=[1.0, -1.0])
    with pytest.raises(ValueError, match="`epsilon_weights` must be positive; got 0"):
        relaxation_path(*pair(np.float32), epsilon_components=0.1, epsilon_weights=0.0)
    changed = omt.transport(*pair(np.float32), **SETTINGS, source_relaxation=2.0)
    with pytest.raises(ValueError, match="`source` must be a plan that keeps all masses"):
        relaxation_path(changed)
