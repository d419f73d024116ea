"""Plain numerical methods that know nothing of mixtures: Newton, quadrature, minimization, supports.

May import `_base`.
"""
