"""Energy-based models that are statistically right.

Names are imported when they are first used: `import flowebm` itself imports neither JAX nor
scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowebm.compilation_cache import use_compilation_cache as use_compilation_cache
    from flowebm.data import load_dataset as load_dataset
    from flowebm.data import load_images as load_images
    from flowebm.estimator import FlowEBM as FlowEBM
    from flowebm.evaluation import ClassShares as ClassShares
    from flowebm.evaluation import EstimateWarning as EstimateWarning
    from flowebm.evaluation import NearestMode as NearestMode
    from flowebm.evaluation import class_shares as class_shares
    from flowebm.evaluation import held_out_nll as held_out_nll
    from flowebm.evaluation import kl_divergence as kl_divergence
    from flowebm.evaluation import log_partition as log_partition
    from flowebm.evaluation import log_partition_bracket as log_partition_bracket
    from flowebm.evaluation import mode_weights as mode_weights
    from flowebm.evaluation import total_variation as total_variation
    from flowebm.models import AbstractEnergyModel as AbstractEnergyModel
    from flowebm.models import Architecture as Architecture
    from flowebm.models import EBFlow as EBFlow
    from flowebm.models import EBFlowArchitecture as EBFlowArchitecture
    from flowebm.models import EnergyModel as EnergyModel
    from flowebm.models import LogDensity as LogDensity
    from flowebm.models import load_model as load_model
    from flowebm.models import numpyro_density as numpyro_density
    from flowebm.models import save_model as save_model
    from flowebm.refusal import Refused as Refused
    from flowebm.samplers import Imputation as Imputation
    from flowebm.samplers import impute as impute
    from flowebm.samplers.model_samples import sample_model as sample_model
    from flowebm.training import BalancedOptions as BalancedOptions
    from flowebm.training import EBFlowOptions as EBFlowOptions
    from flowebm.training import FitResult as FitResult
    from flowebm.training import JointOptions as JointOptions
    from flowebm.training import SamplingOptions as SamplingOptions
    from flowebm.training import SamplingResult as SamplingResult
    from flowebm.training import StartPoints as StartPoints
    from flowebm.training import TrainingDiverged as TrainingDiverged
    from flowebm.training import fit_balanced as fit_balanced
    from flowebm.training import fit_ebflow as fit_ebflow
    from flowebm.training import fit_joint as fit_joint
    from flowebm.training import fit_persistent as fit_persistent
    from flowebm.training import sample as sample
    from flowebm.training import use_devices as use_devices

    __version__: str

#: Where each public name is found.
_ORIGINS = {
    "AbstractEnergyModel": "flowebm.models",
    "Architecture": "flowebm.models",
    "BalancedOptions": "flowebm.training",
    "ClassShares": "flowebm.evaluation",
    "EBFlow": "flowebm.models",
    "EBFlowArchitecture": "flowebm.models",
    "EnergyModel": "flowebm.models",
    "EstimateWarning": "flowebm.evaluation",
    "FitResult": "flowebm.training",
    "FlowEBM": "flowebm.estimator",
    "Imputation": "flowebm.samplers",
    "JointOptions": "flowebm.training",
    "LogDensity": "flowebm.models",
    "NearestMode": "flowebm.evaluation",
    "Refused": "flowebm.refusal",
    "SamplingOptions": "flowebm.training",
    "SamplingResult": "flowebm.training",
    "EBFlowOptions": "flowebm.training",
    "StartPoints": "flowebm.training",
    "TrainingDiverged": "flowebm.training",
    "class_shares": "flowebm.evaluation",
    "fit_balanced": "flowebm.training",
    "fit_joint": "flowebm.training",
    "fit_persistent": "flowebm.training",
    "fit_ebflow": "flowebm.training",
    "held_out_nll": "flowebm.evaluation",
    "kl_divergence": "flowebm.evaluation",
    "impute": "flowebm.samplers",
    "load_dataset": "flowebm.data",
    "load_images": "flowebm.data",
    "load_model": "flowebm.models",
    "log_partition": "flowebm.evaluation",
    "log_partition_bracket": "flowebm.evaluation",
    "mode_weights": "flowebm.evaluation",
    "numpyro_density": "flowebm.models",
    "sample": "flowebm.training",
    "sample_model": "flowebm.samplers.model_samples",
    "save_model": "flowebm.models",
    "total_variation": "flowebm.evaluation",
    "use_compilation_cache": "flowebm.compilation_cache",
    "use_devices": "flowebm.training",
}

#: Subpackages, reachable as attributes too.
_SUBPACKAGES = (
    "data",
    "evaluation",
    "layers",
    "models",
    "objectives",
    "report",
    "samplers",
    "training",
)

__all__ = [
    "AbstractEnergyModel",
    "Architecture",
    "BalancedOptions",
    "ClassShares",
    "EBFlow",
    "EBFlowArchitecture",
    "EBFlowOptions",
    "EnergyModel",
    "EstimateWarning",
    "FitResult",
    "FlowEBM",
    "Imputation",
    "JointOptions",
    "LogDensity",
    "NearestMode",
    "Refused",
    "SamplingOptions",
    "SamplingResult",
    "StartPoints",
    "TrainingDiverged",
    "__version__",
    "class_shares",
    "fit_balanced",
    "fit_ebflow",
    "fit_joint",
    "fit_persistent",
    "held_out_nll",
    "impute",
    "kl_divergence",
    "load_dataset",
    "load_images",
    "load_model",
    "log_partition",
    "log_partition_bracket",
    "mode_weights",
    "numpyro_density",
    "sample",
    "sample_model",
    "save_model",
    "total_variation",
    "use_compilation_cache",
    "use_devices",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("flowebm")
    elif name in _ORIGINS:
        value = getattr(import_module(_ORIGINS[name]), name)
    elif name in _SUBPACKAGES:
        value = import_module(f"flowebm.{name}")
    else:
        raise AttributeError(f"module 'flowebm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
