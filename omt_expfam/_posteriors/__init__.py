"""From data to draws of mixtures: models, methods of inference and their results.

May import `_base` to `_fitting`.
"""
