"""Shared test set-up: two CPU threads' worth of XLA and a compilation cache that persists."""

import os
from pathlib import Path

import jax

jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
