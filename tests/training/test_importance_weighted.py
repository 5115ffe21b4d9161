"""Fits against a fixed pool: modes, their shares and log Z come out right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowebm.training.importance_weighted import (
    N_EVALUATION,
    draw_pool,
    fit_importance_weighted,
    quasi_random_pools,
    resample,
)
from jax.scipy.stats import norm

from flowebm.models import DefensiveMixture, EnergyModel, MLPTilt, gaussian_base
from flowebm.training import importance_weighted
from flowebm.training.row_weights import RowWeights

SHARES, CENTRES, SD = np.array([0.8, 0.2]), np.array([1.0, -2.0]), 0.5
N = 4000


def log_density(x):
    """Two modes along the first coordinate, standard normal along the second."""
    modes = jax.nn.logsumexp(jnp.log(SHARES) + norm.logpdf(x[0], CENTRES, SD))
    return modes + norm.logpdf(x[1])


def points(seed):
    mode_key, noise_key = jr.split(jr.key(seed))
    noise = jr.normal(noise_key, (N, 2))
    centres = jr.choice(mode_key, jnp.asarray(CENTRES), (N,), p=jnp.asarray(SHARES))
    return noise.at[:, 0].set(centres + SD * noise[:, 0])


@pytest.fixture(scope="module")
def data():
    return points(0)


@pytest.fixture(scope="module")
def start(data):
    tilt = MLPTilt((2,), width=32, depth=2, key=jr.key(0))
    return EnergyModel(tilt, paramax.non_trainable(gaussian_base(data)))


@pytest.fixture(scope="module")
def proposal(data):
    return gaussian_base(data, inflation=1.5)


def fit_of(start, proposal, data, **choices):
    given = {"max_steps": 600, "batch_size": 256, "learning_rate": 1e-2} | choices
    return fit_importance_weighted(jr.key(1), start, proposal, data, points(1), **given)


@pytest.fixture(scope="module")
def counted_fit(start, proposal, data, compiled_blocks):
    with compiled_blocks() as programs:
        fitted = fit_of(start, proposal, data)
    return fitted, programs


@pytest.fixture(scope="module")
def fit(counted_fit):
    return counted_fit[0]


@pytest.fixture(scope="module")
def by_quadrature(fit):
    """log Z of the model, the share of its first mode, and KL from the truth."""
    side = jnp.linspace(-8, 8, 401)
    grid = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    log_model = jax.vmap(fit.model.unnormalized_log_prob)(grid)
    cell = 2 * jnp.log(side[1] - side[0])
    log_z = jax.nn.logsumexp(log_model) + cell
    density = jnp.exp(log_model - log_z + cell)
    log_true = jax.vmap(log_density)(grid)
    kl = jnp.sum(jnp.exp(log_true + cell) * (log_true - log_model + log_z))
    return float(log_z), float(density[grid[:, 0] > -0.5].sum()), float(kl)


def test_the_model_is_near_the_truth(by_quadrature):
    """The Gaussian's KL is 0.45 nats; a share of 4,000 points has a standard error of 0.006."""
    _, share, kl = by_quadrature
    assert kl < 0.01
    assert abs(share - SHARES[0]) < 0.03


def test_log_z_is_within_its_error(fit, by_quadrature):
    """At the kept evaluation, a z-test at 5 standard errors."""
    log_z = fit.outcome.history[-1]["log_partition"]
    error = fit.outcome.history[-1]["log_partition_stderr"]
    assert 0 < error < 0.02
    # What is kept is one of the last evaluations, where the averaged model hardly moves.
    assert abs(log_z - by_quadrature[0]) < 5 * error


def test_draws_have_the_modes_of_the_model(fit, by_quadrature):
    """Binomial at 5 standard errors, and those of 2^14 draws of the proposal."""
    n = 2000
    draws = resample(jr.key(5), fit.model, fit.pools.held_out, n)
    share = float(jnp.mean(draws[:, 0] > -0.5))
    variance = by_quadrature[1] * (1 - by_quadrature[1])
    assert abs(share - by_quadrature[1]) < 5 * np.sqrt(variance * (1 / n + 4 / 2**14))


def test_all_blocks_are_one_program(counted_fit):
    fit, programs = counted_fit
    assert [row["iteration"] for row in fit.outcome.history] == list(range(0, 601, 100))
    assert len(programs) == 1


