"""What a user may choose about numerical couplings."""

import equinox as eqx

from .._base.arguments import as_count, as_scalar


class NumericalSettings(eqx.Module):
    """How couplings without a closed form are computed.

    Attributes:
        num_nodes: Nodes per component, a multiple of 4. The plan of a pair is a matrix of that size squared, and time
            grows like it; the bias that is left falls like its inverse, and much faster in one or two dimensions, where
            nodes of smooth densities are a grid (of the largest square below). Changing it recompiles.
        num_draws: Draws per component for the integrals of the potentials; rounded up to a multiple of 2048. The
            noise that is left falls like its root. Changing it recompiles.
        seed: Seed of the nodes and draws: equal settings give equal results.
        tolerance: Largest accepted L1 error of the marginals of a plan.
        max_steps: Limit on the steps of Sinkhorn's iteration, for each pair.
    """

    num_nodes: int = eqx.field(static=True, default=2048)
    num_draws: int = eqx.field(static=True, default=65536)
    seed: int = eqx.field(static=True, default=0)
    tolerance: float = eqx.field(static=True, default=1e-4)
    max_steps: int = eqx.field(static=True, default=30_000)

    def __check_init__(self):
        if as_count("num_nodes", self.num_nodes, minimum=64) % 4:
            raise ValueError(f"`num_nodes` must be a multiple of 4; got {self.num_nodes}.")
        as_count("num_draws", self.num_draws)
        as_count("seed", self.seed, minimum=0)
        as_scalar("tolerance", self.tolerance, strict=True)
        as_count("max_steps", self.max_steps)
