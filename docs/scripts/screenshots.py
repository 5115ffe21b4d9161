"""The pictures of the report and of the guide: at full size, and as wide as a phone.

    python docs/scripts/screenshots.py RUN

RUN is a run directory with its report, such as the one of the ten-minute start. It needs Chromium.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"

#: Width and height of what is seen, in CSS pixels.
SCREEN, PHONE = (1280, 1050), (390, 844)

#: A window is never as narrow as a phone; a frame in it is.
FRAME = """<!doctype html><body style="margin:0">
<iframe src="{page}" width="{width}" height="{height}" style="border:0"></iframe>"""

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run directory with a report.html")
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--height", type=int, help="of every picture, in place of a screen's")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        build = ["mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site)]
        subprocess.run([sys.executable, "-m", *build], cwd=ROOT, check=True)
        pages = {"report": options.run / "report.html", "guide": site / "balanced.html"}
        for name, page in pages.items():
            for suffix, (width, height) in (("", SCREEN), ("_phone", PHONE)):
                path = options.out / f"{name}{suffix}.png"
                picture(page.resolve(), path, width, options.height or height)
                print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def picture(page: Path, path: Path, width: int, height: int) -> None:
    """Draw the upper part of a page, in a palette of 256 colours.

    Args:
        page: The page's file.
        path: The picture's file.
        width: Width of the screen, in CSS pixels.
        height: Height of the screen, in CSS pixels.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not on this machine: install it, and draw the pictures again.")
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(page=page.as_uri(), width=width, height=height))
        command = [
            browser,
            *SWITCHES,
            f"--user-data-dir={folder}/profile",
            f"--window-size={max(width, 600)},{height}",
            f"--screenshot={folder}/picture.png",
            frame.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True)
        drawn = Image.open(f"{folder}/picture.png").convert("RGB").crop((0, 0, width, height))
        drawn.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