def test_weights_are_honoured(start, proposal, data):
    """Weight on the first mode alone leaves the second one empty, on few iterations already."""
    held_out = points(1)
    weights = RowWeights.of(*(jnp.where(x[:, 0] > -0.5, 1.0, 1e-9) for x in (data, held_out)))
    model = fit_of(start, proposal, data, weights=weights, max_steps=200).model
    gap = model.energy(jnp.array([-2.0, 0.0])) - model.energy(jnp.array([1.0, 0.0]))
    assert gap > np.log(SHARES[0] / SHARES[1]) + 1


@pytest.mark.parametrize(("rows", "draws"), [(50, 1 << 16), (70_000, 1 << 17), (600_000, 1 << 19)])
def test_draws_keep_up_with_the_data(start, proposal, monkeypatch, rows, draws):
    class Drawn(Exception):
        pass

    def draw(key, proposal, n):
        raise Drawn(n)

    monkeypatch.setattr(importance_weighted, "draw_pools", draw)
    with pytest.raises(Drawn, match=f"^{draws}$"):
        fit_of(start, proposal, jnp.zeros((rows, 2)))
    with pytest.raises(Drawn, match=f"^{1 << 17}$"):
        fit_of(start, proposal, jnp.zeros((rows, 2)), n_draws=70_000)


def test_a_pool_has_the_densities_of_its_draws(proposal):
    pool = draw_pool(jr.key(3), proposal, 5000)
    # Whole batches, all different.
    assert pool.points.shape == (8192, 2)
    assert len(np.unique(np.asarray(pool.points), axis=0)) == 8192
    np.testing.assert_allclose(
        pool.log_proposal[::100], proposal.log_prob(pool.points[::100]), rtol=1e-5
    )


@pytest.mark.slow
def test_a_fit_is_a_function_of_its_key(fit, start, proposal, data):
    again = fit_of(start, proposal, data)
    arrays = [eqx.filter(fitted.model, eqx.is_array) for fitted in (again, fit)]
    assert all(map(np.array_equal, *map(jax.tree.leaves, arrays)))


def test_quasi_random_draws_are_of_the_mixture_and_even(data):
    """Means over the pool beside exact ones. Independent draws' errors are below a tenth of their
    standard error with probability 0.08: in all four means with 4e-5."""
    flow, wide = gaussian_base(data), gaussian_base(data + 1.0, inflation=2.0)
    mixture, n = DefensiveMixture(flow, paramax.non_trainable(wide), 0.1), 1 << 14
    pool, *others = quasi_random_pools(jr.key(7), mixture, n)
    assert pool.points.shape == (n, 2)
    np.testing.assert_allclose(
        pool.log_proposal[::100], mixture.log_prob(pool.points[::100]), atol=1e-4
    )
    # E[x] and E[x^2] of either Gaussian x = L z + m, mixed.
    maps = [part.bijection.transform for part in (flow, wide)]
    means = jnp.stack([transport(jnp.zeros(2)) for transport in maps])
    factors = jnp.stack([jax.jacfwd(transport)(jnp.zeros(2)) for transport in maps])
    squares = means**2 + (factors**2).sum(axis=2)
    for values, exact in ((pool.points, means), (pool.points**2, squares)):
        error = jnp.abs(values.mean(axis=0) - jnp.array([0.9, 0.1]) @ exact)
        assert jnp.all(error < 0.1 * values.std(axis=0) / np.sqrt(n))
    # The first draws, which evaluate, are as good as any: a z-test at 5 standard errors.
    gap = pool.points[:2000].mean(axis=0) - pool.points.mean(axis=0)
    assert jnp.all(jnp.abs(gap) < 5 * pool.points.std(axis=0) / np.sqrt(2000))
    # Beside them are independent ones: z-tests of all four means of both, at 5 standard errors.
    both = np.concatenate([pool.points for pool in others])
    assert len(np.unique(both, axis=0)) == 2 * N_EVALUATION
    for pool in others:
        assert pool.points.shape == (N_EVALUATION, 2)
        np.testing.assert_allclose(
            pool.log_proposal[::100], mixture.log_prob(pool.points[::100]), atol=1e-4
        )
        for values, exact in ((pool.points, means), (pool.points**2, squares)):
            error = jnp.abs(values.mean(axis=0) - jnp.array([0.9, 0.1]) @ exact)
            stderr = values.std(axis=0) / np.sqrt(N_EVALUATION)
            assert jnp.all(error < 5 * stderr)


def test_another_key_scrambles_anew(data):
    mixture = DefensiveMixture(gaussian_base(data), gaussian_base(data, inflation=2.0))
    pools = [quasi_random_pools(jr.key(key), mixture, 64).train.points for key in (0, 0, 1)]
    np.testing.assert_array_equal(pools[0], pools[1])
    assert not np.any(np.isin(np.asarray(pools[0]), np.asarray(pools[2])))
