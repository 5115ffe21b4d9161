"""What all figures share: how they are made, how they look and how they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowebm.atomic_write import atomic_write, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, which colour-blind readers can tell apart; data are black or grey.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, GREY = "#222222", "#9A9A9A"

TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12, 11, 9.5


def new_figure(width: float, height: float, *, compress: bool = False) -> Figure:
    """An empty figure that belongs to no window and no global registry.

    Args:
        width: Width, in inches.
        height: Height, in inches.
        compress: Whether axes of fixed aspect move together.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07, compress=compress)
    return Figure(figsize=(width, height), layout=engine)


def style(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give axes the house's look: no upper and right frame, labels that a phone can show."""
    axes.set_title(title, fontsize=TITLE_SIZE, color=INK)
    axes.set_xlabel(xlabel, fontsize=LABEL_SIZE)
    axes.set_ylabel(ylabel, fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=TICK_SIZE, length=3)
    axes.spines[["top", "right"]].set_visible(False)


def move_offset_to_label(axis: Axis) -> None:
    """Write what an axis's numbers are multiplied by, or moved by, into its label.

    Left alone, it is drawn over the label or over the neighbour's axes.
    """
    formatter = axis.get_major_formatter()
    formatter.set_locs(axis.get_majorticklocs())  # type: ignore[arg-type]
    offset = formatter.get_offset()
    axis.get_offset_text().set_visible(False)
    if offset and axis.get_label_text():
        axis.set_label_text(f"{axis.get_label_text()}\n{offset}")


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 200) -> Path:
    """Write a figure to a file, wholly or not at all.

    The same figure gives the same bytes: no date or version is written into the file.

    Args:
        figure: The figure.
        path: Where to; the suffix chooses the format (`.png` without one). Missing folders
            are made.
        dpi: Resolution of a bitmap, in dots an inch.

    Returns:
        The path.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lstrip(".").lower() or "png"
    undated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}.get(kind)
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=dpi, metadata={undated: None} if undated else None)
    return path
