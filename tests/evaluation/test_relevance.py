"""Relevant directions: Stein's identity against normals, whose every expectation is known."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from jax.scipy.stats import norm

from flowebm.data.targets import GaussianMixture4
from flowebm.evaluation.relevance import SMOOTHING, relevant_directions
from flowebm.models import gaussian_base

#: Variances of the truth and of what was fitted: one direction learnt, one of which too much was
#: learnt, one memorised, and one that neither has.
TRUE = jnp.array([0.3, 0.5, 1.0, 1.0])
FITTED = jnp.array([0.3, 0.3, 0.6, 1.0])
ROTATION = jnp.linalg.qr(jr.normal(jr.key(3), (4, 4)))[0]


def log_density_of_fitted(x):
    return norm.logpdf(x @ ROTATION, 0.0, jnp.sqrt(FITTED)).sum()


@pytest.fixture(scope="module")
def normals():
    keys = jr.split(jr.key(0), 3)
    points, held_out = (
        (jr.normal(key, (n, 4)) * jnp.sqrt(TRUE)) @ ROTATION.T
        for key, n in zip(keys[:2], (4000, 20_000), strict=True)
    )
    standard = gaussian_base(None, (4,))
    return relevant_directions(keys[2], log_density_of_fitted, standard, points, held_out)


def test_relevance_is_the_product_with_the_true_score(normals):
    """Within 5 standard errors in 4 directions: a false-alarm rate under 1e-5."""
    noised = TRUE + SMOOTHING**2
    products = (1 - 1 / FITTED) * (noised / (1 + SMOOTHING**2) - 1)
    # Directions by the size of the fitted scores, not of the true ones.
    order = jnp.argsort(-((1 - 1 / FITTED) ** 2) * TRUE)
    np.testing.assert_array_less(
        np.abs(normals.relevance - products[order]), 5 * np.asarray(normals.stderr) + 1e-6
    )


def test_what_was_memorised_is_not_relevant(normals):
    assert int(normals.n_relevant) == 2
    found = np.abs(ROTATION.T @ normals.change.matrix)
    np.testing.assert_allclose(found[2:, :2], 0.0, atol=0.1)


def test_the_change_takes_standard_normals_to_the_gaussian(normals):
    data = jr.normal(jr.key(5), (500, 4)) @ jr.normal(jr.key(6), (4, 4)) + 3.0
    gaussian = gaussian_base(data)
    key, held_out = jr.key(7), data[:100]
    change = relevant_directions(key, gaussian.log_prob, gaussian, data, held_out).change
    z = jr.normal(jr.key(8), (4,))
    expected = gaussian.log_prob(change.transform(z))
    log_det = change.transform_and_log_det(z)[1]
    np.testing.assert_allclose(norm.logpdf(z).sum() - log_det, expected, rtol=1e-4)


def test_modes_in_an_oblique_plane_are_found():
    target = GaussianMixture4(12)
    oblique = jnp.linalg.qr(jr.normal(jr.key(1), (12, 12)))[0]
    points, held_out = (
        target.sample(jr.key(i), (n,)) @ oblique.T for i, n in ((4, 10_000), (5, 2000))
    )
    relevance = relevant_directions(
        jr.key(6),
        lambda x: target.log_prob(oblique.T @ x),
        paramax.non_trainable(gaussian_base(points)),
        points,
        held_out,
    )
    assert int(relevance.n_relevant) == 2
    # The first coordinates of z are functions of the first two of the mixture.
    functionals = relevance.change.inverse_matrix[:2] @ oblique
    inside = jnp.sum(functionals[:, :2] ** 2) / jnp.sum(functionals**2)
    assert float(inside) > 0.99
    assert jax.numpy.isfinite(relevance.stderr).all()
