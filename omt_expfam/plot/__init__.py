"""Pictures of mixtures, plans, maps and fits, with matplotlib.

Functions draw into the given axes, or into a new figure, and return them; none of them calls ``plt.show``. Blue is the
source and orange the target throughout. Components and dimensions are numbered from 0. Where points or maps are drawn,
``embedding=`` draws them in coordinates of your own, such as a UMAP.
"""

from ._arrows import arrows as arrows
from ._diagnostics import (
    relaxation_path as relaxation_path,
    sensitivity_map as sensitivity_map,
    uniqueness_histogram as uniqueness_histogram,
    worst_case_curve as worst_case_curve,
)
from ._fits import features as features, strengths as strengths, trace as trace
from ._maps import maps as maps
from ._mixtures import mixture as mixture
from ._plans import coupling as coupling, interpolation as interpolation, overview as overview
from ._posteriors import (
    posterior_trace as posterior_trace,
    uncertain_map as uncertain_map,
    weights_posterior as weights_posterior,
)
from ._stability import modulus as modulus, stability_curves as stability_curves, sweep_chart as sweep_chart
from ._style import (
    NEUTRAL_COLOR as NEUTRAL_COLOR,
    SOURCE_COLOR as SOURCE_COLOR,
    TARGET_COLOR as TARGET_COLOR,
)
from ._time_courses import flows as flows, trajectory as trajectory
