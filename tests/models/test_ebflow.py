"""EBFlow: one density, its energy and normaliser apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.distributions import Normal, StandardNormal
from flowjax.train import fit_to_data
from jax.scipy.stats import norm

from flowebm.layers import ActNorm, FullLinear, SmoothLeakyReLU
from flowebm.models.ebflow import EBFlow
from flowebm.models.ebflow_architectures import (
    convolutional_ebflow,
    coupling_ebflow,
    fully_connected_ebflow,
    glow_ebflow,
)

KEY = jax.random.key(0)
IMAGE = (1, 4, 4)

ARCHITECTURES = {
    "fully connected": lambda: fully_connected_ebflow((2, 2)),
    "triangular": lambda: fully_connected_ebflow((3,), n_linear=3, linear="lower"),
    "LU": lambda: fully_connected_ebflow((3,), linear="lu", residual=True),
    "convolutional": lambda: convolutional_ebflow(
        IMAGE, n_blocks=2, convolutions_per_block=1, kernel_size=3, method="direct"
    ),
    "circular": lambda: convolutional_ebflow(
        IMAGE, n_blocks=2, kernel_size=3, convolutions_per_block=1, padding="circular"
    ),
    "Glow": lambda: glow_ebflow(KEY, IMAGE, n_steps=1, width=4),
    "whitened Glow": lambda: glow_ebflow(KEY, IMAGE, n_steps=1, width=4, whiten=True),
    "coupling": lambda: coupling_ebflow(KEY, 3, n_blocks=2, width=8),
    "spline coupling": lambda: coupling_ebflow(
        KEY, 3, n_blocks=1, width=8, transformer="spline", n_bins=3
    ),
    "logistic mixture coupling": lambda: coupling_ebflow(
        KEY, 3, n_blocks=2, width=8, transformer="logistic-mixture", n_bins=3, mixing="reversal"
    ),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def randomized(model, scale=0.3):
    """The model with `scale` times a standard normal added to every parameter."""
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    rng = np.random.default_rng(0)
    arrays = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a) + scale * rng.standard_normal(a.shape)), arrays
    )
    return eqx.combine(arrays, static)


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return randomized(ARCHITECTURES[request.param]())


@eqx.filter_jit
def observe(model, x, key):
    drawn, drawn_log_prob = model.sample_and_log_prob(key)
    # Of both points at once: each function is compiled a single time.
    points = jnp.stack([x, drawn])
    latents = jax.vmap(model.to_latent)(points)

    def latent(x):
        return model.to_latent(x.reshape(model.shape)).ravel()

    return {
        "latent": latents[0].ravel(),
        "jacobian": jax.jacfwd(latent)(x.ravel()),
        "energy": model.energy(x),
        "log_normalizer": model.log_normalizer(),
        "log_probs": jax.vmap(model.log_prob)(points),
        "back": jax.vmap(model.from_latent)(latents),
        "drawn": drawn,
        "drawn_log_prob": drawn_log_prob,
    }


def test_energy_and_log_normalizer_add_up_to_the_change_of_variables(model):
    """E + log Z = -log p, and log p = log N(g(x)) + log|det J_g(x)| with the dense Jacobian."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal(model.shape))
    seen = jax.tree.map(np.asarray, observe(model, x, KEY))
    change = norm.logpdf(seen["latent"]).sum() + np.linalg.slogdet(seen["jacobian"])[1]
    log_prob, log_prob_of_drawn = seen["log_probs"]
    np.testing.assert_allclose(seen["energy"] + seen["log_normalizer"], -log_prob)
    np.testing.assert_allclose(log_prob, change, rtol=1e-9)
    np.testing.assert_allclose(seen["back"], [x, seen["drawn"]], atol=1e-9)
    # Samples come from the latent, and their log-density is that of the model.
    assert seen["drawn"].shape == model.shape
    np.testing.assert_allclose(seen["drawn_log_prob"], log_prob_of_drawn, rtol=1e-9)


def two_dimensional(name):
    if name == "coupling":
        return randomized(coupling_ebflow(KEY, n_blocks=2, width=8))
    rng = np.random.default_rng(3)
    first, last = (FullLinear(rng.standard_normal((2, 2)), rng.standard_normal(2)) for _ in "ab")
    middle = [
        SmoothLeakyReLU((2,), 0.3),
        SmoothLeakyReLU((2,), 0.5, residual=True),
    ]
    return EBFlow([first, *middle, last])


