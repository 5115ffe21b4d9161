"""Markov kernels in blackjax's form, and what runs and tunes them.

A kernel is a module with `init`, `build_kernel` and `as_top_level_api`; `flow_imh` and
`flow_isir` also have `transition`, which decides on candidates already evaluated. `kernel.py` has
the same kernels for many chains at once; a local kernel is an entry of its table.
"""

from flowebm.samplers import flow_imh as flow_imh
from flowebm.samplers import flow_isir as flow_isir
from flowebm.samplers import local_global as local_global
from flowebm.samplers import step_size as step_size
from flowebm.samplers import ula as ula
from flowebm.samplers.assisted_draws import ContinuedChains as ContinuedChains
from flowebm.samplers.assisted_draws import continue_chains as continue_chains
from flowebm.samplers.chains import run_chains as run_chains
from flowebm.samplers.flow_imh import FlowIMHInfo as FlowIMHInfo
from flowebm.samplers.flow_isir import FlowISIRInfo as FlowISIRInfo
from flowebm.samplers.imputation import Imputation as Imputation
from flowebm.samplers.imputation import ImputedRows as ImputedRows
from flowebm.samplers.imputation import impute as impute
from flowebm.samplers.imputation import impute_rows as impute_rows
from flowebm.samplers.local_global import LocalGlobalInfo as LocalGlobalInfo
from flowebm.samplers.local_global import LocalGlobalState as LocalGlobalState
from flowebm.samplers.normalised import NormalisedModel as NormalisedModel
from flowebm.samplers.proposal import FunctionProposal as FunctionProposal
from flowebm.samplers.proposal import Proposal as Proposal
from flowebm.samplers.proposal import WeightedState as WeightedState
from flowebm.samplers.proposal import draw as draw
from flowebm.samplers.step_size import StepSizeState as StepSizeState
from flowebm.samplers.ula import ULAInfo as ULAInfo
from flowebm.samplers.ula import ULAState as ULAState
