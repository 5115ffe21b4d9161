"""A function whose every operation is carried out once, however often it is written."""

from collections.abc import Callable, Sequence
from functools import wraps

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, PyTree

#: Operations that are a function under another name, and the parameter that holds it.
_INLINED = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


def eliminate_common_subexpressions(
    function: Callable[..., PyTree[Array]],
) -> Callable[..., PyTree[Array]]:
    """The same function, in which equal operations on equal values are one operation.

    Derivatives of derivatives repeat themselves: the first of two nested forward passes is the
    second one over again. XLA merges what is still written alike after its first simplifications,
    which is not all. This does so before them. The values are the same to the last bit.

    Args:
        function: A pure function of pytrees of arrays. Its custom forward-mode rules are not kept:
            differentiate inside of it, not the result. Loops and branches are compared as a whole.

    Returns:
        The function, to be traced by `jax.jit`.
    """

    @wraps(function)
    def once(*args: PyTree[Array]) -> PyTree[Array]:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        values = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), {})
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return once


def _evaluate(jaxpr: Jaxpr, constants: Sequence, arguments: Sequence, known: dict) -> list:
    """The outputs of a program; `known` has the outputs of all operations so far."""
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for operation in jaxpr.eqns:
        primitive, parameters = operation.primitive, operation.params
        operands = [read(atom) for atom in operation.invars]
        if primitive.name in _INLINED:
            inner = parameters[_INLINED[primitive.name]]
            outputs = _evaluate(inner.jaxpr, inner.consts, operands, known)
        else:
            key = primitive, *parameters.items(), *map(_identity, operands)
            comparable = not operation.effects and _is_hashable(key)
            if comparable and key in known:
                outputs, _ = known[key]
            else:
                outputs = primitive.bind(*operands, **primitive.get_bind_params(parameters))
                outputs = outputs if primitive.multiple_results else [outputs]
            if comparable:
                # With the operands, whose identities must not pass to other values.
                known[key] = outputs, operands
        values |= zip(operation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _identity(value):
    """Equal for values that are known to be equal: constants by content, others by being one."""
    if isinstance(value, Tracer):
        return id(value)
    content = np.asarray(value)
    return jnp.result_type(value), content.shape, jax.typeof(value).weak_type, content.tobytes()


def _is_hashable(key) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