@pytest.mark.parametrize("name", ["coupling", "linear and activations"])
def test_density_integrates_to_one_and_samples_follow_it(name):
    """Quadrature in the plane: the mass of exp(log_prob) is 1, so both halves, E and log Z,
    are right; and as many of 4,000 samples as the quadrature says fall in a quadrant and in a
    central box: |z| < 4.1 twice fails by chance with probability 8e-5."""
    model = two_dimensional(name)
    samples = np.asarray(eqx.filter_jit(lambda m: m.sample(KEY, (4000,)))(model))
    # The grid lives in whitened coordinates: a narrow ridge is as wide there as it is long.
    centre, root = samples.mean(axis=0), np.linalg.cholesky(np.cov(samples.T))
    whitened = np.linalg.solve(root, (samples - centre).T).T
    nodes, step = np.linspace(
        *(2.0 * np.abs(whitened).max() * np.array([-1, 1])), 800, retstep=True
    )
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1)
    log_prob = eqx.filter_jit(lambda m, x: m.log_prob(x))(model, centre + grid @ root.T)
    density, cell = np.exp(log_prob), np.prod(np.diag(root)) * step**2
    np.testing.assert_allclose(density.sum() * cell, 1, atol=1e-6)
    # Borders lie between nodes, so that sums over a region are its midpoint rule.
    half_width = step * round(1 / step)
    regions = [lambda z: (z > 0).all(axis=-1), lambda z: (np.abs(z) < half_width).all(axis=-1)]
    for region in regions:
        probability = density[region(grid)].sum() * cell
        count = region(whitened).sum()
        z = (count - 4000 * probability) / np.sqrt(4000 * probability * (1 - probability))
        assert 0.02 < probability < 0.98
        assert abs(z) < 4.1


def test_a_linear_flow_is_the_gaussian_it_should_be():
    """u = W x + b, u ~ N(m, s²): log p is the normal density with precision Wᵀ diag(s⁻²) W; a
    latent other than the standard normal counts."""
    weight, bias = np.array([[2.0, 1.0], [0.5, -1.0]]), np.array([0.3, -1.0])
    loc, scale = np.array([1.0, 2.0]), np.array([0.5, 3.0])
    model = EBFlow([FullLinear(weight, bias)], Normal(loc, scale))
    x = jnp.array([0.2, 1.7])
    inverse = np.linalg.inv(weight)
    expected = jax.scipy.stats.multivariate_normal.logpdf(
        x, inverse @ (loc - bias), inverse @ np.diag(scale**2) @ inverse.T
    )
    np.testing.assert_allclose(model.log_prob(x), expected, rtol=1e-12)
    np.testing.assert_allclose(model.log_normalizer(), -np.log(2.5), rtol=1e-12)


def test_flowjax_can_fit_it_and_leaves_frozen_layers_alone():
    """flowjax's own training loop, log_prob and sample, under jit and vmap."""
    frozen = paramax.non_trainable(FullLinear(np.array([[1.0, 0.5], [0.0, 1.0]]), jnp.zeros(2)))
    start = EBFlow([frozen, ActNorm((2,))])
    data = 3 + 2 * jax.random.normal(KEY, (200, 2))
    fitted, losses = fit_to_data(
        KEY, start, data, max_epochs=3, learning_rate=0.1, batch_size=50, show_progress=False
    )
    assert losses["val"][-1] < losses["val"][0]
    weight = paramax.unwrap(fitted).layers[0].weight
    np.testing.assert_array_equal(weight, [[1.0, 0.5], [0.0, 1.0]])

    @jax.jit
    def observe(x):
        one_by_one = jax.vmap(fitted.log_prob)(x)
        parts = -jax.vmap(fitted.energy)(x) - fitted.log_normalizer()
        return fitted.log_prob(x), one_by_one, parts, start.log_prob(x)

    log_prob, one_by_one, parts, log_prob_at_start = map(np.asarray, observe(data))
    np.testing.assert_allclose(log_prob, one_by_one)
    np.testing.assert_allclose(log_prob, parts, rtol=1e-12)
    assert log_prob.mean() > log_prob_at_start.mean()
    assert jax.jit(lambda key: fitted.sample(key, (3, 5)))(KEY).shape == (3, 5, 2)


def test_initialized_starts_act_norms_from_the_data():
    """A pure function: the latents of the batch have mean 0 and variance 1, the model passed
    in is as before."""
    model = EBFlow([SmoothLeakyReLU((2,)), ActNorm((2,))])
    batch = 100 + jnp.asarray(np.random.default_rng(0).gamma(2.0, size=(50, 2)))
    latents = jax.jit(lambda batch: jax.vmap(model.initialized(batch).to_latent)(batch))(batch)
    np.testing.assert_allclose(latents.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(latents.var(0), 1, rtol=1e-10)
    np.testing.assert_array_equal(model.layers[1].loc, [0, 0])


def test_latents_and_architectures_that_do_not_fit_are_refused():
    layer = ActNorm((2,))
    with pytest.raises(ValueError, match=r"points of shape \(2,\), but the latent has shape \(3,"):
        EBFlow([layer], StandardNormal((3,)))
    with pytest.raises(ValueError, match="choose full, lower, upper or lu"):
        fully_connected_ebflow((2,), linear="diagonal")
    with pytest.raises(ValueError, match="choose affine, spline or logistic-mixture"):
        coupling_ebflow(KEY, transformer="cubic")
    with pytest.raises(ValueError, match="choose orthogonal or reversal"):
        coupling_ebflow(KEY, mixing="none")
    with pytest.raises(ValueError, match="choose zero or circular"):
        convolutional_ebflow((1, 4, 4), padding="reflect")
