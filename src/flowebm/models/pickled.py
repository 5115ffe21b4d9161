"""A saved model as bytes in memory, for what pickles estimators."""

from pathlib import Path
from tempfile import TemporaryDirectory

from flowebm.models.saved import SavedModel, load_model, save_model


def to_bytes(saved: SavedModel) -> dict[str, bytes]:
    """The files that `save_model` writes, by name.

    JAX's compiled functions, which networks hold as activations, cannot be pickled themselves.

    Args:
        saved: The model.

    Raises:
        ValueError: As `save_model` does.
    """
    with TemporaryDirectory() as folder:
        save_model(folder, saved)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def from_bytes(files: dict[str, bytes]) -> SavedModel:
    """The model of such files.

    Args:
        files: What `to_bytes` returned.

    Raises:
        ValueError: As `load_model` does.
    """
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load_model(folder)
