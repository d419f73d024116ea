"""The architecture: which module may import which, and what importing the package loads."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What compiles programs imports nothing of ours and serves every module.
ANYWHERE = {"_jit"}

# Each module of the core and the modules that it may import besides, from the interface to the facade.
ALLOWED = {
    "_arrays": set(),
    "_buckets": set(),
    "_precision": {"_arrays"},
    "_jit": set(),
    "_progress": set(),
    "_laplacian": set(),
    "_correspondences": set(),
    "_covariance": set(),
    "_result": {"_arrays"},
    "_product_form": set(),
    "_newton": set(),
    "_components": {"_arrays", "_buckets", "_covariance", "_newton", "_precision", "_product_form", "_result"},
    "_support": set(),
    "_priors": {"_arrays", "_buckets"},
    "_em": {"_arrays", "_components", "_priors", "_support"},
    "_quadrature": {"_support"},
    "_factorized": {"_arrays", "_em", "_newton", "_precision", "_product_form", "_quadrature", "_support"},
    "_template": {"_em"},
    "_mixture": {"_arrays", "_buckets", "_components"},
    "_start": {"_arrays", "_components", "_em"},
    "_fit_problem": {"_arrays", "_buckets", "_em", "_mixture", "_progress", "_start", "_template"},
    "_fit": {"_arrays", "_em", "_fit_problem", "_mixture", "_precision", "_result", "_support", "_template"},
    "_bootstrap": {
        "_arrays",
        "_buckets",
        "_em",
        "_fit",
        "_fit_problem",
        "_mixture",
        "_precision",
        "_progress",
        "_support",
        "_template",
    },
    "_select": {"_arrays", "_em", "_fit", "_progress", "_template"},
    "_conjugate": {"_arrays"},
    "_metropolis": {"_conjugate", "_em", "_factorized", "_numpyro_law", "_priors"},
    "_gibbs": {"_arrays", "_buckets", "_em", "_metropolis", "_mixture", "_precision", "_progress", "_result"},
    "_gibbs_kernel": {"_arrays", "_gibbs", "_mixture", "_mixture_model"},
    "_weights": {"_arrays", "_laplacian", "_result"},
    "_linear_program": {"_arrays", "_laplacian", "_result", "_weights"},
    "_couplings": {
        "_arrays",
        "_buckets",
        "_blocks",
        "_components",
        "_gaussian_couplings",
        "_numerical_couplings",
        "_product_couplings",
    },
    "_gaussian_pair": {"_covariance"},
    "_gaussian_couplings": {
        "_arrays",
        "_buckets",
        "_components",
        "_couplings",
        "_covariance",
        "_gaussian_pair",
        "_progress",
        "_result",
    },
    "_numerical_sinkhorn": {"_arrays"},
    "_numerical_pair": {"_arrays", "_numerical_sinkhorn"},
    "_numerical_couplings": {
        "_arrays",
        "_components",
        "_couplings",
        "_covariance",
        "_gaussian_pair",
        "_numerical_pair",
        "_numerical_sinkhorn",
        "_progress",
        "_result",
    },
    "_numpyro_law": {"_arrays"},
    "_numpyro_components": {"_components", "_covariance", "_numpyro_law", "_product_form"},
    "_blocks": {"_arrays", "_components", "_couplings", "_result"},
    "_line_profile": {"_product_form"},
    "_line_grid": {"_line_profile", "_product_form"},
    "_line_solve": {"_arrays", "_line_grid", "_line_profile", "_product_form"},
    "_line_table": {"_arrays", "_line_profile"},
    "_line_problems": {
        "_arrays",
        "_line_grid",
        "_line_profile",
        "_line_solve",
        "_line_table",
        "_product_form",
        "_progress",
    },
    "_product_couplings": {
        "_arrays",
        "_components",
        "_couplings",
        "_line_problems",
        "_line_profile",
        "_line_table",
        "_precision",
        "_product_form",
        "_result",
    },
    "_displacement": {"_arrays", "_components", "_couplings"},
    "_plan": {
        "_arrays",
        "_buckets",
        "_components",
        "_correspondences",
        "_couplings",
        "_displacement",
        "_mixture",
        "_result",
        "_weights",
    },
    "_transport": {
        "_arrays",
        "_buckets",
        "_couplings",
        "_gaussian_couplings",
        "_linear_program",
        "_mixture",
        "_numerical_couplings",
        "_plan",
        "_precision",
        "_result",
        "_weights",
    },
    "_groups": {"_arrays", "_mixture"},
    "_select_plan": {"_arrays", "_plan", "_progress", "_result", "diagnostics", "metrics"},
    "_trajectory": {"_arrays", "_displacement", "_groups", "_mixture", "_plan", "_result", "_transport"},
    "_mixture_distribution": {"_arrays", "_em", "_mixture", "_support"},
    "_mixture_model": {
        "_arrays",
        "_components",
        "_conjugate",
        "_em",
        "_mixture",
        "_mixture_distribution",
        "_numpyro_components",
        "_numpyro_law",
        "_priors",
        "_support",
        "_template",
    },
    "_target": {"_arrays", "_numpyro_law"},
    "_mode": {"_mixture_distribution", "_target"},
    "_inference": {"_buckets", "_em", "_fit", "_mixture", "_mixture_model", "_target"},
    "_nuts": {"_arrays", "_buckets", "_inference", "_mode", "_numpyro_law", "_progress", "_result", "_target"},
    "_variational": {"_arrays", "_buckets", "_inference", "_mode", "_numpyro_law", "_progress", "_result", "_target"},
    "_methods": {
        "_arrays",
        "_bootstrap",
        "_buckets",
        "_gibbs",
        "_inference",
        "_mixture",
        "_mode",
        "_result",
        "_target",
    },
    "_numpyro_start": {
        "_arrays",
        "_buckets",
        "_fit",
        "_mixture",
        "_mixture_distribution",
        "_mixture_model",
        "_mode",
        "_numpyro_law",
        "_target",
    },
    "_arviz": set(),
    "_label_free": {"_arviz", "_buckets", "_mixture", "_mixture_distribution"},
    "_posterior_fit": {
        "_arrays",
        "_arviz",
        "_credible",
        "_draws",
        "_label_free",
        "_mixture",
        "_mixture_distribution",
        "_result",
    },
    "_fit_posterior": {
        "_arrays",
        "_em",
        "_fit",
        "_gibbs",
        "_inference",
        "_label_free",
        "_methods",
        "_mixture",
        "_mixture_model",
        "_numpyro_start",
        "_posterior_fit",
        "_precision",
        "_relabel",
        "_result",
        "_support",
        "_template",
    },
    "_from_numpyro": {
        "_arrays",
        "_draws",
        "_fit_posterior",
        "_mixture",
        "_mixture_model",
        "_numpyro_law",
        "_posterior_fit",
        "_result",
    },
    "_credible": {"_arrays"},
    "_draws": {"_arrays", "_mixture"},
    "_relabel": {"_arrays", "_blocks", "_buckets", "_components", "_draws", "_mixture", "_precision"},
    "_plan_draws": {
        "_arrays",
        "_buckets",
        "_couplings",
        "_draws",
        "_gaussian_couplings",
        "_mixture",
        "_plan",
        "_weights",
    },
    "_plot_posterior": {"_arrays", "_credible", "_posterior_fit", "_posterior_plan", "plot"},
    "_posterior_correspondences": {"_credible"},
    "_posterior_plan": {
        "_arrays",
        "_components",
        "_couplings",
        "_credible",
        "_mixture",
        "_plan",
        "_plan_draws",
        "_posterior_correspondences",
        "_result",
    },
    "_transport_factor": {
        "_arrays",
        "_blocks",
        "_components",
        "_mixture",
        "_numpyro_law",
        "_plan",
        "_result",
        "_transport",
    },
    "_coupled": {
        "_arrays",
        "_couplings",
        "_em",
        "_fit",
        "_mixture",
        "_mixture_model",
        "_mode",
        "_numpyro_law",
        "_plan",
        "_precision",
        "_result",
        "_target",
        "_template",
        "_transport",
        "_transport_factor",
    },
    "_transport_posterior": {
        "_arrays",
        "_buckets",
        "_draws",
        "_mixture",
        "_numerical_couplings",
        "_plan_draws",
        "_posterior_plan",
        "_precision",
        "_progress",
        "_relabel",
        "_result",
        "_transport",
    },
}


# The diagnostics, a package of their own beside the engine: which of them may import which.
DIAGNOSTICS = {
    "_random": set(),
    "_perturbations": {"_random"},
    "_method": set(),
    "_starts": set(),
    "_parameters": set(),
    "_descent": set(),
    "_biconvexity": {"_parameters", "_starts"},
    "_uniqueness": {"_descent", "_parameters", "_starts"},
    "_sensitivity": {"_parameters"},
    "_worst_case": {"_parameters"},
    "_distances": set(),
    "_study": set(),
    "_stability": {"_distances", "_method", "_perturbations", "_study"},
    "_envelope": {"_stability"},
    "_sweep": {"_distances", "_method", "_random", "_study"},
}


def relative_imports(path, level=1):
    tree = ast.parse(path.read_text())
    return {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == level and node.module
    }


def test_the_engine_imports_one_way():
    for name, allowed in ALLOWED.items():
        assert relative_imports(ROOT / "omt_expfam" / f"{name}.py") <= allowed | ANYWHERE, name


def test_the_diagnostics_import_one_way():
    found = {path.stem for path in (ROOT / "omt_expfam" / "diagnostics").glob("_[a-z]*.py")}
    assert found == set(DIAGNOSTICS)
    for name, allowed in DIAGNOSTICS.items():
        path = ROOT / "omt_expfam" / "diagnostics" / f"{name}.py"
        assert relative_imports(path) <= allowed, name
        # Only unfinished studies are kept in files.
        outer = {"_persist"} if name == "_study" else set()
        assert relative_imports(path, level=2) <= set(ALLOWED) | outer, name
    seen = set()
    for name, allowed in DIAGNOSTICS.items():
        assert allowed <= seen, f"{name} comes before what it imports"
        seen.add(name)


def test_only_the_outer_layer_is_free():
    """What is not in the table reads everything and is read by nobody but the facade and the command line."""
    outer = {p.stem for p in (ROOT / "omt_expfam").glob("*.py")} - set(ALLOWED)
    assert outer <= {
        "__init__",
        "__main__",
        "_cache",
        "families",
        "metrics",
        "plot",
        "_persist",
        "_cli",
        "_demo",
        "_diagnose",
        "_plot_diagnostics",
        "_plot_stability",
        "_plot_trajectory",
        "_points",
    }


def test_importing_the_package_stays_light():
    """Neither JAX comes with the package, nor with any of its names what only some uses need."""
    code = """
import sys
import omt_expfam as omt
print("jax" in sys.modules)
names = [getattr(omt, name) for name in dir(omt)]
print([name for name in sys.argv[1:] if name in sys.modules])
"""
    heavy = ["families", "matplotlib", "ott", "arviz", "sklearn", "ot", "optax", "xarray", "pandas", "scipy.optimize"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["False", "[]", ""]


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
from omt_expfam._base.arguments import at_top
assert at_top() and not jax.jit(lambda x: x if at_top() else x + 1)(0) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "TransportPlan(2 -> 2" in done.stdout
