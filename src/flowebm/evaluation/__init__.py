"""What a fitted model is worth, measured on the model and never on its training chains."""

from flowebm.evaluation.divergence import fisher_divergence as fisher_divergence
from flowebm.evaluation.divergence import kl_divergence as kl_divergence
from flowebm.evaluation.estimate import Estimate as Estimate
from flowebm.evaluation.estimate import EstimateWarning as EstimateWarning
from flowebm.evaluation.held_out import HeldOut as HeldOut
from flowebm.evaluation.held_out import bits_per_dimension as bits_per_dimension
from flowebm.evaluation.held_out import held_out_nll as held_out_nll
from flowebm.evaluation.importance import ImportanceSample as ImportanceSample
from flowebm.evaluation.importance import effective_sample_size as effective_sample_size
from flowebm.evaluation.importance import importance_log_weights as importance_log_weights
from flowebm.evaluation.importance import importance_sample as importance_sample
from flowebm.evaluation.importance import log_mean_exp as log_mean_exp
from flowebm.evaluation.importance import pareto_khat as pareto_khat
from flowebm.evaluation.log_partition import LogPartition as LogPartition
from flowebm.evaluation.log_partition import as_log_partition as as_log_partition
from flowebm.evaluation.log_partition import log_partition as log_partition
from flowebm.evaluation.mode_weights import ModeWeights as ModeWeights
from flowebm.evaluation.mode_weights import NearestMode as NearestMode
from flowebm.evaluation.mode_weights import mode_weights as mode_weights
from flowebm.evaluation.mode_weights import total_variation as total_variation
from flowebm.evaluation.reliability import Reliability as Reliability
from flowebm.evaluation.reliability import reliability as reliability
