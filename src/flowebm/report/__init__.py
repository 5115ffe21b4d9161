"""Plots of a fitted model; matplotlib is imported when one is drawn."""

from flowebm.report.plots import DensityPanel as DensityPanel
from flowebm.report.plots import data_against_samples as data_against_samples
from flowebm.report.plots import density_comparison as density_comparison
from flowebm.report.plots import image_grid as image_grid
from flowebm.report.plots import mode_weight_bars as mode_weight_bars
from flowebm.report.plots import save_figure as save_figure
from flowebm.report.plots import save_run_plots as save_run_plots
from flowebm.report.plots import training_curves as training_curves
