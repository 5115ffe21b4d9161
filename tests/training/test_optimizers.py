"""Which parameters Muon moves, and how."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from flowebm.models import ConvTilt, EnergyModel, MLPTilt, gaussian_base, make_flow
from flowebm.models.bounded import BoundedTilt
from flowebm.models.linear_change import LinearChange
from flowebm.models.subspace import SubspaceTilt
from flowebm.models.trainable import partition_trainable
from flowebm.training.balanced import MOST_DECAY, BalancedOptions
from flowebm.training.optimizers import HIDDEN_RATE, OUTER_RATE, clipped_muon, roles


def params_of(tilt, base=None):
    return partition_trainable(EnergyModel(tilt, base or gaussian_base(None, (3,))))[0]


def test_hidden_layers_are_all_but_the_first_and_the_readout():
    params = params_of(MLPTilt((3,), width=8, depth=3, key=jr.key(0)))
    role = roles(params)
    assert [layer.weight for layer in role.tilt.layers] == ["outer", "hidden", "hidden"]
    assert [layer.bias for layer in role.tilt.layers] == ["outer"] * 3
    assert role.tilt.readout.weight == "outer"
    assert set(jax.tree.leaves(role.base)) == {"other"}


def test_the_layers_of_a_tilt_of_a_subspace_are_as_those_of_its_network():
    change = LinearChange.of(jnp.eye(3), jnp.zeros(3), (3,))
    network = MLPTilt((3,), width=8, depth=3, key=jr.key(0))
    tilt = SubspaceTilt.of(network, change, 1, key=jr.key(1))
    role = roles(partition_trainable(BoundedTilt(tilt, 1.0))[0]).tilt.tilt
    assert [layer.weight for layer in role.layers] == ["outer", "hidden", "hidden"]
    assert role.readout.weight == "outer"


@pytest.mark.parametrize(
    "params",
    [
        params_of(ConvTilt((1, 8, 8), channels=2, key=jr.key(0)), gaussian_base(None, (1, 8, 8))),
        params_of(
            MLPTilt((3,), width=8, depth=1, spectral_normalization=True, key=jr.key(0)),
            make_flow("spline-coupling", (3,), layers=2, width=8, key=jr.key(1)),
        ),
    ],
)
def test_convolutions_flows_and_constrained_layers_are_adams(params):
    assert set(jax.tree.leaves(roles(params))) == {"other"}


@pytest.fixture(scope="module")
def stepped():
    """Parameters, all of them non-zero, a gradient, and the first update of each optimizer."""
    params = params_of(MLPTilt((3,), width=8, depth=3, key=jr.key(0)))
    leaves, form = jax.tree.flatten(params)
    keys = jr.split(jr.key(1), len(leaves))
    gradient = jax.tree.unflatten(
        form, [jr.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )
    params = jax.tree.map(lambda x: x + 0.1, params)

    def update(decay):
        optimizer = clipped_muon(1.0, 1e-3, decay)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    return params, gradient, update(0.0), update(0.5)


def test_a_hidden_layer_moves_as_far_along_all_directions(stepped):
    """Singular values of the gradient are spread over two orders of magnitude, those of the step
    are within a factor of three of one another, and of the learning rate's size."""
    _, gradient, update, _ = stepped
    of_gradient, of_update = (
        np.linalg.svd(np.asarray(tree.tilt.layers[1].weight), compute_uv=False)
        for tree in (gradient, update)
    )
    assert of_gradient[0] / of_gradient[-1] > 20
    big = of_update[of_gradient > 0.1 * of_gradient[0]]
    np.testing.assert_array_less(0.5 * HIDDEN_RATE * 1e-3, big)
    np.testing.assert_array_less(of_update, 1.5 * HIDDEN_RATE * 1e-3)


def test_the_other_layers_and_parameters_move_at_adams_rate(stepped):
    _, _, update, _ = stepped
    first = jnp.abs(update.tilt.layers[0].weight)
    # The first step of Adam is one learning rate long, that of its Nesterov form 1.9.
    assert jnp.all((first > 0.9 * OUTER_RATE * 1e-3) & (first < 2 * OUTER_RATE * 1e-3))
    base = [jnp.abs(x) for x in jax.tree.leaves(update.base)]
    assert all(jnp.all(x < 1.01e-3) for x in base)


def test_layers_alone_decay_each_at_its_own_rate(stepped):
    params, _, update, decayed = stepped
    change = optax.tree.sub(decayed, update)
    rates = {"hidden": HIDDEN_RATE, "outer": OUTER_RATE, "other": 0.0}
    expected = jax.tree.map(lambda role, x: -0.5 * rates[role] * 1e-3 * x, roles(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), change, expected)


def test_a_tilt_of_more_coordinates_decays_more_up_to_a_point():
    options = BalancedOptions()
    assert 0 < options.decay(2) < options.decay(16) < MOST_DECAY == options.decay(1000)
    assert BalancedOptions(weight_decay=0.0).decay(16) == 0.0


def test_the_form_of_parameters_is_kept():
    params = params_of(MLPTilt((3,), width=8, depth=2, key=jr.key(0)))
    assert jax.tree.structure(roles(params)) == jax.tree.structure(params)
    assert not eqx.tree_equal(roles(params), params)
