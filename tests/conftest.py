"""Shared test set-up: programs compiled in a hurry and kept, and a model small by default."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

# Of the tests' processes, none writes into the user's cache. Before the library looks at it.
os.environ.setdefault("FLOWEBM_CACHE", str(Path(__file__).parents[1] / ".jax_cache"))

from flowebm.models import Architecture
from flowebm.training import JointOptions

# Most of the tests' time is compilation, of programs that are over sooner than they are
# optimised. `XLA_FLAGS=` in the environment compiles them as users do.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)


def pytest_collection_modifyitems(items):
    """Tests of the whole library first: the longest files must not be the last to start."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent not in (here, here / "docs"))


def pytest_collection_finish():
    """What is imported by now stays: a twentieth of the time went into looking it through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_make_parametrize_id(val, argname):
    """Bytes name no test: compressed ones hold the second, which differs between two workers."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="module", autouse=True)
def _forgotten_programs():
    """The programs of a file serve no other one: kept, they add up to gigabytes."""
    yield
    jax.clear_caches()


@dataclass(frozen=True)
class SmallArchitecture(Architecture):
    """An architecture with other defaults."""

    width: int = 16
    depth: int = 1
    flow: str = "affine-coupling"
    flow_layers: int = 1
    flow_width: int = 8
    flow_depth: int = 1


@dataclass(frozen=True)
class SmallJointOptions(JointOptions):
    """Options of joint training with other defaults."""

    epochs: int = 1
    least_steps: int = 20
    most_networks: int = 1
    network_width: int = 16
    tilt_steps: int = 20
    n_draws: int = 2048
    n_chains: int = 256
    image_epochs: float = 0.01
    image_steps: int = 20
    image_batch_pixels: int = 512


@pytest.fixture(scope="session")
def small_joint_options():
    """What stands in for `JointOptions` where a user's code names none."""
    return SmallJointOptions


@pytest.fixture(scope="session")
def small_architecture():
    """What stands in for `Architecture` where a user's code names no size."""
    return SmallArchitecture
