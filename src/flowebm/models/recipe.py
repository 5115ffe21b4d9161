"""How components are built: plain values that a file can hold, and the way back from them."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import Invert
from flowjax.distributions import Transformed

from flowebm.data.logit_pixels import LogitPixels
from flowebm.models.activations import ACTIVATIONS
from flowebm.refusal import Refused

Class = TypeVar("Class", bound=type)

#: Classes that models are made of, by name: modules whose fields are arrays, plain values,
#: activation functions, or modules of this table themselves.
KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        paramax.NonTrainable,
        Transformed,
        Invert,
        LogitPixels,
        eqx.nn.Linear,
        eqx.nn.Conv2d,
    )
}

#: Functions that build a component which holds functions of its own, by name.
BUILDERS: dict[str, Callable[..., Any]] = {}


def register(cls: Class) -> Class:
    """Let models that contain modules of a class be saved and loaded; a class decorator.

    Nothing of a class is executed when a model is loaded but its `__check_init__`, so that its
    fields must be all that there is to a module: arrays, plain values, activation functions of
    `flowebm.models.activations`, tuples of these, and other registered modules.

    Args:
        cls: A subclass of `equinox.Module`.

    Returns:
        The class.

    Raises:
        ValueError: If another class of that name is registered.

    Source: the safetensors format (2022), for files that execute nothing when they are read.
    """
    if KINDS.setdefault(cls.__name__, cls) is not cls:
        raise Refused(f"Another class named {cls.__name__} is registered: rename one of them.")
    return cls


def builder(name: str) -> Callable[[Callable], Callable]:
    """Let components with `built_from = (name, *arguments)` be saved; a function decorator.

    Args:
        name: The builder's name. The function it decorates takes the arguments and returns a
            component of the same structure, with any arrays.
    """

    def add(function: Callable) -> Callable:
        BUILDERS[name] = function
        return function

    return add


def describe(tree: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A model as plain values, and its arrays by name.

    Args:
        tree: Modules of registered classes.

    Returns:
        Values that JSON can hold, and the arrays.

    Raises:
        ValueError: If the tree holds something that is neither an array, nor plain, nor registered.
    """
    arrays: dict[str, np.ndarray] = {}
    return _describe(tree, "", arrays), arrays


