"""A run's plots as images inside the page."""

from __future__ import annotations

import base64
import io
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from flowebm.report.page.element import Content, Markup, element
from flowebm.report.page.record import Record, Tree

#: Bytes of all images together, so that the page stays below 3 MB.
BUDGET = 2_100_000

#: Width on the page for a pixel of a plot, whose 200 pixels an inch suit print and phones.
_SCALE = 0.5

#: Numbers from here on are left out of curves, whose axes have no room for their digits.
_DRAWN = 1e9

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


class Image(NamedTuple):
    """A picture.

    Attributes:
        content: The bytes of a PNG file.
        width: In pixels.
        height: In pixels.
    """

    content: bytes
    width: int
    height: int


def saved_plots(record: Record) -> tuple[dict[str, Image], list[str]]:
    """The plots that a run has saved.

    Args:
        record: The run.

    Returns:
        The plots by name, and a sentence for each one that is there and cannot be shown.
    """
    plots: dict[str, Image] = {}
    sentences: list[str] = []
    left = BUDGET
    for name in (
        "training",
        "density",
        "marginals",
        "data_images",
        "sample_images",
        "mode_weights",
        "class_shares",
    ):
        path = record.path / "plots" / f"{name}.png"
        if not path.is_file():
            continue
        if path.stat().st_size > left:
            sentences.append(f"plots/{name}.png is too large to be shown here.")
            continue
        image = _read_png(path)
        if image is None:
            sentences.append(f"plots/{name}.png cannot be read.")
            continue
        plots[name] = image
        left -= len(image.content)
    return plots, sentences


def course_plot(record: Record, saved: Image | None) -> Image | None:
    """The course of a run: the plot that it saved, or one of the rows that are there by now.

    Args:
        record: The run.
        saved: The plot that was saved when a run ended.

    Returns:
        The plot; `None` for a run without rows.
    """
    if saved is not None:
        return saved
    history = [_plottable(row) for row in record.rows]
    if not any("nll" in row for row in history):
        return None
    from flowebm.report.plots.training import training_curves

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that a font lacks is no news for who reads a report.
        warnings.simplefilter("ignore", UserWarning)
        figure = training_curves(history)
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return _parsed(buffer.getvalue())


def picture(image: Image, *, alt: str, caption: Content) -> Markup:
    """An image with its caption, no wider than it is and than the page.

    Args:
        image: The image.
        alt: What it shows, for those who do not see it.
        caption: How to read it.
    """
    content = base64.b64encode(image.content).decode("ascii")
    shown = element(
        "img",
        src=f"data:image/png;base64,{content}",
        width=round(image.width * _SCALE),
        height=round(image.height * _SCALE),
        alt=alt,
    )
    return element("figure", shown, element("figcaption", caption))


def _plottable(row: Tree) -> dict[str, Any]:
    """A row with nothing but what can be drawn, whatever the file says."""
    found = {name: row[name].number for name in row.entries}
    numbers = {k: n.value for k, n in found.items() if n and abs(n.value) < _DRAWN}
    # A dollar would begin a formula.
    stage = "".join(c for c in row["stage"].text or "training" if c.isprintable() and c != "$")
    return {"stage": stage[:20], **numbers}


def _read_png(path: Path) -> Image | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(content: bytes) -> Image | None:
    """A PNG file with its size; `None` if it is none, or cut short."""
    if len(content) < 45 or content[:8] != _PNG_START or not content.endswith(_PNG_END):
        return None
    width, height = struct.unpack(">II", content[16:24])
    return Image(content, width, height) if width and height else None
