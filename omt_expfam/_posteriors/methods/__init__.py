"""The methods of inference: Laplace, Gibbs, NUTS, SVI and the bootstrap.

May import what `_posteriors` may.
"""
