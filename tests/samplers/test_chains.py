import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.samplers import run_chains, ula


def log_density(x):
    return -0.5 * (jnp.sum(x["a"] ** 2) + x["b"] ** 2)


@pytest.fixture
def algorithm():
    return ula.as_top_level_api(log_density, 0.1)


@pytest.fixture
def positions():
    return {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}


def test_thinning_keeps_every_nth_state_of_the_same_chains(algorithm, positions):
    final, every = run_chains(jax.random.key(0), algorithm, positions, 6)
    thin_final, third = run_chains(jax.random.key(0), algorithm, positions, 6, thin=3)
    assert every["a"].shape == (6, 3, 2)
    np.testing.assert_array_equal(third["a"], every["a"][2::3])
    np.testing.assert_array_equal(third["b"][-1], final.position["b"])
    np.testing.assert_array_equal(thin_final.position["b"], final.position["b"])


def test_chains_and_steps_have_randomness_of_their_own(algorithm, positions):
    _, kept = run_chains(jax.random.key(0), algorithm, positions, 4)
    increments = np.diff(kept["b"], axis=0) + 0.1 * kept["b"][:-1]
    assert len(np.unique(increments)) == increments.size


def test_what_to_keep_is_said_for_one_chain(algorithm, positions):
    _, kept = run_chains(
        jax.random.key(0),
        algorithm,
        positions,
        4,
        thin=2,
        keep=lambda state, info: (state.logdensity, info.is_accepted),
    )
    assert kept[0].shape == kept[1].shape == (2, 3)


@pytest.mark.parametrize(("n_steps", "thin"), [(5, 2), (0, 1), (4, 0)])
def test_steps_that_thinning_does_not_divide_are_refused(algorithm, positions, n_steps, thin):
    with pytest.raises(ValueError, match=f"n_steps={n_steps} and thin={thin}"):
        run_chains(jax.random.key(0), algorithm, positions, n_steps, thin=thin)
