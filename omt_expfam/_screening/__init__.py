"""Two samples, to the features whose laws differ.

May import `_base` alone.
"""
