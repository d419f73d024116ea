"""Do the quick tests notice faults in the core? One fault at a time, in a copy of the repository.

    python -m benchmarks.speed.mutations [--only NAME] [--root OTHER_CHECKOUT]

Each fault is a small change of one line, of the kind that a slip of the pen makes, and the tests that should notice it.
The copy is removed afterwards; the repository itself is not touched.
"""

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of one place in one file, and where it should be noticed: a test file and a selection in it."""

    file: str
    old: str
    new: str
    tests: str
    selection: str

    def changed(self, root: Path) -> str:
        """The file under ``root`` with the fault.

        Raises:
            ValueError: If the old text is not there exactly once.
        """
        text = (root / self.file).read_text()
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} must hold {self.old!r} once; found it {found} times.")
        return text.replace(self.old, self.new)

    def apply(self, root: Path) -> None:
        """Change the file under ``root``."""
        (root / self.file).write_text(self.changed(root))


FAULTS = {
    "errors over folds divide by n": Fault(
        "omt_expfam/_fitting/select.py",
        "scores.std(axis=1, ddof=1)",
        "scores.std(axis=1, ddof=0)",
        "tests/fitting/test_fit.py",
        "held_out or leaving_one",
    ),
    "half the prior in EM's objective": Fault(
        "omt_expfam/_fitting/em.py",
        "penalty = jnp.sum(jnp.where(counts > 0, penalties, 0.0)) / total",
        "penalty = 0.5 * jnp.sum(jnp.where(counts > 0, penalties, 0.0)) / total",
        "tests/fitting/test_fit.py",
        "prior or likelihood_rises",
    ),
    "dropped pairs leave a hole": Fault(
        "omt_expfam/_plans/displacement.py",
        "on_host(lambda xp, values: values / xp.sum(values), pairs.weight)",
        "pairs.weight",
        "tests/plans/test_transport.py",
        "interpolation",
    ),
    "the reversed plan keeps its weights": Fault(
        "omt_expfam/_plans/plan.py",
        "self.weight_coupling.transpose(),",
        "self.weight_coupling,",
        "tests/plans/test_transport.py",
        "invariances or everything_is_brute_forces",
    ),
    "pairs in increasing order": Fault(
        "omt_expfam/_plans/correspondences.py",
        "np.argsort(-omega[source, target]",
        "np.argsort(omega[source, target]",
        "tests/plans/test_transport.py",
        "correspondences",
    ),
    "covariance of a mixture without its means": Fault(
        "omt_expfam/_components/centers.py",
        "return components.mean() - center[None], components.covariance()",
        "return 0 * components.mean(), components.covariance()",
        "tests/plans/test_transport.py",
        "interpolation",
    ),
    "twice the KL of a pair": Fault(
        "omt_expfam/_couplings/gaussian_pair.py",
        "0.5 * jnp.log1p(r / safe)",
        "jnp.log1p(r / safe)",
        "tests/plans/test_transport.py",
        "everything_is_brute_forces and 1-",
    ),
    "trace of one coordinate": Fault(
        "omt_expfam/_components/covariance.py",
        "return self.size * self.variance\n",
        "return self.variance\n",
        "tests/plans/test_transport.py",
        "cheap_forms",
    ),
    "EM counts every point once": Fault(
        "omt_expfam/_fitting/em.py",
        "jnp.where(used, weight * (peak + jnp.log(total))",
        "jnp.where(used, (peak + jnp.log(total))",
        "tests/fitting/test_fit.py",
        "sample_weights_are and Spherical",
    ),
    "padded points count": Fault(
        "omt_expfam/_fitting/em.py",
        "jnp.pad(weight, (0, pad))",
        'jnp.pad(weight, (0, pad), mode="edge")',
        "tests/fitting/test_fit.py",
        "chunks_change_nothing and Spherical",
    ),
    "entropy of a Gamma law": Fault(
        "families/gamma.py",
        "(1 - a) * digamma(a)",
        "(a - 1) * digamma(a)",
        "tests/family/test_families.py",
        "entropy and Gamma",
    ),
    "concentration off by one": Fault(
        "families/gamma.py",
        "self.concentration - 1, -self.rate",
        "self.concentration, -self.rate",
        "tests/family/test_families.py",
        "exponential_family_view and Gamma",
    ),
    "variance of a log-normal law": Fault(
        "families/log_normal.py",
        "jnp.expm1(self.scale**2) * self._mean() ** 2",
        "jnp.expm1(self.scale) * self._mean() ** 2",
        "tests/family/test_families.py",
        "moments_are_numpys and LogNormal",
    ),
    "an interval with both tails on each side": Fault(
        "omt_expfam/_posteriors/credible.py",
        "tail = (1 - probability) / 2",
        "tail = 1 - probability",
        "tests/posterior_plans/test_transport_posterior.py",
        "intervals_are_numpys",
    ),
    "the longest interval": Fault(
        "omt_expfam/_posteriors/credible.py",
        "names.argmin(widths",
        "names.argmax(widths",
        "tests/posterior_plans/test_transport_posterior.py",
        "intervals_are_numpys",
    ),
    "the worst plan is chosen": Fault(
        "omt_expfam/_pipelines/select_plan.py",
        "np.nanargmin(means)",
        "np.nanargmax(means)",
        "tests/pipelines/test_select_plan.py",
        "many_source",
    ),
    "mass shrinks from the wrong end": Fault(
        "omt_expfam/_time_courses/trajectory.py",
        "** (share - 1)",
        "** share",
        "tests/time_courses/test_trajectory.py",
        "interpolation_meets",
    ),
    "points of no weight in the variance": Fault(
        "omt_expfam/metrics.py",
        "_mean_squared_error(estimate, truth), jnp.sum(jnp.var(truth, axis=0))",
        "_mean_squared_error(estimate, truth), jnp.sum(jnp.var(truth, axis=0, ddof=1))",
        "tests/metrics/test_metrics.py",
        "l2_uvp_against_numpy",
    ),
    "a biased discrepancy": Fault(
        "omt_expfam/metrics.py",
        "float(len(v) * (len(v) - 1))",
        "float(len(v) * len(v))",
        "tests/metrics/test_metrics.py",
        "mmd_against_loops",
    ),
    "covariances over n": Fault(
        "omt_expfam/metrics.py",
        "np.sqrt(x.shape[0] - 1)",
        "np.sqrt(x.shape[0])",
        "tests/metrics/test_metrics.py",
        "frechet_against_matrix",
    ),
}


def caught(fault: Fault, root: Path) -> bool:
    """Whether the tests of a copy of ``root`` with the fault fail.

    Raises:
        RuntimeError: If pytest did not run the tests.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "results", "docs"))
        fault.apply(copy)
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-k", fault.selection]
        # The copies share what is compiled: most programs do not have the fault.
        env = {"JAX_COMPILATION_CACHE_DIR": str(_HERE / ".pytest_cache" / "d" / "jax"), **os.environ}
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, fault.tests], cwd=copy, env=env, capture_output=True, text=True
        )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"No tests were run:\n{run.stdout}{run.stderr}")
    return run.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=FAULTS, help="one fault")
    parser.add_argument("--root", type=Path, default=_HERE, help="the checkout whose tests are tried")
    options = parser.parse_args()
    names = [options.only] if options.only else list(FAULTS)
    missed = []
    for name in names:
        found = caught(FAULTS[name], options.root)
        print(f"{'caught' if found else 'MISSED':>7}  {name}", flush=True)
        missed += [] if found else [name]
    print(f"{len(names) - len(missed)} of {len(names)} faults caught")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
