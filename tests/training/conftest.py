"""What tests of the loops share: a count of the programs that are compiled for them."""

from contextlib import contextmanager

import jax
import pytest


@contextmanager
def _compiled_blocks():
    names = []

    def listen(event, seconds, *, fun_name="", **others):
        # Before the compiler proper, so that programs that come out of the cache count.
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration" and "_run_block" in fun_name:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def compiled_blocks():
    """A context that lists the driver's programs of blocks as they are compiled."""
    return _compiled_blocks
