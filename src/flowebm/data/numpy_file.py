"""Arrays of NumPy's own files."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flowebm.refusal import Refused


def read_numpy(path: Path, choose: Callable[[list[str]], Iterable[str]]) -> dict[str, np.ndarray]:
    """Read the array of an `.npy` file, or some of those of an `.npz` file.

    Args:
        path: The file.
        choose: Which arrays to read, from the names of those in an `.npz` file.

    Returns:
        The arrays by name; that of an `.npy` file is called by the empty name.

    Raises:
        ValueError: With one sentence, if the file is damaged, or holds pickled objects, which run
            code when they are loaded.
    """
    with _refused(path):
        # Mapped first: a header that promises more than the file holds asks for no memory.
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            return {"": np.array(loaded)}
    with loaded:
        names = list(choose(loaded.files))
        with _refused(path):
            return {name: loaded[name] for name in names}


@contextmanager
def _refused(path):
    try:
        yield
    # A damaged file raises what its damaged header happens to run into.
    except Exception as error:
        reason = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
        # A disk that does not answer says nothing of what the file holds.
        of_the_disk = isinstance(error, OSError) and error.errno is not None
        advice = "look at its disk and its permissions" if of_the_disk else "write it again"
        raise Refused(
            f"Cannot read {path} as a NumPy file of numbers ({reason}): {advice}."
        ) from error
