"""Synthetic data with a known density, to fit and to measure against."""

from flowebm.data.targets.checkerboard import Checkerboard as Checkerboard
from flowebm.data.targets.funnel import Funnel as Funnel
from flowebm.data.targets.mixture import GaussianMixture4 as GaussianMixture4
from flowebm.data.targets.moons import Moons as Moons
from flowebm.data.targets.multimodal10 import Multimodal10 as Multimodal10
from flowebm.data.targets.rings import Rings as Rings
from flowebm.data.targets.sine import Sine as Sine
from flowebm.data.targets.swirl import Swirl as Swirl
from flowebm.data.targets.target import AbstractTarget as AbstractTarget
