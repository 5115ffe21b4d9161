"""The loops: balanced training, its baseline, score matching and sampling, on one driver."""

from flowebm.training.adaptive_sampling import AdaptiveSamplingTrainer as AdaptiveSamplingTrainer
from flowebm.training.balanced import BalancedOptions as BalancedOptions
from flowebm.training.balanced import BalancedTrainer as BalancedTrainer
from flowebm.training.checkpoints import Checkpoints as Checkpoints
from flowebm.training.devices import use_devices as use_devices
from flowebm.training.driver import Limits as Limits
from flowebm.training.driver import Observers as Observers
from flowebm.training.driver import Outcome as Outcome
from flowebm.training.driver import TrainingDiverged as TrainingDiverged
from flowebm.training.driver import drive as drive
from flowebm.training.fit_balanced import default_proposal as default_proposal
from flowebm.training.fit_balanced import fit_balanced as fit_balanced
from flowebm.training.fit_balanced import fit_persistent as fit_persistent
from flowebm.training.fit_joint import JointFitResult as JointFitResult
from flowebm.training.fit_joint import fit_joint as fit_joint
from flowebm.training.fit_score_matching import ScoreMatchingOptions as ScoreMatchingOptions
from flowebm.training.fit_score_matching import fit_score_matching as fit_score_matching
from flowebm.training.flow import fit_flow as fit_flow
from flowebm.training.metrics import MetricsFile as MetricsFile
from flowebm.training.metrics import read_metrics as read_metrics
from flowebm.training.progress import progress_observer as progress_observer
from flowebm.training.result import FitResult as FitResult
from flowebm.training.sampling import sample as sample
from flowebm.training.sampling_options import SamplingOptions as SamplingOptions
from flowebm.training.sampling_result import SamplingResult as SamplingResult
from flowebm.training.trainer import AbstractTrainer as AbstractTrainer
