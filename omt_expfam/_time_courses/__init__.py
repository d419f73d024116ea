"""Chains of plans through several times.

May import `_base`, `_components` and `_plans`.
"""
