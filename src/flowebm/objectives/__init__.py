"""What is minimised over a model's parameters."""

from flowebm.objectives.denoising_score_matching import dsm as dsm
from flowebm.objectives.exact_likelihood import ml as ml
from flowebm.objectives.exact_score_matching import exact as exact
from flowebm.objectives.finite_difference_score_matching import fdssm as fdssm
from flowebm.objectives.objective import Objective as Objective
from flowebm.objectives.sampled_likelihood import sml as sml
from flowebm.objectives.sliced_score_matching import ssm as ssm
