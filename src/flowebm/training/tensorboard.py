"""A run's metrics for TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flowebm.progress import OnBlock
from flowebm.refusal import Refused


@contextmanager
def tensorboard_observer(folder: str | Path) -> Iterator[OnBlock]:
    """Write every number of every row of metrics as a scalar, `stage/name`, over iterations.

    A resumed run writes the rows after its last checkpoint again, with the same values.

    Args:
        folder: Where the event files go; made with the first row.

    Yields:
        A function of the stage, its row of metrics and the total of iterations expected, as
        `Callbacks.on_block` has them.

    Raises:
        ValueError: If tensorboardX is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise Refused(
            "Scalars for TensorBoard are written by tensorboardX, which is not installed: install "
            "it with `pip install 'flowebm[tensorboard]'`, or leave --tensorboard out."
        )
    writers: list[Any] = []

    def on_block(stage: str, row: dict[str, Any], total: int) -> None:
        if not writers:
            from tensorboardX import SummaryWriter

            writers.append(SummaryWriter(str(folder)))
        for name, value in row.items():
            if name not in ("stage", "iteration") and value is not None:
                writers[0].add_scalar(f"{stage}/{name}", value, row["iteration"])
        writers[0].flush()

    try:
        yield on_block
    finally:
        for writer in writers:
            writer.close()
