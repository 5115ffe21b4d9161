"""Pickles of plain values and arrays, read without running anything that they name."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from flowebm.refusal import Refused

_ALLOWED = {
    (module, name)
    for core in ("numpy.core.multiarray", "numpy._core.multiarray")
    for module, name in ((core, "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))
}


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of numbers, strings, lists, dictionaries and arrays of bytes.

    A pickle is a program that calls whatever functions it names. Here a name is never looked up:
    the three of NumPy's that an array is pickled by stand for objects which only keep what they
    are given, any other is refused, and arrays are made from what was kept.

    Args:
        path: The file. Text of Python 2 comes as `bytes`.

    Returns:
        The value; arrays in it must be of unsigned bytes and are `numpy.ndarray` where they are
        the values of a dictionary.

    Raises:
        ValueError: With one sentence, if the file cannot be read, names anything else, or has an
            array that is damaged or of another type.
    """
    try:
        content = path.read_bytes()
        _check_memo(content)
        value = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(value, dict):
            return {key: _array(v) if isinstance(v, _Kept) else v for key, v in value.items()}
        return value
    # A damaged pickle raises what its damaged instructions happen to run into.
    except Exception as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise Refused(
            f"Cannot read {path} as a pickle of arrays ({reason or type(error).__name__}): copy "
            "it again."
        ) from error


class _Kept:
    """What a name in a pickle stands for: it keeps what it is given, and does nothing with it."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name, arguments=()):
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments):
        return _Kept(self.name, arguments)

    def __setstate__(self, state):
        self.state = state


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return _Kept(name)


def _check_memo(content):
    # The unpickler makes room for as many remembered values as a file says, and would fill the
    # machine's memory for a damaged number.
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise pickle.UnpicklingError(f"it numbers a value {argument}, beyond all that it has")


def _array(kept):
    if kept.name != "_reconstruct" or not isinstance(kept.state, tuple) or len(kept.state) != 5:
        raise pickle.UnpicklingError("it has an array without its values")
    _, shape, dtype, columns_first, values = kept.state
    if not isinstance(dtype, _Kept) or dtype.arguments[:1] not in (("u1",), (b"u1",)):
        raise pickle.UnpicklingError("it has an array of another type than unsigned bytes")
    return np.frombuffer(values, np.uint8).reshape(shape, order="F" if columns_first else "C")
