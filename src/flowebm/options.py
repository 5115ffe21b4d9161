"""Options that are checked when they are made: types, ranges and spelling, from annotations."""

import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from math import inf, isfinite
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from flowebm.refusal import Refused

_are_checked: ContextVar[bool] = ContextVar("_are_checked", default=True)


@dataclass(frozen=True)
class Range:
    """The numbers that an option may have, for `Annotated[float, Range(above=0)]`.

    Attributes:
        least: The least of them.
        most: The greatest.
        above: Excluded, and all below it.
        below: Excluded, and all above it.
    """

    least: float = -inf
    most: float = inf
    above: float = -inf
    below: float = inf

    def __contains__(self, value: Any) -> bool:
        # Every number is finite, and lies between the infinite bounds that are left out.
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        if self.above > -inf and self.below < inf:
            return f"between {self.above:g} and {self.below:g}, both excluded"
        if self.least > -inf and self.most < inf:
            return f"from {self.least:.16g} to {self.most:.16g}"
        parts = [
            f"{self.least:g} or more" if self.least > -inf else "",
            f"above {self.above:g}" if self.above > -inf else "",
            f"at most {self.most:g}" if self.most < inf else "",
            f"below {self.below:g}" if self.below < inf else "",
        ]
        return " and ".join(part for part in parts if part)


#: How many there are of something.
Count = Annotated[int, Range(least=1)]
#: A number above zero.
Positive = Annotated[float, Range(above=0)]
#: A number from zero on.
NotNegative = Annotated[float, Range(least=0)]
#: A part of a whole, which is neither nothing nor all of it.
Share = Annotated[float, Range(above=0, below=1)]
#: A part of a whole, which may be nothing, but not all of it.
Fraction = Annotated[float, Range(least=0, below=1)]
#: A part of a whole, which may be nothing or all of it.
AnyShare = Annotated[float, Range(least=0, most=1)]
#: A seed of everything random.
Seed = Annotated[int, Range(least=0, most=2**31 - 1)]


class RefusedOption(Refused):
    """An option has a value that it cannot have.

    Args:
        name: The option's name.
        complaint: What is wrong with the value: the rest of the sentence.
    """

    def __init__(self, name: str, complaint: str):
        super().__init__(f"{name} {complaint}")


def check_options(options: Any, *, name: Callable[[str], str] = str) -> None:
    """Refuse a value of the wrong type, out of its range, or misspelt.

    A dataclass of options calls this in its `__post_init__`. What is checked stands in the
    annotations: `Literal`, `bool`, `int`, `float`, `str`, other classes, unions and tuples of them,
    and `Annotated[..., Range(...)]`. Numbers must be finite. Annotations of other kinds, such as
    shapes of arrays, are left alone. A class that is no dataclass is checked by its constructor's
    arguments, of which each is an attribute.

    Args:
        options: The options.
        name: From the name of a field to what the message calls it.

    Raises:
        RefusedOption: For the first field whose value cannot be.
    """
    if not _are_checked.get():
        return
    for field, hint in _hints(type(options)).items():
        value = getattr(options, field)
        complaint = _complaint(value, hint)
        if complaint:
            raise RefusedOption(name(field), complaint)


def check_all_options(options: Any, *, name: Callable[[str], str] = str) -> None:
    """`check_options`, also of those that are options' own fields.

    Args:
        options: A dataclass.
        name: From the name of a field to what the message calls it.

    Raises:
        RefusedOption: For the first field whose value cannot be.
    """
    check_options(options, name=name)
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            check_all_options(value, name=name)


@contextmanager
def unchecked() -> Iterator[None]:
    """Let options be made without a check, by who checks them afterwards in other words."""
    token = _are_checked.set(False)
    try:
        yield
    finally:
        _are_checked.reset(token)


@cache
def _hints(options: type) -> dict[str, Any]:
    if is_dataclass(options):
        hints = get_type_hints(options, include_extras=True)
        return {field.name: hints[field.name] for field in fields(options) if field.init}
    constructor = options.__init__
    hints = get_type_hints(constructor, include_extras=True)
    parameters = inspect.signature(constructor).parameters
    return {name: hints[name] for name in parameters if name in hints}


def _complaint(value: Any, hint: Any) -> str:
    """What is wrong with a value, or the empty string."""
    kinds = list(_kinds(hint))
    fitting = [ranges for kind, ranges in kinds if _is_a(value, kind)]
    if not fitting:
        listed = [word for kind, _ in kinds for word in _words(kind)]
        expected = " or ".join([", ".join(listed[:-1]), listed[-1]] if listed[1:] else listed)
        return f"must be {expected}; got {value!r}.{_did_you_mean(value, kinds)}"
    if isinstance(value, Real) and not isinstance(value, bool):
        if not isfinite(value):
            return f"must be a finite number; got {value}."
        if not any(all(value in allowed for allowed in ranges) for ranges in fitting):
            return f"must be {' and '.join(map(str, fitting[0]))}; got {value}."
    return ""


def _kinds(hint: Any) -> Iterator[tuple[Any, list[Range]]]:
    """The alternatives of an annotation, each with the ranges of its numbers."""
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        ranges = [extra for extra in extras if isinstance(extra, Range)]
        yield from ((kind, [*inside, *ranges]) for kind, inside in _kinds(inner))
    elif get_origin(hint) in (Union, types.UnionType):
        for argument in get_args(hint):
            yield from _kinds(argument)
    else:
        yield hint, []


def _is_a(value: Any, kind: Any) -> bool:
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return any(isinstance(value, type(known)) and value == known for known in arguments)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):
            return False
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        return len(value) == len(arguments) and not any(map(_complaint, value, arguments))
    if kind in (int, float):
        # A bool is a number to Python alone.
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _words(kind: Any) -> list[str]:
    """What a message calls an alternative; each of the values that it lists."""
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    if get_origin(kind) is Literal:
        return [repr(known) for known in get_args(kind)]
    if get_origin(kind) is tuple:
        n = len(get_args(kind))
        return ["a tuple of numbers" if Ellipsis in get_args(kind) else f"a tuple of {n} numbers"]
    return ["None" if kind is type(None) else names.get(kind, f"a {kind.__name__}")]


def _did_you_mean(value: Any, kinds: list[tuple[Any, list[Range]]]) -> str:
    """A question after the nearest of the listed values, or the empty string."""
    literals = (kind for kind, _ in kinds if get_origin(kind) is Literal)
    known = {str(choice).lower(): choice for kind in literals for choice in get_args(kind)}
    near = get_close_matches(str(value).lower(), known, n=1)
    return f" Did you mean {known[near[0]]!r}?" if near else ""
