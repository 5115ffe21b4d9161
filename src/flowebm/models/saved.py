"""The model that a user keeps: arrays in one file, plain values in another, and no code."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from flowebm.atomic_write import atomic_write, writing
from flowebm.data.columns import Columns
from flowebm.data.logit_pixels import LogitPixels
from flowebm.data.standardise import Standardise
from flowebm.models.architecture import Architecture, build
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.ebflow import EBFlow
from flowebm.models.ebflow_architecture import EBFlowArchitecture, build_ebflow
from flowebm.models.saved_values import (
    FORMAT_VERSION,
    parse_architecture,
    parse_preprocessing,
    parse_values,
)
from flowebm.models.tilted import EnergyModel
from flowebm.refusal import Refused

_ARRAYS_NAME = "model.safetensors"
_VALUES_NAME = "model.json"


@dataclass(frozen=True)
class SavedModel:
    """A fitted model with all that its use needs.

    Attributes:
        model: The energy model, over preprocessed points.
        proposal: The proposal over preprocessed points; for an EBFlow, itself.
        preprocessing: From the data's units to the model's.
        log_partition: Estimate of the model's log Z (nats).
        log_partition_stderr: Its standard error (nats); infinite where it is not known.
        architecture: What the model and the proposal are made of.
        columns: The columns' names, or `None`.
        metadata: Anything else, as plain values.
    """

    model: EnergyModel | EBFlow
    proposal: DefensiveMixture | EBFlow
    preprocessing: Standardise | LogitPixels | Columns
    log_partition: float
    log_partition_stderr: float
    architecture: Architecture | EBFlowArchitecture
    columns: tuple[str, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return self.preprocessing.shape


def save_model(directory: str | Path, saved: SavedModel) -> None:
    """Write a model to `model.safetensors` and `model.json`.

    Each file is replaced as a whole. The second holds a checksum of the first and is written
    last, so that two files that do not belong together are told apart.

    Args:
        directory: The folder; made if there is none.
        saved: The model.

    Raises:
        ValueError: If the model is not of the architecture that it declares, if an array or
            the log-partition is not finite, or if the metadata are not plain values.
        CannotWrite: If the folder cannot be written in; the files in it are as they were, or
            do not belong together and are refused when they are loaded.
    """
    directory = Path(directory)
    scaling = saved.preprocessing if isinstance(saved.preprocessing, Standardise) else None
    # An EBFlow is its own proposal, and is saved once.
    proposal = None if isinstance(saved.proposal, EBFlow) else saved.proposal
    tree = _Arrays(saved.model, proposal, scaling)
    arrays = {name: np.asarray(leaf) for name, leaf in _named(tree).items() if _is_array(leaf)}
    skeleton = _skeleton(saved.architecture, saved.shape, standardises=scaling is not None)
    _check(arrays, _named(skeleton), "The model to save")
    stderr = float(saved.log_partition_stderr)
    values = {
        "format_version": FORMAT_VERSION,
        "arrays_sha256": "",
        "model": type(saved.model).__name__,
        "architecture": dataclasses.asdict(saved.architecture),
        "preprocessing": _plain(saved.preprocessing),
        "shape": list(saved.shape),
        "columns": None if saved.columns is None else list(saved.columns),
        "log_partition": float(saved.log_partition),
        "log_partition_stderr": stderr if math.isfinite(stderr) else None,
        "versions": {name: version(name) for name in ("flowebm", "jax")},
        "metadata": saved.metadata,
    }
    # Not `ascontiguousarray`, which makes vectors of scalars.
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    values["arrays_sha256"] = hashlib.sha256(content).hexdigest()
    try:
        text = json.dumps(values, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Refused(
            "The log-partition must be finite and the metadata made of plain JSON values to be "
            f"saved: {error}."
        ) from error
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for name, whole in ((_ARRAYS_NAME, content), (_VALUES_NAME, text.encode())):
        with atomic_write(directory / name) as file:
            file.write(whole)


def load_model(directory: str | Path) -> SavedModel:
    """Read what `save_model` wrote; nothing in the files is executed.

    Args:
        directory: The folder.

    Returns:
        The model. Its arrays have the types that they were saved with.

    Raises:
        ValueError: If a file is missing, damaged, of another format version, or does not hold
            exactly the finite arrays of its architecture.
    """
    values_path, arrays_path = Path(directory) / _VALUES_NAME, Path(directory) / _ARRAYS_NAME
    values = parse_values(values_path, _read(values_path))
    content = _read(arrays_path)
    if hashlib.sha256(content).hexdigest() != values["arrays_sha256"]:
        raise Refused(
            f"{arrays_path} is not the file that {values_path.name} describes: it is damaged or "
            "from another run, so copy both files again or save the model again."
        )
    try:
        arrays = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise Refused(
            f"{arrays_path} cannot be read as safetensors ({error}): save the model again."
        ) from error
    architecture = parse_architecture(values_path, values["model"], values["architecture"])
    shape = tuple(values["shape"])
    _check_size(values_path, architecture, shape, arrays)
    preprocessing = parse_preprocessing(values_path, values["preprocessing"], shape)
    try:
        skeleton = _skeleton(architecture, shape, standardises=preprocessing is None)
        _check(arrays, _named(skeleton), str(arrays_path))
        tree = _filled(architecture, shape, arrays, standardises=preprocessing is None)
    except Refused as error:
        raise Refused(f"The model in {directory} is refused: {error}") from error
    stderr, columns = values["log_partition_stderr"], values["columns"]
    return SavedModel(
        model=tree.model,
        proposal=tree.model if isinstance(tree.model, EBFlow) else cast(Any, tree.proposal),
        preprocessing=preprocessing or cast(Standardise, tree.preprocessing),
        log_partition=values["log_partition"],
        log_partition_stderr=math.inf if stderr is None else stderr,
        architecture=architecture,
        columns=None if columns is None else tuple(columns),
        metadata=values["metadata"],
    )


class _Arrays(eqx.Module):
    """What is saved array by array; field names are the first part of the arrays' names."""

    model: EnergyModel | EBFlow
    proposal: DefensiveMixture | None
    preprocessing: Standardise | None


