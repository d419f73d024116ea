"""The block of the weights: a plan between two sets of weights, given the costs of pairs.

May import `_base`.
"""
