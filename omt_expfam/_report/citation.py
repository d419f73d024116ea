"""How to cite the library and its method, as CITATION.cff says it."""

CITATION = (
    "Marghi, Y., Jin, K. and Sümbül, U. (2026). A Biconvex Formulation for Stable Transport of Mixture Models with a "
    "Unique Solution. arXiv:2606.02515."
)

SOFTWARE = (
    "The omt-expfam developers (2026). omt-expfam: entropic optimal transport between mixture models. Version "
    "{version}."
)

BIBTEX = """\
@article{{marghi2026,
  title  = {{A Biconvex Formulation for Stable Transport of Mixture Models with a Unique Solution}},
  author = {{Marghi, Yeganeh and Jin, Kelly and S{{\\"u}}mb{{\\"u}}l, Uygar}},
  year   = {{2026}},
  note   = {{arXiv:2606.02515}}
}}
@software{{omt_expfam,
  title   = {{omt-expfam: entropic optimal transport between mixture models}},
  author  = {{{{The omt-expfam developers}}}},
  version = {{{version}}},
  license = {{Apache-2.0}}
}}"""
