"""The architecture: which package may import which, what may load late, and what importing the package loads."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The packages in the order in which data flow, each with those that it may import besides itself and `_base`.
PACKAGES = {
    "_base": "",
    "_numerics": "",
    "_components": "_numerics",
    "_family": "_numerics _components",
    "extend": "_numerics _components _family",
    "families": "extend",
    "_fitting": "_numerics _components _family families",
    "_weights": "",
    "_couplings": "_numerics _components _weights",
    "_plans": "_numerics _components _weights _couplings",
    "metrics": "",
    "_time_courses": "_components _plans",
    "_screening": "",
    "_potentials": "_numerics _components _plans metrics _screening",
    "_posteriors": "_numerics _components _family families _fitting",
    "_posterior_plans": "_numerics _components _weights _couplings _plans _posteriors",
    "_pipelines": "_numerics _components _family _fitting _weights _couplings _plans _posteriors metrics",
    "results": "_components _fitting _weights _couplings _plans _time_courses _potentials _posteriors "
    "_posterior_plans _pipelines",
    "_files": "",
    "diagnostics": "_numerics _components _fitting _weights _couplings _plans _potentials _posteriors metrics "
    "_pipelines _files",
    "plot": "_numerics _components _fitting _plans _potentials _time_courses _posteriors _posterior_plans diagnostics",
    "_report": "_components _fitting _couplings _plans _files plot",
    "_storage": "families _components _family _fitting _weights _couplings _plans _time_courses _potentials "
    "_posteriors _posterior_plans _pipelines _files diagnostics",
    "anndata": "_fitting _plans _files _report _storage",
    "estimators": "families _fitting _plans _potentials",
    "_cli": "families _components _family _fitting _plans _time_courses _potentials _pipelines metrics _files "
    "diagnostics plot _report _storage",
}
# What is loaded only where it is used: heavy, or optional.
LATE = {
    "anndata",
    "arviz",
    "h5py",
    "matplotlib",
    "narwhals",
    "optax",
    "ott",
    "pandas",
    "plotly",
    "pyarrow",
    "scipy",
    "sklearn",
    "xarray",
}
MOST_LINES = 400


def modules():
    """Every module's path, by its dotted name."""
    files = [*(ROOT / "omt_expfam").rglob("*.py"), *(ROOT / "families").rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


MODULES = modules()


def imports(name):
    """Every import of a module, inside functions too: the module that it names and whether it is inside."""
    path, tree = MODULES[name], ast.parse(MODULES[name].read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                part = f"{whole}.{alias.name}"
                yield (part if part in MODULES else whole), id(node) in inside


def package_of(name):
    """The entry of the table; the modules of the facade have none."""
    top, *rest = name.split(".")
    if top == "families":
        return top
    return rest[0] if top == "omt_expfam" and rest and rest[0] not in ("__main__", "families") else None


def test_every_package_is_in_the_table():
    assert {package_of(name) for name in MODULES} - {None} == set(PACKAGES)


def test_packages_import_one_way():
    """Only what stands before a package in the table, and of that only what the table says."""
    seen = set()
    for package, others in PACKAGES.items():
        assert set(others.split()) <= seen, f"{package} stands before what it may import"
        seen.add(package)
    for name in MODULES:
        package = package_of(name)
        if package is not None:
            found = {package_of(other) for other, _ in imports(name)} - {None, package, "_base"}
            assert found <= set(PACKAGES[package].split()), name


def test_no_module_imports_in_a_circle():
    graph = {name: {other for other, _ in imports(name) if other in MODULES} - {name, "omt_expfam"} for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_only_heavy_libraries_load_late():
    for name in MODULES:
        late = {other.split(".")[0] for other, inside in imports(name) if inside}
        assert late <= LATE, name


@pytest.mark.parametrize("name", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_a_package_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


def test_modules_are_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_importing_the_package_stays_light():
    """Neither JAX comes with the package, nor with any of its names what only some uses need; and JAX stays asleep.

    A module that asks JAX for its devices when it is loaded takes a GPU's memory and ends the choice of a platform;
    a process that forks afterwards waits for ever.
    """
    code = """
import sys
import omt_expfam as omt
print("jax" in sys.modules)
names = [getattr(omt, name) for name in dir(omt)]
print([name for name in sys.argv[1:] if name in sys.modules])
import omt_expfam.diagnostics, omt_expfam.extend, omt_expfam.families, omt_expfam.metrics
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
    heavy = ["matplotlib", "ott", "arviz", "sklearn", "ot", "optax", "xarray", "pandas", "scipy.optimize"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["False", "[]", "False", ""]


def test_names_may_load_under_jit():
    """What a module computes when it is loaded must not belong to the program that is being traced."""
    code = """
import jax, numpy as np

def load(x):
    import omt_expfam.families
    for name in dir(omt_expfam):
        getattr(omt_expfam, name)
    return x

with jax.checking_leaks():
    jax.jit(load)(1.0)
import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian
side = omt.Mixture(np.full(2, 0.5), DiagonalGaussian(np.eye(2), np.ones((2, 2))))
print(omt.transport(side, side, epsilon_components=0.5, epsilon_weights=0.25))
from omt_expfam._base.arrays import at_top
assert at_top() and not jax.jit(lambda x: x if at_top() else x + 1)(0) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "TransportPlan(2 -> 2" in done.stdout
