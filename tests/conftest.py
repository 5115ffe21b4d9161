"""Shared test set-up: a compilation cache that persists, and a model that is small by default."""

import os
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from flowebm.models import Architecture

jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@dataclass(frozen=True)
class SmallArchitecture(Architecture):
    """An architecture with other defaults."""

    width: int = 16
    depth: int = 1
    flow: str = "affine-coupling"
    flow_layers: int = 1
    flow_width: int = 8
    flow_depth: int = 1


@pytest.fixture(scope="session")
def small_architecture():
    """What stands in for `Architecture` where a user's code names no size."""
    return SmallArchitecture
