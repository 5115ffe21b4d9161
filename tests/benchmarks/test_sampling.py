"""What the benchmark of samplers calls effective draws, and what it calls the truth."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import sampling
import sampling_targets

from flowebm.data.targets import GaussianMixture4

GROUPS, DRAWS = 40, 400


def worth(target, draws):
    return sampling.effective_draws(jax.vmap(jax.vmap(target.functions))(draws), target)


@pytest.fixture(scope="module")
def mixture():
    return sampling_targets.make("mixture-16")


@pytest.fixture(scope="module")
def exact():
    return GaussianMixture4(16).sample(jax.random.key(1), (GROUPS, DRAWS))


def test_exact_draws_are_worth_about_half_their_number(mixture, exact):
    """Under an eighth would take modes off by over 4.5 standard errors, all of them; and never
    more than the variance between the groups allows, all but half again of the number."""
    assert GROUPS * DRAWS / 8 < worth(mixture, exact) < 1.5 * GROUPS * DRAWS


def test_wrong_weights_are_worth_little(mixture, exact):
    modes = np.asarray(jax.vmap(jax.vmap(GaussianMixture4(16).mode))(exact))
    moved = np.where((modes == 3)[..., None], np.asarray(exact) + np.eye(16)[0] * 8, exact)
    assert worth(mixture, moved) < 40
    stuck = np.asarray(exact) + np.asarray(mixture.start) - GaussianMixture4(16).means[modes]
    assert worth(mixture, stuck) < 1


def test_chains_that_disagree_are_worth_no_more_than_they_are_many(mixture, exact):
    """A mode a chain, in the right proportions: forty draws of the modes, not 16,000."""
    modes = np.repeat([0, 1, 2, 3], [20, 10, 6, 4])
    means = np.asarray(GaussianMixture4(16).means)
    own = np.asarray(jax.vmap(jax.vmap(GaussianMixture4(16).mode))(exact))
    frozen = np.asarray(exact) - means[own] + means[modes][:, None]
    assert worth(mixture, frozen) == pytest.approx(GROUPS, rel=0.05)


def test_what_is_not_a_number_is_worth_nothing(mixture, exact):
    assert worth(mixture, exact.at[0, 0, 0].set(np.nan)) == 0


@pytest.mark.parametrize("name", ["funnel", "banana"])
def test_slices_have_the_mass_that_they_are_said_to_have(name):
    target = sampling_targets.make(name)
    z = np.random.default_rng(0).normal(size=(GROUPS, DRAWS, target.start.size))
    if name == "funnel":
        draws = np.concatenate([3 * z[..., :1], np.exp(1.5 * z[..., :1]) * z[..., 1:]], axis=-1)
    else:
        along = 10 * z[..., 0]
        draws = np.stack([along, z[..., 1] - 0.03 * (along**2 - 100)], axis=-1)
    assert worth(target, draws) > GROUPS * DRAWS / 8
    # On the same draws the density is what the functions take it for, up to its constant.
    normal = -0.5 * (z**2).sum(axis=-1)
    if name == "funnel":
        normal = normal - 9 * 3 * z[..., 0] / 2
    gap = np.asarray(jax.vmap(jax.vmap(target.log_density))(draws)) - normal
    np.testing.assert_allclose(gap, gap[0, 0], atol=2e-3)


def test_the_transfer_matrix_agrees_with_quadrature_over_both_sites(monkeypatch):
    monkeypatch.setattr(sampling_targets, "SITES", 2)
    target = sampling_targets.make("phi4")
    x = np.linspace(-3, 3, 301)
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1)
    log_density = np.asarray(jax.vmap(jax.vmap(target.log_density))(grid), float)
    mass = np.exp(log_density - log_density.max())
    mass /= mass.sum()
    first = mass.sum(axis=1)
    np.testing.assert_allclose(target.means[1], first @ x, atol=1e-4)
    np.testing.assert_allclose(target.means[0], mass.sum(axis=0) @ (x > 0), atol=3e-3)
    variance = first @ x**2 - (first @ x) ** 2
    np.testing.assert_allclose(target.variances[1], variance, rtol=1e-3)
