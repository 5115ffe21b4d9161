"""Independent samples of a fitted model: draws of its flow, made exact by a few moves."""

from collections.abc import Callable
from math import exp
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.batches import on_device
from flowebm.models.bounded import BoundedTilt, NoTilt, tilts
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.random_start import seed_of
from flowebm.models.stack import draw
from flowebm.models.tilted import EnergyModel
from flowebm.refusal import Refused
from flowebm.samplers import step_size as step_sizes
from flowebm.samplers.kernel import global_move, local_moves


class ModelSamples(NamedTuple):
    """Samples of a model.

    Attributes:
        positions: One sample a row.
        global_acceptance: Mean probability with which a chain took a fresh proposal in a
            global move; samples forget their start as fast as its complement's powers fall.
        local_acceptance: Mean acceptance rate of the local moves.
    """

    positions: Float[Array, "n *shape"]
    global_acceptance: Scalar
    local_acceptance: Scalar


def sample_model(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    proposal: AbstractDistribution,
    n: int,
    *,
    n_moves: int = 20,
    n_local: int = 2,
    step_size: float = 0.02,
    batch_size: int = 2048,
    on_progress: Callable[[int, int], None] | None = None,
) -> ModelSamples:
    r"""Draw samples of a model: exact ones, or by short chains that start from its flow.

    A bounded tilt of the proposal itself is sampled by rejection, without error.

    Every chain gives one sample, so that samples are independent but for the step size that
    a batch shares. Each of the `n_moves` moves is one of flow independence Metropolis and
    `n_local` of MALA.

    Args:
        key: Random key.
        model: The model.
        proposal: Its flow, or the flow's defensive mixture.
        n: Number of samples.
        n_moves: Moves of a chain.
        n_local: MALA steps in each of them.
        step_size: MALA's first step size; it adapts during the first half of the moves and
            then stays, because chains under a step size that moves have no exact law.
        batch_size: Chains that run at once; sets the memory in use.
        on_progress: Told the samples done and the samples in all, after each batch.

    Returns:
        The samples and the acceptance rates.

    Raises:
        ValueError: If `n` is below one.

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), section 2.
    """
    if n < 1:
        raise Refused(f"The number of samples must be 1 or more; got {n}.")
    tilt = getattr(model, "tilt", None)
    if isinstance(tilt, NoTilt | BoundedTilt) and cast(EnergyModel, model).is_based_on(proposal):
        return _by_rejection(key, tilt, proposal, n, on_progress)
    batch_size = min(batch_size, n)
    batches = []
    for batch_key in jr.split(key, -(-n // batch_size)):
        batch = _batch(batch_key, model, proposal, n_moves, n_local, step_size, batch_size)
        batches.append(batch)
        if on_progress is not None:
            jax.block_until_ready(batch)
            on_progress(min(len(batches) * batch_size, n), n)
    positions, global_rates, local_rates = zip(*batches, strict=True)
    return ModelSamples(
        jnp.concatenate(positions)[:n],
        jnp.mean(jnp.stack(global_rates)),
        jnp.mean(jnp.stack(local_rates)),
    )


def _by_rejection(
    key: PRNGKeyArray,
    tilt: NoTilt | BoundedTilt,
    base: AbstractDistribution,
    n: int,
    on_progress: Callable[[int, int], None] | None,
) -> ModelSamples:
    r"""Exact samples of $b(x) e^{-U(x)}$ with $|U| \le B$: draws of $b$, kept with $e^{-U - B}$.

    Source: von Neumann (1951), *Various techniques used in connection with random digits*.
    """
    kept, n_kept, n_drawn = [], 0, 0
    bound = 0.0 if isinstance(tilt, NoTilt) else float(paramax.unwrap(tilt.bound))
    while n_kept < n:
        draw_key, accept_key = jr.split(jr.fold_in(key, n_drawn))
        rate = n_kept / n_drawn if n_kept else exp(-bound)
        points = draw(draw_key, base, int(1.1 * (n - n_kept) / rate) + 16)
        log_rate = -tilts(tilt, points) - bound
        accepted = np.log(np.random.default_rng(seed_of(accept_key)).random(len(points)))
        kept.append(np.asarray(points)[accepted < np.asarray(log_rate)])
        n_drawn, n_kept = n_drawn + len(points), n_kept + len(kept[-1])
        if on_progress is not None:
            on_progress(min(n_kept, n), n)
    return ModelSamples(
        *(on_device(part) for part in (np.concatenate(kept)[:n], n_kept / n_drawn, 1.0))
    )


@eqx.filter_jit
def _batch(key, model, proposal, n_moves, n_local, step_size, batch_size):
    """Samples of one batch of chains, and their mean acceptance rates."""
    log_density = model.unnormalized_log_prob

    def move(carry, inputs):
        positions, adaptation = carry
        key, adapts = inputs
        global_key, local_key = jr.split(key)
        moved = global_move(global_key, log_density, proposal, positions)
        positions, accepted, _ = local_moves(
            local_key, log_density, moved.positions, adaptation.step_size, n_steps=n_local
        )
        adaptation = step_sizes.update(adaptation, accepted, adapts=adapts)
        return (positions, adaptation), (moved.acceptance_rate.mean(), accepted.mean())

    start_key, move_key = jr.split(key)
    start = proposal.sample(start_key, (batch_size,))
    adapts = jnp.arange(n_moves) < n_moves // 2
    (positions, _), (global_rate, local_rate) = jax.lax.scan(
        move, (start, step_sizes.init(step_size)), (jr.split(move_key, n_moves), adapts)
    )
    return positions, global_rate.mean(), local_rate.mean()
