"""Fitting and transport in one go.

May import everything up to `_plans`, `_posteriors` and `metrics`.
"""
