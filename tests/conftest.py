import os
from pathlib import Path

from benchmarks.harness.xla_flags import xla_flags

# jaxlib's LAPACK is a threaded OpenBLAS whose idle threads spin; two busy cores make that look like slow code.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_FLAGS", xla_flags())
# Workers, subprocesses and the next run share what was compiled. JAX's key holds the program, its options, XLA_FLAGS,
# the version of jaxlib and the processor, so that only what would be compiled alike is shared.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import collections
import contextlib
import ctypes
import gc
import resource
import sys

import jax
import pytest
import threadpoolctl
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.harness.programs import counted

# Where pytest's plugins have loaded NumPy before this file, its OpenBLAS has threads already.
threadpoolctl.threadpool_limits(1)
# Until all is collected, nothing is garbage.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before fixtures, which then share their programs with the tests of their module."""
    _set_strict_modes(item)
    _set_optimization(item)


def _set_strict_modes(item):
    """Run our code under JAX's strict modes, which peer libraries do not satisfy.

    Slow tests do not look for keys that are used twice: that is a sixth of their time, and quick ones draw the same.
    """
    loose = item.get_closest_marker("loose") is not None
    quick = item.get_closest_marker("slow") is None
    jax.config.update("jax_numpy_rank_promotion", "allow" if loose else "raise")
    jax.config.update("jax_numpy_dtype_promotion", "standard" if loose else "strict")
    jax.config.update("jax_debug_key_reuse", quick and not loose)


def _set_optimization(item):
    """Programs that are not `optimized` take a third of the time to compile, but twice to run; fixtures' too."""
    optimize = _is_optimized(item)
    if optimize == jax.config.read("jax_disable_most_optimizations"):
        # What was compiled otherwise would be found again.
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", not optimize)


def _is_optimized(item):
    return item.get_closest_marker("optimized") is not None


def pytest_collection_modifyitems(items):
    """Files with most to do come first, so that workers end together; programs are forgotten at most once in a file."""
    work = collections.Counter()
    for item in items:
        work[item.path] += 10 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (-work[item.path], item.path, _is_optimized(item)))


def pytest_collection_finish():
    """What is loaded stays: Python looks for garbage in what tests make, and not after every 700 objects."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def bounded_programs():
    """Drop compiled programs, a megabyte each, before a worker takes two gigabytes."""
    yield
    # An accelerator's libraries alone take more than that.
    bound = 1.5e9 if jax.default_backend() == "cpu" else 8e9
    if sys.platform == "linux" and _resident_memory() > bound:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def _resident_memory():
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files stay whole: what their tests share is traced by one worker, not by all."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # they are in order
    return LoadFileScheduling(config, log)


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
def kept_programs():
    """The settings that `omt.use_compilation_cache` makes end with the test."""
    names = [
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def data_dir():
    """The directory of the real data sets, or a visible skip."""
    root = Path(os.environ.get("OMT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real data not found at {root}; set OMT_DATA to its directory")
    return root


# What tests cost, for `pytest --programs`: programs compiled or loaded, and CPU seconds, which no neighbor disturbs.


def pytest_addoption(parser):
    parser.addoption("--programs", action="store_true", help="list the tests that compile most programs, and all files")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if not item.config.getoption("programs"):
        return (yield)
    before = sum(os.times()[:4])
    with counted() as programs:
        item.stash[_programs] = programs, before
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown" and _programs in item.stash:
        programs, before = item.stash[_programs]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        report.user_properties.append(("cost", (programs.count, sum(os.times()[:4]) - before, memory)))
    return report


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("programs"):
        return
    tests, files, memory = {}, collections.Counter(), 0.0
    seconds = collections.Counter()
    for report in terminalreporter.getreports("") + terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "cost":
                tests[report.nodeid] = value
    for nodeid, (count, cpu, peak) in tests.items():
        files[nodeid.split("::")[0]] += count
        seconds[nodeid.split("::")[0]] += cpu
        memory = max(memory, peak)
    terminalreporter.section("programs and CPU seconds")
    for nodeid, (count, cpu, _) in sorted(tests.items(), key=lambda item: -item[1][1])[:25]:
        terminalreporter.write_line(f"{count:6d} {cpu:8.1f}  {nodeid}")
    terminalreporter.write_line("")
    for file, cpu in seconds.most_common():
        terminalreporter.write_line(f"{files[file]:6d} {cpu:8.1f}  {file}")
    total = f"{files.total():6d} {seconds.total():8.1f}  all; at most {memory:.1f} GB in a process"
    terminalreporter.write_line(total)


_programs = pytest.StashKey()
