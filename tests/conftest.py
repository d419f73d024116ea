import os

# jaxlib's LAPACK is a threaded OpenBLAS whose idle threads spin; two busy cores make that look like slow code.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import contextlib
import gc
from pathlib import Path

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_jax(request):
    """Run our code under JAX's strict modes, which peer libraries do not satisfy."""
    if request.node.get_closest_marker("loose"):
        yield
        return
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        yield


@pytest.fixture(autouse=True)
def bounded_programs():
    """Drop compiled programs before they exhaust the memory maps of a process: Linux allows 65,530, XLA takes many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Each floating-point type in turn, without touching global flags."""
    with jax.enable_x64(True) if request.param == "float64" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def data_dir():
    """The directory of the real data sets, or a visible skip."""
    root = Path(os.environ.get("OMT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real data not found at {root}; set OMT_DATA to its directory")
    return root
