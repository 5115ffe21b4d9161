"""Compiled programs are freed before a process that lives for days has too many of them."""

import gc
from pathlib import Path

#: Memory maps that programs may take before they are freed. Linux gives a process 65,530 of them,
#: and LLVM ends it when they are used up; a fit takes some thousands, and 90 kB of memory for each.
MOST_MAPS = 12_000

_MAPS = Path("/proc/self/maps")


class _Baseline:
    """Maps that the process had when programs were last freed, or first looked at."""

    maps: int | None = None


def free_programs_if_many() -> None:
    """Free all compiled programs of the process if they have come to take too much.

    JAX keeps the program of every function that it has compiled as long as the function lives, and
    those of this library live for ever, with the log-densities and networks that they were compiled
    for. A fit of the same form as the one before finds its programs, until there are too many of
    other forms: then all are compiled again. Called where a fit or a sampling begins.
    """
    maps = memory_maps()
    if maps is None:
        return
    if _Baseline.maps is None:
        _Baseline.maps = maps
    if maps - _Baseline.maps <= MOST_MAPS:
        return
    import equinox as eqx
    import jax

    eqx.clear_caches()
    jax.clear_caches()
    # Functions and what they were compiled for refer to each other.
    gc.collect()
    _Baseline.maps = memory_maps()


def memory_maps() -> int | None:
    """How many memory maps the process has; `None` where the system does not tell."""
    try:
        with _MAPS.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return None