def _untrained(
    architecture: Architecture | EBFlowArchitecture, shape: tuple[int, ...], key: PRNGKeyArray
) -> tuple[EnergyModel | EBFlow, DefensiveMixture | None]:
    """A model and, if it has one, its proposal."""
    if isinstance(architecture, EBFlowArchitecture):
        return build_ebflow(architecture, shape, key=key), None
    return build(architecture, shape, key=key)


def _skeleton(
    architecture: Architecture | EBFlowArchitecture, shape: tuple[int, ...], *, standardises: bool
) -> _Arrays:
    """The tree of an architecture, with shapes and types in the place of arrays.

    For comparison only: flowjax's flows hold functions that remember arrays of their making,
    which here are none.
    """
    model, proposal = eqx.filter_eval_shape(_untrained, architecture, shape, jax.random.key(0))
    if not standardises:
        return _Arrays(model, proposal, None)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf,
        Standardise(jnp.zeros(shape), jnp.ones(shape)),
    )
    return _Arrays(model, proposal, abstract)


def _filled(
    architecture: Architecture | EBFlowArchitecture,
    shape: tuple[int, ...],
    arrays: dict[str, np.ndarray],
    *,
    standardises: bool,
) -> _Arrays:
    """The saved arrays in the place of those that a fresh model begins with."""
    # Made by its constructor, which refuses what is no scaling.
    scaling = {
        name.split(".")[1]: jnp.asarray(array)
        for name, array in arrays.items()
        if name.startswith("preprocessing.")
    }
    model, proposal = _untrained(architecture, shape, jax.random.key(0))
    fresh = _Arrays(model, proposal, Standardise(**scaling) if standardises else None)
    leaves = [
        # The file decides between single and double precision; indices have the process's type.
        jnp.asarray(arrays[name], None if _is_float(leaf) else leaf.dtype)
        if _is_array(leaf)
        else leaf
        for name, leaf in _named(fresh).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _plain(preprocessing: Standardise | LogitPixels | Columns) -> dict[str, Any] | None:
    """A preprocessing without arrays as plain values."""
    if isinstance(preprocessing, Standardise):
        return None
    if isinstance(preprocessing, Columns):
        return {"columns": preprocessing.to_values()}
    return {name: getattr(preprocessing, name) for name in ("levels", "smoothness", "margin")}


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their path in the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _is_float(array: Any) -> bool:
    return np.dtype(array.dtype).kind == "f"


def _check(arrays: dict[str, np.ndarray], skeleton: dict[str, Any], where: str) -> None:
    """Refuse arrays that are not those of the skeleton, or that are not finite."""
    expected = {name: leaf for name, leaf in skeleton.items() if _is_abstract(leaf)}
    advice = "the arrays and the architecture do not belong together, so save the model again"
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in arrays:
            raise Refused(f"{where} has no array {name}: {advice}.")
        if name not in expected:
            raise Refused(f"{where} has an array {name} too many: {advice}.")
        found, leaf = arrays[name], expected[name]
        if found.shape != leaf.shape:
            raise Refused(
                f"{where} has {name} in shape {found.shape} where its architecture needs "
                f"{leaf.shape}: {advice}."
            )
        if found.dtype.kind != np.dtype(leaf.dtype).kind or found.dtype == np.float16:
            raise Refused(
                f"{where} has {name} in type {found.dtype} where its architecture needs "
                f"{leaf.dtype}: {advice}."
            )
        if found.dtype == np.float64 and jnp.zeros(0).dtype == np.float32:
            raise Refused(
                f"{where} has {name} in double precision: switch jax_enable_x64 on to use it."
            )
        if _is_float(found) and not np.isfinite(found).all():
            raise Refused(
                f"{where} has values in {name} that are not finite: the training that made it "
                "diverged, so train again with a lower learning rate."
            )


def _check_size(
    path: Path,
    architecture: Architecture | EBFlowArchitecture,
    shape: tuple[int, ...],
    arrays: dict[str, np.ndarray],
) -> None:
    """Refuse numbers that would build a model far beyond what the file can fill."""
    entries = sum(array.size for array in arrays.values())
    counts = [v for v in vars(architecture).values() if type(v) is int]
    if math.prod(shape) > entries or max(counts, default=0) > max(entries, 1000):
        raise Refused(
            f"{path} describes a larger model than the {entries:,} numbers beside it can fill: "
            "save the model again."
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(
            f"{path} cannot be read ({error.strerror}): give the folder of a finished run."
        ) from error
