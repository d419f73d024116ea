"""What a family that can be fitted adds to its components: the M-step, priors, coordinates.

May import `_base`, `_numerics` and `_components`.
"""
