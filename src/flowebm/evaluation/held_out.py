"""The negative log-likelihood of held-out data, with an interval."""

from collections.abc import Callable
from math import inf, log
from statistics import NormalDist
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.log_partition import LogPartition, as_log_partition
from flowebm.models import AbstractEnergyModel, as_energy_model
from flowebm.refusal import Refused


class HeldOut(NamedTuple):
    """The mean negative log-likelihood of held-out points.

    Attributes:
        nll: Mean of $-\\log p(x)$, nats per point; infinite if the model excludes a point.
        stderr: Its standard error, from the points and from $\\log Z$.
        lower: Lower end of the confidence interval.
        upper: Upper end of the confidence interval.
    """

    nll: float
    stderr: float
    lower: float
    upper: float


def held_out_nll(
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    X: Float[Array, "n ..."],
    log_partition: LogPartition | Estimate | float,
    *,
    level: float = 0.95,
    batch_size: int = 2_000,
) -> HeldOut:
    r"""Estimate $-E_{p^*} \log p(x) = E_{p^*}[E(x)] + \log Z$ from held-out points.

    $\operatorname{se}^2 = \widehat{\mathrm{var}}(E) / n + \operatorname{se}(\log Z)^2$; the
    interval is normal.

    Args:
        model: The energy model, or a log-density function of one point.
        X: Held-out points, drawn independently of the model and of $\log Z$; shape
            `(n, *shape)`.
        log_partition: The model's $\log Z$: an estimate with its error, or an exact number.
        level: Probability that the interval covers the truth.
        batch_size: Number of points whose energy is computed at once.

    Returns:
        The mean negative log-likelihood with its interval, nats per point.

    Raises:
        ValueError: If `X` has the wrong shape, fewer than two rows or non-finite values, if
            an energy is NaN or -inf, or `level` is not between 0 and 1.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, chapter 2.
    """
    X = jnp.asarray(X, float)
    if X.ndim == 0 or X.shape[0] < 2:
        raise Refused(f"`X` has shape {X.shape}; give at least two held-out points, one per row.")
    model = as_energy_model(model, X.shape[1:])
    if X.shape[1:] != tuple(model.shape):
        raise Refused(
            f"The points of `X` have shape {X.shape[1:]} but the model's {tuple(model.shape)}; "
            "give points of the model's shape."
        )
    if not 0 < level < 1:
        raise Refused(f"`level` must be between 0 and 1; got {level}.")
    _refuse_rows(~np.isfinite(X.reshape(X.shape[0], -1)).all(axis=1), "`X` is not finite")
    # Sums of many energies lose digits in single precision.
    energies = np.asarray(_energies(model, X, batch_size), np.float64)
    return nll_of_energies(energies, log_partition, level=level)


def nll_of_energies(
    energies: Float[np.ndarray, " n"],
    log_partition: LogPartition | Estimate | float,
    *,
    level: float = 0.95,
) -> HeldOut:
    r"""`held_out_nll` of points whose energies are at hand.

    Args:
        energies: Of the points, nats.
        log_partition: The model's $\log Z$: an estimate with its error, or an exact number.
        level: Probability that the interval covers the truth.

    Returns:
        The mean negative log-likelihood with its interval, nats per point.

    Raises:
        ValueError: If an energy is NaN or -inf.
    """
    _refuse_rows(~(energies > -np.inf), "The energy is NaN or -inf")
    log_z, log_z_stderr = as_log_partition(log_partition)
    nll = float(energies.mean()) + log_z
    if not np.isfinite(nll):
        return HeldOut(nll, inf, nll, nll)
    stderr = float(np.sqrt(energies.var(ddof=1) / len(energies) + log_z_stderr**2))
    half_width = NormalDist().inv_cdf(0.5 + level / 2) * stderr
    return HeldOut(nll, stderr, nll - half_width, nll + half_width)


@eqx.filter_jit
def _energies(model, X, batch_size):
    return jax.lax.map(model.energy, X, batch_size=min(batch_size, X.shape[0]))


def _refuse_rows(bad, what):
    if bad.any():
        raise Refused(
            f"{what} at row {int(np.argmax(bad))} ({int(bad.sum())} rows in all); remove or "
            "repair these rows."
        )


def bits_per_dimension(nll: float, d: int) -> float:
    r"""A negative log-likelihood per dimension in bits, $\mathrm{NLL} / (d \ln 2)$.

    Args:
        nll: Negative log-likelihood of one point, nats. For images this is that of the
            *discrete* 0..255 pixels: on data scaled by 1/256, add $d \ln 256$ first.
        d: Number of dimensions of one point.

    Returns:
        Bits per dimension.

    Raises:
        ValueError: If `d` is not positive.

    Source: van den Oord, Kalchbrenner, Kavukcuoglu (2016), *Pixel recurrent neural networks*.
    """
    if d < 1:
        raise Refused(f"The number of dimensions must be at least 1; got d={d}.")
    return nll / (d * log(2))
