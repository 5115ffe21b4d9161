"""Every two-dimensional target is a probability density, and its samples follow it."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from flowebm.data.targets import (
    AbstractTarget,
    Checkerboard,
    Funnel,
    GaussianMixture4,
    Moons,
    Rings,
    Sine,
    Swirl,
)

BINS, N = 16, 50_000


class Case(NamedTuple):
    """A target with the box to integrate over, in coordinates u where its mass is spread out."""

    target: AbstractTarget
    low: tuple[float, float]
    high: tuple[float, float]
    error: float
    """What the midpoint rule and the box's edge can be wrong by."""
    cells: int = 15
    """Cells along a side of a bin."""
    to_x: Callable = lambda u: (u, 0.0)
    to_u: Callable = lambda x: x


def _sine_x(u):
    return jnp.stack([u[0], u[1] + 4 * jnp.sin(0.75 * u[0])]), 0.0


def _sine_u(x):
    return np.stack([x[:, 0], x[:, 1] - 4 * np.sin(0.75 * x[:, 0])], axis=1)


def _funnel_x(u):
    return jnp.stack([3 * u[0], u[1] * jnp.exp(1.5 * u[0])]), jnp.log(3.0) + 1.5 * u[0]


def _funnel_u(x):
    return np.stack([x[:, 0] / 3, x[:, 1] * np.exp(-x[:, 0] / 2)], axis=1)


# Midpoint sums of smooth densities converge faster than any power of the cell, those of the
# checkerboard are exact on its own grid. The swirl's density is continuous with kinks, where the
# rule is of first order in the mass of the cells that hold one.
CASES = {
    "mixture": Case(GaussianMixture4(), (-8, -8), (8, 8), 1e-9),
    "rings": Case(Rings(), (-5, -5), (5, 5), 1e-9),
    "moons": Case(Moons(), (-1.7, -1.25), (2.7, 1.75), 1e-9),
    "sine": Case(Sine(), (-8, -7), (8, 7), 1e-9, 15, _sine_x, _sine_u),
    "swirl": Case(Swirl(), (-7.5, -5.4), (6.2, 5.7), 1e-3, 30),
    "checkerboard": Case(Checkerboard(), (-6, -6), (6, 6), 1e-9),
    "funnel": Case(Funnel(), (-7, -7), (7, 7), 1e-9, 15, _funnel_x, _funnel_u),
}


@pytest.fixture(scope="module", params=CASES)
def measured(request):
    """A case with its density and modes on a fine grid, and samples, all in double precision."""
    case = CASES[request.param]
    with jax.enable_x64(True):

        def density(u):
            x, log_det = case.to_x(u)
            return jnp.exp(case.target._log_prob(x) + log_det), case.target.mode(x)

        cells = BINS * case.cells
        edges = [np.linspace(a, b, cells + 1) for a, b in zip(case.low, case.high, strict=True)]
        grid = np.stack(np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij"), -1)
        area = np.prod([e[1] - e[0] for e in edges])
        run = eqx.filter_jit(lambda g: jax.lax.map(density, g, batch_size=4096))
        p, modes = map(np.asarray, run(jnp.asarray(grid.reshape(-1, 2))))
        samples = case.target.sample(jax.random.key(1), (N,))
        log_probs = np.asarray(eqx.filter_jit(case.target.log_prob)(samples))
        return case, (p * area).reshape(cells, cells), modes, np.asarray(samples), log_probs


def test_density_integrates_to_one(measured):
    case, mass, *_ = measured
    assert abs(mass.sum() - 1) < case.error


def test_samples_follow_the_density(measured):
    """Chi-square on 16 x 16 bins; false-alarm rate 1e-5 a target."""
    case, mass, _, samples, log_probs = measured
    assert np.isfinite(log_probs).all()
    expected = mass.reshape(BINS, case.cells, BINS, case.cells).sum(axis=(1, 3)).ravel()
    expected *= N / expected.sum()
    box = [(a, b) for a, b in zip(case.low, case.high, strict=True)]
    observed = np.histogramdd(case.to_u(samples), BINS, box)[0].ravel()
    # Bins of few expected points are one bin, with all that lies outside of the box.
    kept = expected > 20
    expected = np.append(expected[kept], N - expected[kept].sum())
    observed = np.append(observed[kept], N - observed[kept].sum())
    statistic = np.sum((observed - expected) ** 2 / np.maximum(expected, 0.5))
    assert chi2.sf(statistic, len(expected) - 1) > 1e-5


def test_mode_weights_are_the_masses_of_the_modes(measured):
    """The overlap of the rings, five standard deviations each side, is 3e-7."""
    case, mass, modes, *_ = measured
    if case.target.mode_weights is None:
        assert (modes == 0).all()
    else:
        masses = np.bincount(modes, weights=mass.ravel())
        np.testing.assert_allclose(masses, case.target.mode_weights, atol=1e-6)


def test_a_target_has_nothing_to_train(measured):
    assert jax.tree.leaves(measured[0].target) == []
