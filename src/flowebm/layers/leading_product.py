"""A product with the first axis, whose derivatives are products with the first axis."""

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def leading_product(
    matrix: Float[Array, "m n"], x: Float[Array, "n *others"]
) -> Float[Array, "m *others"]:
    r"""$y_{i,\ldots} = \sum_j M_{ij}\, x_{j,\ldots}$, for a matrix $M$ that is one for all points.

    What JAX derives from such a product multiplies from the other side: a tall and narrow
    product, four times as slow on a CPU, with a transposition before and after it. The transpose
    of this one is one of its kind, and `jax.vmap` puts the points behind the first axis, where they
    make the product wider.

    Args:
        matrix: $M$.
        x: Any array of at least one axis.

    Returns:
        The product.
    """
    return _product.bind(matrix, x)


def _multiply(matrix, x):
    return jnp.tensordot(matrix, x, 1)


def _shape(matrix, x):
    return ShapedArray((matrix.shape[0], *x.shape[1:]), jnp.result_type(matrix, x))


def _to_matrix(y, matrix, x):
    others = tuple(range(1, x.ndim))
    return jnp.tensordot(y, x, (others, others))


def _to_x(y, matrix, x):
    return _product.bind(matrix.T, y)


def _batched(arguments, axes):
    (matrix, x), (matrix_axis, x_axis) = arguments, axes
    if matrix_axis is not None:
        return jax.vmap(_multiply, axes)(matrix, x), 0
    return _product.bind(matrix, jnp.moveaxis(x, x_axis, 1)), 1


_product = Primitive("leading_product")
_product.def_impl(_multiply)
_product.def_abstract_eval(_shape)
ad.defbilinear(_product, _to_matrix, _to_x)
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_multiply, multiple_results=False))
