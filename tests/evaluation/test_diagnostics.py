"""Chain diagnostics: agreement with ArviZ, and sentences where chains are bad."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.evaluation import chain_diagnostics, to_inference_data

CHAINS, DRAWS, DIM = 4, 1_000, 2


@pytest.fixture
def independent():
    return jax.random.normal(jax.random.key(0), (CHAINS, DRAWS, DIM))


def test_diagnostics_agree_with_arviz():
    """An independent implementation, on autoregressive chains with one coordinate shifted."""
    import arviz

    noise = np.random.default_rng(0).standard_normal((CHAINS, DRAWS, DIM))
    draws = np.zeros_like(noise)
    for t in range(1, DRAWS):
        draws[:, t] = 0.7 * draws[:, t - 1] + noise[:, t]
    draws[0, :, 1] += 2.0
    ours = chain_diagnostics(draws)
    dataset = arviz.convert_to_dataset(draws)
    for values, reference, rtol in (
        (ours.rhat, arviz.rhat(dataset), 1e-6),
        # The two cut the sum of autocorrelations one lag apart when a chain is stuck.
        (ours.ess_bulk, arviz.ess(dataset, method="bulk"), 0.02),
        (ours.ess_tail, arviz.ess(dataset, method="tail"), 0.02),
    ):
        np.testing.assert_allclose(values, reference["x"].values, rtol=rtol)


def test_independent_draws_pass(independent):
    diagnostics = chain_diagnostics(independent)
    assert diagnostics.rhat.shape == diagnostics.ess_bulk.shape == (DIM,)
    assert diagnostics.warning() is None


def test_chain_in_another_mode_is_named_by_its_rhat(independent):
    warning = chain_diagnostics(independent.at[0, :, 1].add(3.0)).warning()
    assert warning is not None
    assert "R̂ is" in warning


def test_chains_that_never_moved_do_not_pass():
    warning = chain_diagnostics(jnp.ones((CHAINS, DRAWS, DIM))).warning()
    assert warning is not None
    assert "bulk ESS is 0 (should be at least 400)" in warning


def test_short_chains_are_named_by_their_ess(independent):
    warning = chain_diagnostics(independent[:, :50]).warning()
    assert warning is not None
    assert "bulk ESS is" in warning


def test_scalar_and_image_draws_keep_their_shape(independent):
    assert chain_diagnostics(independent[..., 0]).rhat.shape == ()
    images = independent.reshape(CHAINS, DRAWS, 1, 2, 1)
    assert chain_diagnostics(images).ess_tail.shape == (1, 2, 1)
    one_chain = chain_diagnostics(independent[:1])
    assert one_chain.warning() is None


def test_inference_data_keeps_names_and_values(independent):
    data = to_inference_data(independent, ["mass", "charge"])
    np.testing.assert_array_equal(data["posterior"]["charge"], independent[..., 1])
    whole = to_inference_data(independent)
    np.testing.assert_array_equal(whole["posterior"]["x"], independent)


def test_bad_input_is_refused(independent):
    with pytest.raises(ValueError, match="3 names do not match"):
        to_inference_data(independent, ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least 4 draws"):
        chain_diagnostics(independent[:, :3])
    with pytest.raises(ValueError, match=r"not finite at chain 2, draw 7 \(1 draws"):
        chain_diagnostics(independent.at[2, 7, 0].set(jnp.inf))


def test_evaluation_does_not_import_arviz():
    code = "import sys, flowebm.evaluation; sys.exit('arviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
