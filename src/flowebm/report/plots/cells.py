"""Densities on the cells of a grid over two coordinates."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flowebm.refusal import Refused

Bounds = tuple[tuple[float, float], tuple[float, float]]
LogDensityRows = Callable[[Any], Any]


def cell_centres(
    bounds: Bounds, n_first: int, n_second: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Centres of the cells of a grid along either coordinate."""
    centres = []
    for (low, high), n in zip(bounds, (n_first, n_second), strict=True):
        if not (np.isfinite([low, high]).all() and low < high):
            raise Refused(f"Bounds must be finite and rising; got {low} to {high}.")
        edges = np.linspace(low, high, n + 1)
        centres.append((edges[1:] + edges[:-1]) / 2)
    return centres[0], centres[1]


def density_on_grid(
    log_density: LogDensityRows, bounds: Bounds, grid: int
) -> Float[np.ndarray, "grid grid"]:
    """The density at the cells' centres, rows along the second coordinate; NaN is kept."""
    mesh = np.meshgrid(*cell_centres(bounds, grid, grid))
    rows = np.stack([axis.ravel() for axis in mesh], axis=1)
    log_prob = np.asarray(log_density(rows), float)
    if log_prob.shape != (rows.shape[0],):
        raise Refused(
            f"The log-density gave shape {log_prob.shape} for points of shape {rows.shape}; it "
            "must give one value a point (`jax.vmap` makes it so)."
        )
    with np.errstate(over="ignore"):
        return np.exp(log_prob).reshape(grid, grid)


def histogram_density(
    points: Float[np.ndarray, "n 2"], bounds: Bounds, bins: int | None = None
) -> Float[np.ndarray, "bins bins"]:
    """Counts / (n · area of a cell), rows along the second coordinate; n counts all points."""
    if bins is None:
        bins = int(np.clip(np.sqrt(len(points)) / 1.6, 12, 90))
    counts, *_ = np.histogram2d(*points.T, bins=bins, range=bounds)
    area = np.prod([(high - low) / bins for low, high in bounds])
    return counts.T / (len(points) * area)


def mass_levels(
    mass: Float[np.ndarray, "..."], probabilities: Sequence[float]
) -> list[tuple[float, float]]:
    r"""Levels of the highest-density regions on a grid.

    The region $\{x : p(x) \geq \ell\}$ of mass $P$ is the smallest with that mass.

    Args:
        mass: Probability of each cell; cells are of equal size. What is missing to 1 lies
            outside the grid.
        probabilities: The masses $P$.

    Returns:
        Pairs of $P$ and the level $\ell$ of `mass`, by rising level. A region that does not
        fit into the grid, or does not differ from another one, is left out.

    Source: Hyndman (1996), *Computing and graphing highest density regions*.
    """
    cells = np.sort(mass[np.isfinite(mass)])[::-1]
    enclosed = np.cumsum(cells)
    levels: list[tuple[float, float]] = []
    for probability in sorted(probabilities, reverse=True):
        index = int(np.searchsorted(enclosed, probability))
        if index >= cells.size or cells[index] <= 0:
            continue
        if not levels or cells[index] > levels[-1][1]:
            levels.append((probability, float(cells[index])))
    return levels
