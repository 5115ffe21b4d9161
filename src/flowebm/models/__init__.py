"""Densities $p(x) \\propto e^{-E(x)}$ and the flows that propose for them."""

from flowebm.models.ebflow import EBFlow as EBFlow
from flowebm.models.ebflow_architectures import convolutional_ebflow as convolutional_ebflow
from flowebm.models.ebflow_architectures import coupling_ebflow as coupling_ebflow
from flowebm.models.ebflow_architectures import fully_connected_ebflow as fully_connected_ebflow
from flowebm.models.ebflow_architectures import glow_ebflow as glow_ebflow
from flowebm.models.ebflow_log_normalizer import estimate_log_normalizer as estimate_log_normalizer
from flowebm.models.energy import AbstractEnergyModel as AbstractEnergyModel
from flowebm.models.energy import LogDensity as LogDensity
from flowebm.models.energy import as_energy_model as as_energy_model
from flowebm.models.tilted import EnergyModel as EnergyModel