def build(recipe: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The model that `describe` described.

    Args:
        recipe: Plain values, from a file that is not trusted.
        arrays: The arrays by name.

    Returns:
        The model.

    Raises:
        ValueError: If the values do not describe a model, or the arrays are not exactly its own.
    """
    unused = dict(arrays)
    try:
        tree = _build(recipe, "", unused)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"its recipe is not one of a model ({error!r})") from error
    if unused:
        raise Refused(f"it has an array {sorted(unused)[0]} too many")
    return tree


def _describe(node: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(node, jax.Array | np.ndarray):
        name = path.lstrip(".") or "value"
        arrays[name] = np.asarray(node)
        return {"array": name}
    if isinstance(node, float) and not math.isfinite(node):
        raise Refused(f"{path} is not finite")
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, dict):
        return {name: _describe(child, f"{path}.{name}", arrays) for name, child in node.items()}
    if isinstance(node, tuple | list):
        return [_describe(child, f"{path}.{i}", arrays) for i, child in enumerate(node)]
    built_from = getattr(node, "built_from", None)
    if built_from is not None:
        return _describe_built(node, built_from, path, arrays)
    if type(node).__name__ in KINDS and KINDS[type(node).__name__] is type(node):
        described = {
            field.name: _describe(getattr(node, field.name), f"{path}.{field.name}", arrays)
            for field in fields(node)
        }
        return {"kind": type(node).__name__, "fields": described}
    for name, function in ACTIVATIONS.items():
        if node is function:
            return {"activation": name}
    raise Refused(
        f"{path.lstrip('.') or 'the model'} is a {type(node).__name__}, which no file can hold: "
        "decorate its class with flowebm.models.register"
    )


def _describe_built(
    node: Any, built_from: tuple, path: str, arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
    is_frozen = any(isinstance(leaf, paramax.NonTrainable) for leaf in _leaves(node))
    for name, leaf in arrays_of(thawed(node)).items():
        arrays[f"{path}.{name}".lstrip(".")] = np.asarray(leaf)
    return {"built": list(built_from), "frozen": is_frozen}


def _build(recipe: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if recipe is None or isinstance(recipe, bool | int | float | str):
        return recipe
    if isinstance(recipe, list | tuple):
        return tuple(_build(child, f"{path}.{i}", arrays) for i, child in enumerate(recipe))
    if not {"array", "activation", "built", "kind"} & recipe.keys():
        return {name: _build(child, f"{path}.{name}", arrays) for name, child in recipe.items()}
    if "array" in recipe:
        return _array(arrays, path.lstrip(".") or "value")
    if "activation" in recipe:
        return ACTIVATIONS[recipe["activation"]]
    if "built" in recipe:
        return _build_from(recipe, path, arrays)
    cls = KINDS[recipe["kind"]]
    names, described = [field.name for field in fields(cls)], recipe["fields"]
    if set(names) != set(described):
        raise Refused(f"a {recipe['kind']} has the fields {', '.join(names)}")
    node = object.__new__(cls)
    for name in names:
        object.__setattr__(node, name, _build(described[name], f"{path}.{name}", arrays))
    if hasattr(node, "__check_init__"):
        node.__check_init__()
    return node


def _build_from(recipe: dict[str, Any], path: str, arrays: dict[str, np.ndarray]) -> Any:
    builder, *parameters = (_build(part, "", {}) for part in recipe["built"])
    check_counts(jax.tree.leaves(parameters), arrays)
    node = filled(BUILDERS[builder](*parameters), path, arrays)
    return paramax.non_trainable(node) if recipe["frozen"] else node


def check_counts(values: list[Any], arrays: dict[str, np.ndarray]) -> None:
    """Refuse whole numbers that would build a component far beyond what the arrays can fill.

    Args:
        values: The numbers, among other things.
        arrays: The arrays.

    Raises:
        ValueError: If a number is too large.
    """
    entries = sum(array.size for array in arrays.values())
    if any(type(value) is int and value > max(entries, 1000) for value in values):
        raise Refused("it describes a larger model than its arrays can fill")


def filled(fresh: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """A component with arrays from a file in the place of its own.

    Args:
        fresh: The component, or its form (`equinox.filter_eval_shape`).
        path: How the names of its arrays begin.
        arrays: The arrays by name, from which those of the component are taken.

    Raises:
        ValueError: If one is missing or does not fit.
    """
    leaves = []
    for name, leaf in named(fresh).items():
        if eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            found = _array(arrays, f"{path}.{name}".lstrip("."))
            if found.shape != leaf.shape:
                raise Refused(f"{name} has shape {found.shape} where {leaf.shape} is needed")
            # The file decides between single and double precision; indices have the process's type.
            leaf = found if found.dtype.kind == leaf.dtype.kind == "f" else found.astype(leaf.dtype)
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _array(arrays: dict[str, np.ndarray], name: str) -> jax.Array:
    if name not in arrays:
        raise Refused(f"it has no array {name}")
    array = arrays.pop(name)
    if array.dtype.kind not in "fi" or array.dtype == np.float16:
        raise Refused(f"{name} is of type {array.dtype}")
    if array.dtype == np.float64 and jnp.zeros(0).dtype == np.float32:
        raise Refused(f"{name} is in double precision: switch jax_enable_x64 on to use it")
    if not np.isfinite(array).all():
        raise Refused(f"{name} has values that are not finite")
    return jnp.asarray(array)


def _is_frozen(node: Any) -> bool:
    return isinstance(node, paramax.NonTrainable)


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_frozen)


def thawed(tree: Any) -> Any:
    """A tree with arrays in the place of those that are not trained.

    Args:
        tree: Any tree.
    """
    return jax.tree.map(lambda x: x.tree if _is_frozen(x) else x, tree, is_leaf=_is_frozen)


def arrays_of(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their path in it.

    Args:
        tree: Any tree.
    """
    return {name: leaf for name, leaf in named(tree).items() if eqx.is_array(leaf)}


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path in it.

    Args:
        tree: Any tree.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
