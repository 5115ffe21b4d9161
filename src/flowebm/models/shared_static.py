"""Trees built alike that share their functions, so that compiled programs are found again."""

from collections.abc import Hashable
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax.core import Tracer

Tree = TypeVar("Tree")

_STATIC: dict[Hashable, Any] = {}


def share_static(tree: Tree, built_from: Hashable) -> Tree:
    """The same tree, with everything but its arrays from the first tree that was built alike.

    Some constructors of flowjax make a function anew for each object. Programs are looked up
    by such functions too, and compiled again for a second object that differs from the first in
    nothing but its arrays.

    Args:
        tree: A tree, fresh from its constructor.
        built_from: What was built, and every choice that its functions depend on: trees of
            equal `built_from` must be interchangeable but for their arrays.

    Returns:
        The tree with its own arrays; as it is, if it is built under a transformation of JAX.
    """
    arrays, static = eqx.partition(tree, eqx.is_array)
    # Functions may hold arrays. What was built while JAX traces, as where only shapes are asked
    # for, holds tracers, and must not outlive the trace.
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays)):
        return tree
    return eqx.combine(arrays, _STATIC.setdefault(built_from, static))
