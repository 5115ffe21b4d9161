"""The plain values beside a saved model's arrays, read from a file that is not trusted."""

import json
import math
from pathlib import Path
from typing import Any, get_type_hints

from flowebm.data.columns import Columns
from flowebm.data.logit_pixels import LogitPixels
from flowebm.models.architecture import Architecture
from flowebm.models.ebflow_architecture import EBFlowArchitecture
from flowebm.options import RefusedOption
from flowebm.refusal import Refused

#: Raised whenever an older reader would misread a newer file.
FORMAT_VERSION = 5

#: What each kind of model is made from.
_ARCHITECTURES = {"EnergyModel": Architecture, "EBFlow": EBFlowArchitecture}


def parse_values(path: Path, content: bytes) -> dict[str, Any]:
    """The plain values of a saved model, each of its right type.

    Args:
        path: The file, for messages.
        content: What it holds.

    Returns:
        The values by name.

    Raises:
        ValueError: If the content is not JSON, of another format version, or lacks a value.
    """

    def refuse(what: str) -> Refused:
        return Refused(f"{path} {what}: give a folder that flowebm wrote.")

    def refuse_constant(name: str) -> None:
        raise Refused(f"{name} is not a JSON value")

    try:
        values = json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise refuse("is not a JSON object")
    if values.get("format_version") != FORMAT_VERSION:
        raise Refused(
            f"{path} has format version {values.get('format_version')!r}, and this flowebm reads "
            f"{FORMAT_VERSION}: use the version of flowebm that wrote it."
        )
    columns, shape = values.get("columns"), values.get("shape")
    valid = {
        "arrays_sha256": isinstance(values.get("arrays_sha256"), str),
        "model": isinstance(values.get("model"), str) and values["model"] in _ARCHITECTURES,
        "recipe": isinstance(values.get("recipe"), dict) and "proposal" in values["recipe"],
        "architecture": isinstance(values.get("architecture"), dict),
        "preprocessing": "preprocessing" in values
        and (values["preprocessing"] is None or isinstance(values["preprocessing"], dict)),
        "shape": isinstance(shape, list) and shape and all(map(_is_count, shape)),
        "columns": "columns" in values
        and (columns is None or (isinstance(columns, list) and _all_texts(columns))),
        "log_partition": _is_number(values.get("log_partition")),
        "log_partition_stderr": "log_partition_stderr" in values
        and (values["log_partition_stderr"] is None or _is_number(values["log_partition_stderr"])),
        **{
            # Files of version 0.1 have none of them.
            name: values.get(name) is None or _is_number(values[name])
            for name in ("log_partition_ess", "log_partition_khat", "log_partition_draws")
        },
        "warnings": isinstance(values.get("warnings", []), list)
        and _all_texts(values.get("warnings", [])),
        "metadata": isinstance(values.get("metadata"), dict),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            raise refuse(f"has no valid {name!r}")
    return values


def parse_architecture(
    path: Path, model: str, values: dict[str, Any]
) -> Architecture | EBFlowArchitecture:
    """The architecture of a saved model; a choice that the file does not name has its default.

    Args:
        path: The file, for messages.
        model: The kind of the model.
        values: The choices by name.

    Raises:
        ValueError: If a choice or its value is unknown.
    """
    architecture = _ARCHITECTURES[model]
    advice = "use the version of flowebm that wrote it."
    for name in values.keys() - get_type_hints(architecture).keys():
        raise Refused(
            f"{path} has the architecture field {name!r}, which this flowebm does not know: "
            f"{advice}"
        )
    for name, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool) and not _is_count(value):
            raise Refused(
                f"{path} has {value!r} for the architecture field {name!r}, which is too large: "
                f"{advice}"
            )
    try:
        return architecture(**values)
    except RefusedOption as error:
        raise Refused(
            f"{path} has an architecture whose {str(error).rstrip('.')}: {advice}"
        ) from error


def parse_preprocessing(
    path: Path, values: dict[str, Any] | None, shape: tuple[int, ...]
) -> LogitPixels | Columns | None:
    """The preprocessing of a saved model, or `None` for one of standardised points.

    Args:
        path: The file, for messages.
        values: Its choices by name.
        shape: Shape of one point.

    Raises:
        ValueError: If a choice or its value is unknown.
    """
    if values is None:
        return None
    try:
        if values.keys() == {"columns"}:
            columns = Columns.from_values(values["columns"])
            if columns.shape != shape:
                raise Refused(f"it has {columns.shape[0]} columns")
            return columns
        if not all(map(_is_number, values.values())) or not isinstance(values["levels"], int):
            raise TypeError("its choices are numbers")
        return LogitPixels(shape, **values)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(
            f"{path} has no valid 'preprocessing' ({error}): give a folder that flowebm wrote."
        ) from error


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**20


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _all_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
