"""The ten-dimensional chain's density, up to the edge of its support."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest, norm

from flowebm.data import Multimodal10, load_dataset

N = 20_000
#: The mass of |x| under 3.5.
INNER = 1 - 2 * norm.sf(3.5)


def _forward(x):
    """The map from x to y, written out."""
    y = [x[0]]
    for i in range(1, 10):
        y.append(jnp.tanh(5 * x[i]) * (y[-1] + 2 * 2**i))
    return jnp.stack(y)


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(jax.vmap(Multimodal10()._log_prob))


@pytest.fixture(scope="module")
def draws():
    """Samples with the log-density that their own x gives them, in double precision."""
    with jax.enable_x64(True):
        target = Multimodal10()
        keys = jax.random.split(jax.random.key(5), N)
        y, log_prob = jax.jit(jax.vmap(target._sample_and_log_prob))(keys)
        return np.asarray(y), np.asarray(log_prob)


def test_log_prob_is_the_change_of_variables(evaluate):
    """Against the determinant of the dense Jacobian, where it can be had: |x| up to 2.5."""
    with jax.enable_x64(True):
        x = jax.random.uniform(jax.random.key(0), (500, 10), minval=-2.5, maxval=2.5)
        _, log_det = np.linalg.slogdet(np.asarray(jax.vmap(jax.jacfwd(_forward))(x)))
        expected = norm.logpdf(np.asarray(x)).sum(axis=1) - log_det
        log_prob = evaluate(jax.vmap(_forward)(x))
    # 1 - |t| is 3e-11 at worst, known to 1e-16 or 4e-6 of itself, in each of nine coordinates.
    np.testing.assert_allclose(log_prob, expected, atol=4e-5)
    moderate = np.abs(x).max(axis=1) < 2
    np.testing.assert_allclose(log_prob[moderate], expected[moderate], atol=1e-6)


def test_a_coordinate_integrates_to_the_density_of_those_before(evaluate):
    """By quadrature over the last coordinate, in t = tanh(w), which spreads the edges out."""
    w = np.linspace(-60, 60, 4001)
    with jax.enable_x64(True):
        head = _forward(jnp.array([0.3, -0.4, 0.1, 0.7, -0.2, -0.5, 0.2, 0.6, -0.3, 0.0]))[:9]
        edge = float(head[-1]) + 1024
        # Beyond |w| = 17 the points are rounded to the edge: there the formula is its own check.
        near = np.abs(w) < 17
        y = jnp.concatenate(
            [jnp.tile(head, (near.sum(), 1)), edge * jnp.tanh(w[near])[:, None]], axis=1
        )
        joint = np.exp(np.asarray(evaluate(y))) * edge / np.cosh(w[near]) ** 2
        last = norm.pdf(w[~near] / 5) / 5
        # The density of the first nine: that of all ten, less the conditional at the last's zero.
        middle = jnp.concatenate([head, jnp.zeros(1)])[None]
        conditional = norm.logpdf(0) - np.log(5 * edge)
        before = float(np.exp(evaluate(middle)[0] - conditional))
    total = (joint.sum() / before + last.sum()) * (w[1] - w[0])
    np.testing.assert_allclose(total, 1, atol=1e-3)


def _inverse(y):
    """The signs of x, and 1 - |t|, of which rounding loses some units of 1e-16."""
    edges = y[:, :-1] + 2 * 2.0 ** np.arange(1, 10)
    return np.sign(y[:, 1:] * edges), (np.abs(edges) - np.abs(y[:, 1:])) / np.abs(edges)


def test_samples_have_the_density_that_they_were_drawn_with(draws, evaluate):
    """Up to the rounding of y: log p changes by at most the relative error of each 1 - |t|."""
    y, exact = draws
    with jax.enable_x64(True):
        log_prob = np.asarray(evaluate(y))
    assert np.isfinite(log_prob).all()
    _, gap = _inverse(y)
    known = (gap > 1e-12).all(axis=1)
    assert known.mean() > 0.9
    bound = 1e-12 + np.sum(4 * np.finfo(float).eps / gap[known], axis=1)
    assert (np.abs(log_prob - exact)[known] <= bound).all()


def test_samples_are_normal_after_the_inverse(draws):
    """Kolmogorov-Smirnov on each |x| up to 3.5, where it is known; false-alarm rate 1e-5 in all."""
    _, gap = _inverse(draws[0])
    x = np.log((2 - gap) / np.maximum(gap, 1e-17)) / 10
    assert kstest(draws[0][:, 0], "norm").pvalue > 1e-6
    for column in x.T:
        inner = column[column < 3.5]
        assert kstest(inner, lambda v: np.diff(norm.cdf([-v, v]), axis=0)[0] / INNER).pvalue > 1e-6


def test_the_modes_have_equal_weights(draws):
    """Chi-square on all patterns of signs; false-alarm rate 1e-5."""
    signs, _ = _inverse(draws[0])
    counts = np.bincount((signs > 0) @ 2 ** np.arange(9), minlength=512)
    assert chi2.sf(np.sum((counts - N / 512) ** 2) / (N / 512), 511) > 1e-5


@pytest.fixture(scope="module")
def single():
    """Samples in single precision, of whose coordinates a tenth lie on the edge."""
    keys = jax.random.split(jax.random.key(1), 2_000)
    return np.asarray(jax.jit(jax.vmap(Multimodal10()._sample))(keys))


def test_on_the_edge_the_density_is_finite_and_beyond_it_zero(evaluate, single):
    assert np.isfinite(evaluate(single)).all()
    edge = np.concatenate([[9.0], 9 + np.cumsum(2 * 2.0 ** np.arange(1, 10))])
    points = np.tile(edge, (len(single), 1)).astype(np.float32)
    assert np.isfinite(evaluate(points)).all()
    rows = np.arange(1, 10)
    points[rows, rows] *= 1.001
    beyond = np.isin(np.arange(len(points)), rows)
    np.testing.assert_array_equal(np.isneginf(evaluate(points)), beyond)


def test_the_score_is_finite_on_and_off_the_edge(single):
    score = jax.jit(jax.vmap(jax.grad(Multimodal10()._log_prob)))
    assert np.isfinite(score(single)).all()
    assert np.isfinite(score(single * 1.5)).all()
    assert np.isfinite(score(np.zeros_like(single))).all()


def test_the_catalogue_draws_inside_of_the_support():
    """Of these 450 coordinates 0.03 are expected on the edge in double precision, 50 in single;
    false-alarm rate 1e-6."""
    values = load_dataset("multimodal10", n=50).values
    on_edge = np.abs(values[:, 1:]) == np.abs(values[:, :-1] + 2 * 2.0 ** np.arange(1, 10))
    assert on_edge.sum() <= 3
