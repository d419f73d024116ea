"""Samples and a plan, to a convex potential whose gradient is the map.

May import `_base`, `_numerics`, `_components`, `_plans`, `_screening` and `metrics`.
"""
