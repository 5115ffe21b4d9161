"""Rendered shapes in colour: 32×32 images of balls, boxes and rings, lit and on backgrounds.

    python benchmarks/rendered_shapes.py OUT.npz         # 6,000 images at shares of 0.6, 0.3, 0.1

Every image has one object of a random size, place, turn, colour and stripe texture, lit from a
random side, on a background of two colours that fade into one another. The file has `images`, of
whole numbers from 0 to 255 and shape (n, 3, 32, 32), and `labels`.
"""

import argparse

import numpy as np

CLASSES, SHARES = ("ball", "box", "ring"), (0.6, 0.3, 0.1)
SIDE = 32

#: Points a side of a pixel that are averaged, so that edges are smooth.
FINE = 3


def render(rng: np.random.Generator, kind: str) -> np.ndarray:
    """One image, `(3, SIDE, SIDE)` of whole numbers."""
    n = SIDE * FINE
    y, x = (np.mgrid[:n, :n] + 0.5) / n * 2 - 1
    angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.65)
    center = rng.uniform(-0.3, 0.3, 2)
    u, v = (
        (np.cos(t) * (x - center[0]) + np.sin(t) * (y - center[1])) / size
        for t in (angle, angle + np.pi / 2)
    )
    radius = np.hypot(u, v)
    if kind == "ball":
        inside, height = radius < 1, np.sqrt(np.maximum(0, 1 - radius**2))
    elif kind == "box":
        inside, height = np.maximum(np.abs(u), np.abs(v)) < 0.8, np.ones_like(u)
    else:
        across = (radius - 0.75) / 0.25
        inside, height = np.abs(across) < 1, np.sqrt(np.maximum(0, 1 - across**2))
    first, second, of_object, stripe = rng.uniform(0.1, 0.9, (4, 3, 1, 1))
    toward = rng.uniform(0, 2 * np.pi)
    fade = (1 + np.cos(toward) * x + np.sin(toward) * y) / 2
    background = first + (second - first) * np.clip(fade, 0, 1)
    light = rng.uniform(0, 2 * np.pi)
    shade = 0.55 + 0.3 * height + 0.2 * (np.cos(light) * u + np.sin(light) * v)
    stripes = 0.5 + 0.5 * np.sin(rng.uniform(4, 9) * u + rng.uniform(0, 2 * np.pi))
    surface = (of_object + 0.5 * (stripe - of_object) * stripes) * np.clip(shade, 0.1, 1.2)
    image = np.where(inside, surface, background)
    image = image.reshape(3, SIDE, FINE, SIDE, FINE).mean(axis=(2, 4))
    image = image + rng.normal(scale=0.01, size=image.shape)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def shapes(n: int, seed: int, shares=SHARES) -> tuple[np.ndarray, np.ndarray]:
    """Images in random order, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(shares)), np.rint(n * np.asarray(shares)).astype(int))
    labels = rng.permutation(labels)
    images = np.stack([render(rng, CLASSES[label]) for label in labels])
    return images, np.asarray(CLASSES)[labels]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--n", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    images, labels = shapes(arguments.n, arguments.seed)
    np.savez_compressed(arguments.out, images=images, labels=labels)


if __name__ == "__main__":
    main()
