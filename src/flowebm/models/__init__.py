"""Densities $p(x) \\propto e^{-E(x)}$ and the flows that propose for them."""

from flowebm.compilation_cache import use_compilation_cache_by_default

# Classes of saved models, for a process that imports nothing but what reads one.
from flowebm.models import (  # noqa: F401
    autoregressive,
    autoregressive_image,
    bounded,
    gaussian_mixture,
    linear_change,
    marginals,
    stack,
    subspace,
)
from flowebm.models.architecture import Architecture as Architecture
from flowebm.models.architecture import Components as Components
from flowebm.models.architecture import build as build
from flowebm.models.architecture import build_flow as build_flow
from flowebm.models.architecture import build_model as build_model
from flowebm.models.bases import gaussian_base as gaussian_base
from flowebm.models.defensive import DefensiveMixture as DefensiveMixture
from flowebm.models.ebflow import EBFlow as EBFlow
from flowebm.models.ebflow_architecture import EBFlowArchitecture as EBFlowArchitecture
from flowebm.models.ebflow_architecture import build_ebflow as build_ebflow
from flowebm.models.ebflow_architectures import convolutional_ebflow as convolutional_ebflow
from flowebm.models.ebflow_architectures import coupling_ebflow as coupling_ebflow
from flowebm.models.ebflow_architectures import fully_connected_ebflow as fully_connected_ebflow
from flowebm.models.ebflow_architectures import glow_ebflow as glow_ebflow
from flowebm.models.energy import AbstractEnergyModel as AbstractEnergyModel
from flowebm.models.energy import LogDensity as LogDensity
from flowebm.models.energy import as_energy_model as as_energy_model
from flowebm.models.flows import make_flow as make_flow
from flowebm.models.numpyro_density import NumpyroDensity as NumpyroDensity
from flowebm.models.numpyro_density import numpyro_density as numpyro_density
from flowebm.models.preprocessed import PreprocessedDistribution as PreprocessedDistribution
from flowebm.models.preprocessed import PreprocessedModel as PreprocessedModel
from flowebm.models.recipe import register as register
from flowebm.models.saved import SavedModel as SavedModel
from flowebm.models.saved import load_model as load_model
from flowebm.models.saved import save_model as save_model
from flowebm.models.tilted import EnergyModel as EnergyModel
from flowebm.models.tilts import ConvTilt as ConvTilt
from flowebm.models.tilts import MLPTilt as MLPTilt
from flowebm.models.trainable import partition_trainable as partition_trainable

# Whatever of this library compiles a program imports its models first.
use_compilation_cache_by_default()
