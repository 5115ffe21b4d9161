"""Weights follow their rows through a fit that holds out its own validation rows."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from flowebm.models.architecture import Architecture, build
from flowebm.models.ebflow_architecture import EBFlowArchitecture, build_ebflow
from flowebm.training import (
    BalancedOptions,
    EBFlowOptions,
    fit_balanced,
    fit_ebflow,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    """Two modes in random order, the right one of weight zero."""
    right = jr.bernoulli(jr.key(0), 0.5, (600,))
    points = 0.5 * jr.normal(jr.key(1), (600, 2)) + jnp.where(right, 2.0, -2.0)[:, None]
    return points, jnp.where(right, 0.0, 1.0)


def test_an_energy_flow_is_fitted_to_the_rows_that_count(data):
    points, weights = data
    options = EBFlowOptions(batch_size=64, learning_rate=5e-3, average_decay=0.95)
    model = build_ebflow(EBFlowArchitecture(), (2,), key=jr.key(2))
    result = fit_ebflow(jr.key(3), model, points, weights=weights, options=options, max_steps=200)
    samples = np.asarray(result.to_distribution().sample(jr.key(4), (1000,)))
    assert np.mean(samples[:, 0] < 0) > 0.98
    # Two normals of standard deviation 0.5.
    exact = np.log(2 * np.pi * np.e * 0.25)
    assert result.history[-1]["nll"] == pytest.approx(exact, abs=0.3)


def test_an_energy_model_is_fitted_to_the_rows_that_count(data):
    points, weights = data
    architecture = Architecture(width=16, depth=1)
    # The base is the answer: rows of weight zero would pull the model away from it.
    model = build(architecture, (2,), data=points[weights > 0], key=jr.key(2)).model
    options = BalancedOptions(n_chains=256, flow_batch=256)
    result = fit_balanced(jr.key(3), model, points, weights=weights, options=options, max_steps=100)
    samples = np.asarray(result.to_distribution().sample(jr.key(4), (1000,)))
    assert np.mean(samples[:, 0] < 0) > 0.98
    exact = np.log(2 * np.pi * np.e * 0.25)
    assert result.history[-1]["nll"] == pytest.approx(exact, abs=0.3)


@pytest.mark.parametrize("fit", [fit_balanced, fit_ebflow])
def test_validation_rows_without_weights_are_refused(data, fit):
    points, weights = data
    model = build_ebflow(EBFlowArchitecture(), (2,), key=jr.key(2))
    with pytest.raises(ValueError, match="or for neither"):
        fit(jr.key(0), model, points, validation=points[:50], weights=weights)
