"""Static plots of a fitted model, one kind a file; matplotlib is imported when one is drawn."""

from flowebm.report.plots.density_comparison import DensityPanel as DensityPanel
from flowebm.report.plots.density_comparison import density_comparison as density_comparison
from flowebm.report.plots.figure import save_figure as save_figure
from flowebm.report.plots.images import image_grid as image_grid
from flowebm.report.plots.marginals import data_against_samples as data_against_samples
from flowebm.report.plots.run import save_run_plots as save_run_plots
from flowebm.report.plots.training import training_curves as training_curves
from flowebm.report.plots.weights import mode_weight_bars as mode_weight_bars
