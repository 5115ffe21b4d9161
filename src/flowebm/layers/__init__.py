"""Invertible layers, told apart by whether their Jacobian depends on the input."""

from flowebm.layers.act_norm import ActNorm as ActNorm
from flowebm.layers.affine_coupling import AffineCoupling as AffineCoupling
from flowebm.layers.bijection import LayerBijection as LayerBijection
from flowebm.layers.chain import Chain as Chain
from flowebm.layers.circular_conv2d import CircularConv2d as CircularConv2d
from flowebm.layers.conditioners import conv_conditioner as conv_conditioner
from flowebm.layers.conditioners import mlp_conditioner as mlp_conditioner
from flowebm.layers.conv1x1 import Conv1x1 as Conv1x1
from flowebm.layers.conv2d import Conv2d as Conv2d
from flowebm.layers.full_linear import FullLinear as FullLinear
from flowebm.layers.layer import AbstractCompositeLayer as AbstractCompositeLayer
from flowebm.layers.layer import AbstractConstantJacobianLayer as AbstractConstantJacobianLayer
from flowebm.layers.layer import AbstractDataDependentLayer as AbstractDataDependentLayer
from flowebm.layers.layer import AbstractLayer as AbstractLayer
from flowebm.layers.logistic_mixture_coupling import (
    LogisticMixtureCoupling as LogisticMixtureCoupling,
)
from flowebm.layers.lu_linear import LULinear as LULinear
from flowebm.layers.monotone_inverse import invert_increasing as invert_increasing
from flowebm.layers.preprocessing import Preprocessing as Preprocessing
from flowebm.layers.repeated import Repeated as Repeated
from flowebm.layers.smooth_leaky_relu import SmoothLeakyReLU as SmoothLeakyReLU
from flowebm.layers.spline_coupling import SplineCoupling as SplineCoupling
from flowebm.layers.split_prior import SplitPrior as SplitPrior
from flowebm.layers.squeeze import Squeeze as Squeeze
from flowebm.layers.triangular_linear import TriangularLinear as TriangularLinear
from flowebm.layers.whitening import Whitening as Whitening
