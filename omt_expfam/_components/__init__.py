"""What a component is: the interface, mixtures of them, their covariances and draws.

May import `_base` and `_numerics`.
"""
