"""From draws of mixtures to draws of plans.

May import `_base`, `_components`, `_weights`, `_couplings`, `_plans` and `_posteriors`.
"""
