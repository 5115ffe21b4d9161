"""Equal operations on equal values are carried out once."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.objectives.common_subexpressions import eliminate_common_subexpressions

X = jnp.linspace(-1.0, 2.0, 6).reshape(2, 3)


def operations(function, *arguments):
    """How often each primitive stands in a program."""
    return Counter(e.primitive.name for e in jax.make_jaxpr(function)(*arguments).jaxpr.eqns)


@pytest.mark.parametrize(
    ("function", "primitive", "written", "left"),
    [
        (lambda x: jnp.sin(x) * jnp.sin(x) + jnp.sin(2.0 * x), "sin", 3, 2),
        (lambda x: jax.nn.sigmoid(x) + jax.nn.sigmoid(x), "logistic", 2, 1),
        (lambda x: x @ np.eye(3) - x @ np.eye(3), "dot_general", 2, 1),
        (lambda x: x @ np.eye(3) - x @ np.diag([1.0, 1.0, -1.0]), "dot_general", 2, 2),
        (lambda x: x * np.float64(0.0) + x * np.float64(-0.0), "mul", 2, 2),
        (lambda x: x.sum(0).sum() + x.sum(1).sum() + x.sum(1).sum(), "reduce_sum", 6, 4),
        (lambda x: jnp.exp(x) + jnp.exp(x.astype(jnp.float16)), "exp", 2, 2),
    ],
)
def test_what_is_equal_is_carried_out_once_and_nothing_else(function, primitive, written, left):
    once = eliminate_common_subexpressions(function)
    assert operations(function, X)[primitive] == written
    assert operations(once, X)[primitive] == left
    np.testing.assert_array_equal(jax.jit(once)(X), jax.jit(function)(X))


def test_functions_within_the_function_are_compared_by_their_operations():
    """`jax.nn.softplus` is a function with a derivative of its own, within a compiled one."""
    function = lambda x: jax.jit(jax.nn.softplus)(x) + jax.nn.softplus(x)  # noqa: E731
    once = eliminate_common_subexpressions(function)
    assert operations(once, X)["log1p"] == 1
    np.testing.assert_array_equal(jax.jit(once)(X), jax.jit(function)(X))


def test_the_two_forward_passes_of_a_second_derivative_are_one():
    weight = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)))

    def second(x, v):
        first = lambda x: jax.jvp(lambda x: jnp.sum(jnp.tanh(x @ weight)), (x,), (v,))[1]  # noqa: E731
        return jax.jvp(first, (x,), (v,))

    once = eliminate_common_subexpressions(second)
    assert operations(second, X, X)["dot_general"] == 3
    assert operations(once, X, X)["dot_general"] == 2
    for ours, theirs in zip(jax.jit(once)(X, X), jax.jit(second)(X, X), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loops_branches_and_derivatives_of_ones_own_keep_their_values():
    @jax.custom_vjp
    def twice(x):
        return 2.0 * x

    twice.defvjp(lambda x: (twice(x), None), lambda _, g: (3.0 * g,))

    def function(tree):
        x = jax.lax.scan(lambda c, x: (c + x, c * x), tree["start"], tree["x"])[1]
        x = jax.lax.while_loop(lambda x: x.sum() < 9.0, lambda x: x + 1.0, x)
        x = jax.lax.cond(x[0, 0] > 0.0, jnp.sin, jnp.cos, x)
        return {"value": twice(x), "slope": jax.grad(lambda x: twice(x).sum())(x)}

    tree = {"start": jnp.ones(3), "x": X}
    ours = jax.jit(eliminate_common_subexpressions(function))(tree)
    theirs = jax.jit(function)(tree)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_what_has_an_effect_is_done_as_often_as_it_is_written():
    seen = []

    def function(x):
        for _ in range(2):
            jax.debug.callback(lambda x: seen.append(float(x)), x.sum())
        return x

    jax.block_until_ready(jax.jit(eliminate_common_subexpressions(function))(X))
    jax.effects_barrier()
    assert seen == [pytest.approx(float(X.sum()))] * 2
