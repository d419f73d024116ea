"""What the author of a component family needs: the interfaces, and the tools of the families that come along.

The families of the library import nothing else of it.
"""

from ._base.arguments import (
    ArrayLike as ArrayLike,
    as_count as as_count,
    as_floating as as_floating,
    as_host_or_traced as as_host_or_traced,
    check_positive as check_positive,
    check_shape as check_shape,
)
from ._base.arrays import (
    batch_size as batch_size,
    is_traced as is_traced,
    log_share as log_share,
    on_host as on_host,
    take as take,
    to_jax as to_jax,
)
from ._base.buckets import point_bucket as point_bucket
from ._base.xla import program as program, unfused as unfused
from ._components.category_form import (
    as_cost as as_cost,
    CategoryForm as CategoryForm,
    nearest_category as nearest_category,
    spread_of_categories as spread_of_categories,
)
from ._components.circle_form import AbstractCircle as AbstractCircle
from ._components.covariance import (
    AbstractCovariance as AbstractCovariance,
    AbstractInvertibleCovariance as AbstractInvertibleCovariance,
    AbstractLinearCovariance as AbstractLinearCovariance,
    DenseCovariance as DenseCovariance,
    DiagonalCovariance as DiagonalCovariance,
    LowRankCovariance as LowRankCovariance,
    ScalarCovariance as ScalarCovariance,
    symmetric as symmetric,
    to_dense as to_dense,
)
from ._components.elliptical_form import EllipticalForm as EllipticalForm
from ._components.exponential_family import (
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractRegularFamily as AbstractRegularFamily,
)
from ._components.interface import (
    AbstractComponents as AbstractComponents,
    each as each,
    map_components as map_components,
)
from ._components.lattice_form import AbstractLattice as AbstractLattice
from ._components.product_form import (
    AbstractShape as AbstractShape,
    NormalShape as NormalShape,
    ProductForm as ProductForm,
)
from ._components.sizes import (
    counts_of as counts_of,
    exposure_of as exposure_of,
    SizedPoints as SizedPoints,
)
from ._family.bayesian import AbstractPriors as AbstractPriors
from ._family.conjugate import (
    check_names as check_names,
    draw_dense_location as draw_dense_location,
    draw_location as draw_location,
    draw_scale_tril as draw_scale_tril,
    draw_variance as draw_variance,
    read_beta as read_beta,
    read_dirichlet as read_dirichlet,
    read_gamma as read_gamma,
    read_inverse_gamma as read_inverse_gamma,
    read_inverse_wishart as read_inverse_wishart,
    read_moments as read_moments,
    read_normal as read_normal,
)
from ._family.coordinates import (
    AbstractCoordinateFamily as AbstractCoordinateFamily,
    AbstractFactorizedFamily as AbstractFactorizedFamily,
)
from ._family.em_family import (
    AbstractEMFamily as AbstractEMFamily,
    AbstractRegularEMFamily as AbstractRegularEMFamily,
    joint_table as joint_table,
    Statistics as Statistics,
)
from ._family.priors import (
    covariance_prior as covariance_prior,
    location_prior as location_prior,
    positive_prior as positive_prior,
    scale_prior as scale_prior,
    spread_of as spread_of,
    variance_prior as variance_prior,
    within_scale as within_scale,
)
from ._family.slices import slice_draw as slice_draw
from ._numerics.categories import categories as categories
from ._numerics.circle import direction as direction, wrap as wrap
