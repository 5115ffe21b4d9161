"""Cores of the processor as devices, for a command that asks for several."""

import os
from collections.abc import Sequence
from contextlib import suppress


def count_cores(arguments: Sequence[str]) -> None:
    """Have JAX take every core of the processor for a device, if the command names devices.

    That comes before the command's own modules: some libraries compute when they are imported, and
    JAX counts devices at its first computation. Where there is an accelerator, its devices count.

    Args:
        arguments: What stands behind `flowebm`.
    """
    named = any(argument.partition("=")[0] == "--devices" for argument in arguments)
    counted = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not named or counted or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    import jax

    # Where JAX has computed already, as in a program that calls `main`, the number stays.
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
