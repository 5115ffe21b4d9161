"""Densities $p(x) \\propto e^{-E(x)}$ and the flows that propose for them."""

from flowebm.models.energy import AbstractEnergyModel as AbstractEnergyModel
from flowebm.models.energy import LogDensity as LogDensity
from flowebm.models.energy import as_energy_model as as_energy_model
from flowebm.models.tilted import EnergyModel as EnergyModel
