"""From data to a mixture, by expectation-maximization.

May import `_base` to `_family`.
"""
