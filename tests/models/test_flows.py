"""Flows: proper densities whose draws and log-densities agree, whatever their parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.models.flows import FLOW_KINDS, make_flow
from flowebm.models.trainable import partition_trainable

CASES = [*[(kind, (2,)) for kind in FLOW_KINDS], ("spline-coupling", (1,))]
SIZES = {"layers": 2, "width": 8, "depth": 1, "knots": 4}


def moved(flow):
    """The flow, far from its initial parameters."""
    params, static = partition_trainable(flow)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda p: jnp.asarray(np.asarray(p) + 0.3 * rng.normal(size=p.shape)), params
    )
    return eqx.combine(params, static)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{len(case[1])}d")
def flow(request):
    kind, shape = request.param
    with jax.enable_x64(True):
        yield moved(make_flow(kind, shape, **SIZES, key=jax.random.key(0)))


def test_draws_come_with_their_log_density(flow):
    x, log_prob = eqx.filter_jit(lambda f, k: f.sample_and_log_prob(k, (20,)))(
        flow, jax.random.key(1)
    )
    assert x.shape == (20, *flow.shape)
    np.testing.assert_allclose(log_prob, eqx.filter_jit(flow.log_prob)(x), rtol=1e-8, atol=1e-8)


def test_density_integrates_to_one(flow):
    r"""By the trapezoidal rule in $t$, $x = \sinh t$; its error is far below 1e-3 on this grid."""
    d = flow.shape[0]
    t = np.linspace(-9, 9, 601)
    points = np.stack(np.meshgrid(*[np.sinh(t)] * d, indexing="ij"), axis=-1).reshape(-1, d)
    volumes = np.prod(np.stack(np.meshgrid(*[np.cosh(t)] * d)), axis=0).ravel() * (t[1] - t[0]) ** d
    density = np.exp(eqx.filter_jit(flow.log_prob)(points))
    np.testing.assert_allclose(density @ volumes, 1, atol=1e-3)


@pytest.mark.parametrize("kind", ["spline-coupling", "spline-autoregressive"])
def test_a_flow_of_images_is_that_of_the_flattened_images(kind):
    """So whatever holds for vectors holds for images; two flows of one key are one flow."""
    with jax.enable_x64(True):
        flat, image = (
            moved(make_flow(kind, shape, **SIZES, key=jax.random.key(0)))
            for shape in [(4,), (1, 2, 2)]
        )
        draw = eqx.filter_jit(lambda flow, key: flow.sample_and_log_prob(key))
        (x, log_prob), (y, image_log_prob) = (
            draw(flow, jax.random.key(3)) for flow in (flat, image)
        )
        assert image.shape == y.shape == (1, 2, 2)
        np.testing.assert_allclose(y.ravel(), x, rtol=1e-12)
        np.testing.assert_allclose(image_log_prob, log_prob, rtol=1e-12)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"Unknown flow 'glow': choose one of spline-coupling"):
        make_flow("glow", (2,), key=jax.random.key(0))


@eqx.filter_jit
def there_and_back(flow, x):
    z = flow.bijection.inverse(x)
    return z, flow.bijection.transform(z)


@pytest.mark.parametrize("kind", ["spline-coupling", "affine-coupling"])
@pytest.mark.parametrize("dimension", [5, 16])
def test_couplings_leave_no_coordinate_as_it_is(kind, dimension):
    """Two couplings transform them all, so a latent is never one of the coordinates."""
    with jax.enable_x64(True):
        flow = moved(make_flow(kind, (dimension,), **SIZES, key=jax.random.key(0)))
        x = jax.random.normal(jax.random.key(1), (dimension,))
        z, back = there_and_back(flow, x)
        assert np.abs(np.subtract.outer(x, z)).min() > 1e-9
        np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
