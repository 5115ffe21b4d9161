"""Autoregressive mixtures: normalised, autoregressive in any order, and sampled as they say."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chisquare

from flowebm.models.autoregressive import AutoregressiveMixture, started_at

SIZES = {"width": 16, "blocks": 2, "components": 3}


def random_model(order, circular=None):
    """A network none of whose parameters is zero."""
    model = AutoregressiveMixture(np.asarray(order), circular=circular, key=jr.key(0), **SIZES)
    shapes = lambda m: (m.readout, m.linear, m.embed_bias, m.hidden_bias)  # noqa: E731
    keys = jr.split(jr.key(1), 4)
    # The readout is small, so that the scales of a column are not those of another world.
    parts = zip(keys, shapes(model), (0.05, 0.5, 0.5, 0.5), strict=True)
    return eqx.tree_at(shapes, model, tuple(c * jr.normal(k, x.shape) for k, x, c in parts))


@eqx.filter_jit
def log_prob(model, x):
    return model.log_prob(x)


@eqx.filter_jit
def log_prob_of_many(model, x):
    return jax.lax.map(model.log_prob, x, batch_size=20_000)


@eqx.filter_jit
def sample(model, key, n):
    return model.sample(key, (n,))


def cells(model, circular, n=600):
    """Midpoints of cells of the plane, and the probability of each: of a turn where circular."""
    reach = [np.pi if is_circular else 25.0 for is_circular in circular]
    axes = [r * (2 * (np.arange(n) + 0.5) / n - 1) for r in reach]
    grid = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
    density = np.exp(np.asarray(log_prob_of_many(model, grid), np.float64))
    return grid, density * 4 * np.prod(reach) / n**2


CASES = [((0, 1), (False, False)), ((1, 0), (True, False)), ((0, 1), (True, True))]


@pytest.mark.parametrize(("order", "circular"), CASES)
def test_the_density_integrates_to_one(order, circular):
    assert cells(random_model(order, circular), circular)[1].sum() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("order", "circular"), CASES)
def test_draws_have_the_density(order, circular):
    """Counts of 20,000 draws in 6 × 6 cells of quadrature; false-alarm rate 1e-5."""
    model = random_model(order, circular)
    grid, mass = cells(model, circular)
    draws = np.asarray(sample(model, jr.key(2), 20_000))
    cuts = []
    for j in range(2):
        by_value = np.argsort(np.asarray(grid[:, j]), kind="stable")
        total = np.cumsum(mass[by_value])
        values = np.asarray(grid)[by_value, j]
        # Cuts lie between two midpoints, so that no cell is cut in two.
        width = np.diff(np.unique(values)).mean()
        cuts.append([values[np.searchsorted(total, q)] + width / 2 for q in np.arange(1, 6) / 6])

    def counted(points, weights=None):
        places = [np.searchsorted(cuts[j], np.asarray(points)[:, j]) for j in range(2)]
        return np.bincount(6 * places[0] + places[1], weights, minlength=36)

    expected = counted(grid, mass) * len(draws) / mass.sum()
    observed = counted(draws)
    kept = expected > 5
    observed = np.append(observed[kept], observed[~kept].sum() + 1)
    expected = np.append(expected[kept], expected[~kept].sum() + 1)
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-5


@pytest.mark.parametrize("circular", [None, (False, True, False, True, False)])
def test_conditionals_depend_on_earlier_columns_alone(circular):
    order = np.random.default_rng(0).permutation(5)
    model = random_model(order, circular)
    x = jr.normal(jr.key(3), (5,))
    later = order[None, :] >= order[:, None]
    jacobian = jax.jit(jax.jacfwd(model.conditionals))(x)
    for part in jacobian:
        strength = np.abs(np.asarray(part)).max(axis=1)  # of each output from each input
        assert np.all(strength[later] == 0)
    # The scales, which the network makes, depend on all before: none is masked too much.
    scales = np.abs(np.asarray(jacobian.log_scales)).max(axis=1)
    assert np.all(scales[~later] > 0)


def test_the_likelihood_is_the_sum_of_the_conditionals():
    """The first column of a factor alone is its marginal."""
    model = random_model((0, 1))
    grid, mass = cells(model, (False, False))
    first = mass.reshape(600, 600).sum(axis=1)
    log_weights, means, log_scales = eqx.filter_jit(model.conditionals)(jnp.zeros(2))
    axis = np.asarray(grid).reshape(600, 600, 2)[:, 0, 0]
    z = (axis[:, None] - np.asarray(means[0])) / np.exp(np.asarray(log_scales[0]))
    pdf = np.exp(np.asarray(log_weights[0])) / np.exp(np.asarray(log_scales[0]))
    expected = (pdf / (4 * np.cosh(z / 2) ** 2)).sum(axis=1) * 50 / 600
    np.testing.assert_allclose(first, expected, atol=1e-4)


def test_a_turn_changes_nothing():
    model = random_model((1, 0, 2), (True, False, True))
    x = jnp.array([0.3, -1.0, 2.0])
    turned = x + 2 * jnp.pi * jnp.array([1.0, 0.0, -1.0])
    at, at_turned = log_prob(model, jnp.stack([x, turned]))
    assert float(at_turned) == pytest.approx(float(at), abs=1e-3)


def test_it_starts_at_the_linear_regressions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3))
    truth = -0.5 * np.mean(np.sum(x**2, axis=1)) - 1.5 * np.log(2 * np.pi)
    x[:, 1] += 2.0 * x[:, 0]
    x[:, 2] += 0.5 * x[:, 0] - 3.0 * x[:, 1]
    order = np.array([1, 0, 2])
    model = AutoregressiveMixture(order, key=jr.key(0), **SIZES)
    started = started_at(model, x)
    # Column 0 from column 1, column 2 from both.
    for i, seen in ((0, [1]), (2, [0, 1])):
        design = np.column_stack([x[:, seen], np.ones(2000)])
        slopes = np.linalg.lstsq(design, x[:, i], rcond=None)[0][:-1]
        np.testing.assert_allclose(np.asarray(started.linear)[seen, i], slopes, rtol=1e-3)
    assert np.count_nonzero(started.linear) == 3
    # Near the likelihood of the regressions, which is that of the truth.
    found = float(log_prob(started, jnp.asarray(x, jnp.float32)).mean())
    assert truth - 0.3 < found < truth + 0.02


def test_dropout_leaves_units_out_in_training_alone():
    model, x = random_model((0, 1, 2)), jnp.array([0.3, -1.0, 2.0])
    with_dropout = eqx.filter_jit(model.log_prob_with_dropout)
    plain = float(log_prob(model, x))
    assert float(with_dropout(x, jr.key(0), 0.0)) == pytest.approx(plain)
    assert float(with_dropout(x, jr.key(0), 0.5)) != pytest.approx(plain)


def test_a_single_column():
    model = AutoregressiveMixture(np.array([0]), key=jr.key(0), **SIZES)
    side = jnp.linspace(-60, 60, 20_001)
    mass = jnp.exp(log_prob(model, side[:, None])).sum() * (side[1] - side[0])
    assert float(mass) == pytest.approx(1, abs=1e-3)
    assert sample(model, jr.key(1), 4).shape == (4, 1)


def test_draws_are_finite_however_wild_the_network_is():
    """What a draw far out makes of the next coordinate must not grow from one to the next."""
    network = AutoregressiveMixture(np.arange(20), width=32, components=3, key=jr.key(0))
    weights = 10 * jr.normal(jr.key(1), network.readout.shape)
    wild = eqx.tree_at(lambda m: m.readout, network, weights)
    draws = sample(wild, jr.key(2), 500)
    assert jnp.isfinite(draws).all()
    assert jnp.isfinite(log_prob(wild, draws)).all()
