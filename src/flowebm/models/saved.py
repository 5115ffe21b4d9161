"""The model that a user keeps: arrays in one file, plain values in another, and no code."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution
from safetensors import SafetensorError
from safetensors.numpy import load, save

from flowebm.atomic_write import atomic_write, writing
from flowebm.data.columns import Columns
from flowebm.data.logit_pixels import LogitPixels
from flowebm.data.standardise import Standardise
from flowebm.models.architecture import Architecture
from flowebm.models.ebflow import EBFlow
from flowebm.models.ebflow_architecture import EBFlowArchitecture, build_ebflow
from flowebm.models.recipe import (
    arrays_of,
    build,
    check_counts,
    describe,
    filled,
    named,
)
from flowebm.models.saved_values import (
    FORMAT_VERSION,
    parse_architecture,
    parse_preprocessing,
    parse_values,
)
from flowebm.models.tilted import EnergyModel
from flowebm.refusal import Refused

#: The largest Pareto shape in a file, for those that are infinite.
MOST_KHAT = 1e3

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
        ess: Effective number of the draws behind log Z; `None` for one that is exact.
        khat: Pareto shape of their importance weights, likewise.
        n_draws: Their number, likewise.
        warnings: What the fit had to say about itself, one sentence each.
        metadata: Anything else, as plain values.
    """

    model: EnergyModel | EBFlow
    proposal: AbstractDistribution
    preprocessing: Standardise | LogitPixels | Columns
    log_partition: float
    log_partition_stderr: float
    architecture: Architecture | EBFlowArchitecture
    columns: tuple[str, ...] | None = None
    ess: float | None = None
    khat: float | None = None
    n_draws: int | None = None
    warnings: tuple[str, ...] = ()
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
        ValueError: If a part of the model is of a class that is not registered, if an array or
            the log-partition is not finite, or if the metadata are not plain values.
        CannotWrite: If the folder cannot be written in; the files in it are as they were, or
            do not belong together and are refused when they are loaded.
    """
    directory = Path(directory)
    try:
        recipe, arrays = _describe(saved)
    except ValueError as error:
        raise Refused(f"The model cannot be saved: {error}.") from error
    if isinstance(saved.preprocessing, Standardise):
        arrays |= {
            f"preprocessing.{name}": np.asarray(leaf)
            for name, leaf in named(saved.preprocessing).items()
        }
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused(
                f"The model to save has values in {name} that are not finite: the training that "
                "made it diverged, so train again with a lower learning rate."
            )
    stderr = float(saved.log_partition_stderr)
    values = {
        "format_version": FORMAT_VERSION,
        "arrays_sha256": "",
        "model": type(saved.model).__name__,
        "recipe": recipe,
        "architecture": dataclasses.asdict(saved.architecture),
        "preprocessing": _plain(saved.preprocessing),
        "shape": list(saved.shape),
        "columns": None if saved.columns is None else list(saved.columns),
        "log_partition": float(saved.log_partition),
        "log_partition_stderr": stderr if math.isfinite(stderr) else None,
        # Of draws without a tail that can be fitted k̂ is infinite, which JSON cannot say.
        "log_partition_ess": saved.ess,
        "log_partition_khat": None if saved.khat is None else float(min(saved.khat, MOST_KHAT)),
        "log_partition_draws": saved.n_draws,
        "warnings": list(saved.warnings),
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
            exactly the finite arrays of its recipe.
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
    preprocessing = parse_preprocessing(values_path, values["preprocessing"], shape)
    try:
        if preprocessing is None:
            scaling = [name for name in arrays if name.startswith("preprocessing.")]
            # Made by its constructor, which refuses what is no scaling.
            preprocessing = Standardise(
                **{name.split(".")[1]: jnp.asarray(arrays.pop(name)) for name in scaling}
            )
        model, proposal = _build(values["recipe"], architecture, shape, arrays)
        _check_shapes((model, proposal, preprocessing), shape)
    except Exception as error:
        # Parts in places of others fail in ways that nobody can list.
        raise Refused(
            f"The model in {directory} is refused ({error}): its two files do not belong together, "
            "or another version wrote them, so copy both again or save the model again."
        ) from error
    stderr, columns = values["log_partition_stderr"], values["columns"]
    return SavedModel(
        model=model,
        proposal=proposal,
        preprocessing=preprocessing,
        log_partition=values["log_partition"],
        log_partition_stderr=math.inf if stderr is None else stderr,
        architecture=architecture,
        columns=None if columns is None else tuple(columns),
        ess=values.get("log_partition_ess"),
        khat=values.get("log_partition_khat"),
        n_draws=values.get("log_partition_draws"),
        warnings=tuple(values.get("warnings", ())),
        metadata=values["metadata"],
    )


#: In the place of a proposal's recipe, where the proposal is the model's base or the model itself.
_BASE, _MODEL = "base", "model"


def _describe(saved: SavedModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Recipes of model and proposal, and their arrays."""
    if isinstance(saved.model, EBFlow):
        # Its architecture is its recipe.
        arrays = {
            f"model.{name}": np.asarray(leaf) for name, leaf in arrays_of(saved.model).items()
        }
        return {"model": None, "proposal": _MODEL}, arrays
    recipe, arrays = describe({"model": saved.model})
    if saved.model.is_based_on(saved.proposal):
        return recipe | {"proposal": _BASE}, arrays
    of_proposal, more = describe({"proposal": saved.proposal})
    return recipe | of_proposal, arrays | more


def _build(
    recipe: dict[str, Any],
    architecture: Architecture | EBFlowArchitecture,
    shape: tuple[int, ...],
    arrays: dict[str, np.ndarray],
) -> tuple[EnergyModel | EBFlow, Any]:
    """Model and proposal from their recipes and arrays."""
    if isinstance(architecture, EBFlowArchitecture):
        check_counts([*vars(architecture).values(), math.prod(shape)], arrays)
        # Its form alone: weights drawn at random would be programs of their own.
        fresh = eqx.filter_eval_shape(
            lambda key: build_ebflow(architecture, shape, key=key), jax.random.key(0)
        )
        model = filled(fresh, "model", arrays)
        if arrays:
            raise Refused(f"it has an array {sorted(arrays)[0]} too many")
        return model, model
    proposal = recipe["proposal"]
    built = build({k: v for k, v in recipe.items() if not isinstance(v, str)}, arrays)
    model = built.get("model")
    if not isinstance(model, EnergyModel):
        raise Refused("it is not an EnergyModel")
    return model, model.base if proposal == _BASE else built["proposal"]


def _check_shapes(parts: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    """Refuse parts that are not of points of that shape, or arrays that do not fit together."""
    model, proposal, preprocessing = parts
    if not tuple(model.shape) == tuple(proposal.shape) == tuple(preprocessing.shape) == shape:
        raise Refused(f"its parts are not all of points of shape {shape}")
    point = jax.ShapeDtypeStruct(shape, float)
    for function in (model.energy, proposal.log_prob):
        if eqx.filter_eval_shape(function, point).shape != ():
            raise Refused("its densities are not of single points")


def _plain(preprocessing: Standardise | LogitPixels | Columns) -> dict[str, Any] | None:
    """A preprocessing without arrays as plain values."""
    if isinstance(preprocessing, Standardise):
        return None
    if isinstance(preprocessing, Columns):
        return {"columns": preprocessing.to_values()}
    return {name: getattr(preprocessing, name) for name in ("levels", "smoothness", "margin")}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(
            f"{path} cannot be read ({error.strerror}): give the folder of a finished run."
        ) from error
