"""A picture of digits with gaps and with noise, and ten draws of what they were: two minutes.

    python benchmarks/completed_digits.py [PICTURE]

scikit-learn's digits of 8×8 pixels, all but ten of them fitted by `FlowEBM` with defaults. From
left to right an image, what is given of it (the upper half; all pixels with normal noise of three
of the 17 levels) and ten draws.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from flowebm import FlowEBM

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "completed_digits.png"


def strip(images: np.ndarray, given: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """A row for each image: itself, what is given of it, its draws."""
    tiles = np.stack([images, np.nan_to_num(given, nan=8.0), *draws], axis=1)
    tiles = np.pad(tiles.reshape(*tiles.shape[:2], 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, columns, height, width = tiles.shape
    return tiles.swapaxes(1, 2).reshape(n * height, columns * width)


def main(picture: Path) -> None:
    rows = load_digits().images.reshape(-1, 64)
    model = FlowEBM(point_shape=(1, 8, 8), pixel_levels=17, random_state=0).fit(rows[10:])
    some = rows[:5]
    halves = some.copy()
    halves[:, 32:] = np.nan
    noisy = some + np.random.default_rng(0).normal(scale=3.0, size=some.shape)
    completed = model.impute(halves, n_draws=10, random_state=0)
    clean = model.denoise(noisy, 3.0, n_draws=10, random_state=0)
    of_gaps, of_noise = strip(some, halves, completed), strip(some, noisy, clean)
    page = np.concatenate([of_gaps, np.full((3, of_gaps.shape[1]), 16.0), of_noise])
    page = 16 - np.kron(np.clip(page, 0, 16), np.ones((6, 6)))
    plt.imsave(picture, page, cmap="gray", vmin=0, vmax=16)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
