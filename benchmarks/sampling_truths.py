"""Densities whose log Z and masses are known, and which samplers get wrong.

Some are reported by users of samplers, some are of kinds that those stand for. Each has a region,
a function of a point that is true or false, with the mass that it has.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm


class Known(NamedTuple):
    """A density and the truth about it.

    Attributes:
        log_density: Of one point.
        initial: What `flowebm.sample` is told of where it lies.
        log_z: Its log Z, nats.
        region: Whether a point is in the region.
        weight: The region's share of the mass.
        choices: Further arguments of `flowebm.sample`, such as bounds.
    """

    log_density: Callable[[Any], Any]
    initial: Any
    log_z: float
    region: Callable[[Any], Any]
    weight: float
    choices: dict[str, Any]


def _normal(x, mean, sd):
    return jnp.sum(norm.logpdf(x, mean, sd))


def _two(weight, first, second):
    def log_density(x):
        a = _normal(x, *first) + math.log1p(-weight)
        return jnp.logaddexp(a, _normal(x, *second) + math.log(weight))

    return log_density


def spike_slab(d: int, scale: float, odds: float, bounds: float | None) -> Known:
    """A spike at the centre of a slab, of so many times the mass."""
    shift = math.log(odds) - d * math.log(scale)

    def log_density(x):
        square = jnp.sum(x**2)
        return jnp.logaddexp(-0.5 * square, -0.5 * square / scale**2 + shift)

    from scipy.stats import chi2

    radius = 3 * scale * d**0.5
    inside = (chi2.cdf(9 * d, d) * odds + chi2.cdf(radius**2, d)) / (1 + odds)
    choices = {} if bounds is None else {"bounds": (-bounds, bounds)}
    log_z = 0.5 * d * math.log(2 * math.pi) + math.log1p(odds)
    region = lambda x: jnp.sum(x**2) < radius**2  # noqa: E731
    return Known(log_density, d, log_z, region, inside, choices)


def modes(d: int, weight: float, distance: float, sd: float = 1.0, initial: Any = None) -> Known:
    """Two normals, the second so far in every coordinate."""
    log_density = _two(weight, (0.0, 1.0), (distance, sd))
    centre = jnp.full(d, distance)

    def region(x):
        return jnp.linalg.norm(x - centre) < 0.5 * distance * d**0.5

    return Known(log_density, d if initial is None else initial, 0.0, region, weight, {})


def mirrored() -> Known:
    """A prior at (1, 1) and a likelihood that takes both signs."""
    ones = jnp.ones(2)

    def log_density(x):
        likelihood = jnp.logaddexp(_normal(ones, x, 0.1), _normal(ones, -x, 0.1)) - math.log(2)
        return _normal(x, 1.0, 1.0) + likelihood

    other = math.exp(-4 / 1.01)
    log_z = math.log((1 + other) / (4 * math.pi * 1.01))
    return Known(log_density, 2, log_z, lambda x: x[0] < 0, other / (1 + other), {})


def rosenbrock() -> Known:
    """The hybrid one: three arms of three."""
    a, b = 1 / 20, 5.0

    def log_density(x):
        value = -a * (x[0] - 1) ** 2
        for arm in x[1:].reshape(3, 3):
            previous = x[0]
            for coordinate in arm:
                value = value - b * (coordinate - previous**2) ** 2
                previous = coordinate
        return value - 0.5 * math.log(math.pi / a) - 4.5 * math.log(math.pi / b)

    return Known(log_density, 10, 0.0, lambda x: x[0] > 1, 0.5, {})


def muller_brown(temperature: float) -> Known:
    """The three-hole potential of chemistry."""
    height = jnp.array([-200.0, -100, -170, 15])
    a, b, c = (
        jnp.array(v) for v in ([-1, -1, -6.5, 0.7], [0.0, 0, 11, 0.6], [-10, -10, -6.5, 0.7])
    )
    x0, y0 = jnp.array([1.0, 0, -0.5, -1]), jnp.array([0.0, 0.5, 1.5, 1])

    def log_density(x):
        u, v = x[0] - x0, x[1] - y0
        return -jnp.sum(height * jnp.exp(a * u**2 + b * u * v + c * v**2)) / temperature

    return _by_grid(
        log_density, (-3, 2.5), (-2, 3.5), lambda x: x[1] > 0.85, jnp.array([-0.5, 1.5])
    )


def _by_grid(log_density, first, second, region, initial, choices=None) -> Known:
    n = 2400
    middles = (np.arange(n) + 0.5) / n
    sides = [low + (high - low) * middles for low, high in (first, second)]
    x = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2).astype(np.float32)
    values = np.asarray(jax.jit(jax.vmap(log_density))(x), float)
    mass = np.exp(values - values.max())
    area = (first[1] - first[0]) * (second[1] - second[0]) / n**2
    inside = mass @ np.asarray(jax.vmap(region)(x), float) / mass.sum()
    log_z = math.log(mass.sum() * area) + values.max()
    return Known(log_density, initial, log_z, region, float(inside), choices or {})


def sinusoids() -> Known:
    """Two of unknown amplitude and frequency in noise: exchanged, they fit alike."""
    t = np.linspace(0, 1, 60)
    noise = np.random.default_rng(0).standard_normal(60)
    y = np.sin(2 * np.pi * 3.3 * t) + 0.7 * np.sin(2 * np.pi * 7.1 * t) + 0.3 * noise
    y, t = jnp.asarray(y, jnp.float32), jnp.asarray(t, jnp.float32)

    def log_density(x):
        fit = x[0] * jnp.sin(2 * jnp.pi * x[1] * t) + x[2] * jnp.sin(2 * jnp.pi * x[3] * t)
        return _normal(y, fit, 0.3)

    bounds = (jnp.array([0.0, 0.5, 0, 0.5]), jnp.array([2.0, 20, 2, 20]))
    return Known(log_density, 4, math.nan, lambda x: x[1] > x[3], 0.5, {"bounds": bounds})


def banana() -> Known:
    def log_density(x):
        return norm.logpdf(x[0], 0, 10) + norm.logpdf(x[1] + 0.1 * x[0] ** 2 - 10, 0, 0.3)

    return Known(log_density, 2, 0.0, lambda x: jnp.abs(x[0]) > 10, 0.31731, {})


def funnel(d: int) -> Known:
    def log_density(x):
        return norm.logpdf(x[0], 0, 3) + _normal(x[1:], 0.0, jnp.exp(x[0] / 2))

    return Known(log_density, d, 0.0, lambda x: x[0] < -3, 0.15866, {})


def cube(d: int) -> Known:
    return Known(lambda x: 0.0 * x.sum(), d, 0.0, lambda x: x[0] < 0.1, 0.1, {"bounds": (0, 1)})


def arcsine(d: int) -> Known:
    """Dense at all walls: Beta(1/2, 1/2) in every coordinate."""

    def log_density(x):
        return -0.5 * jnp.sum(jnp.log(x) + jnp.log1p(-x))

    weight = 2 / math.pi * math.asin(0.1**0.5)
    log_z = d * math.log(math.pi)
    return Known(log_density, d, log_z, lambda x: x[0] < 0.1, weight, {"bounds": (0, 1)})


def dirichlet(alpha: tuple[float, ...]) -> Known:
    """On the simplex, which minus infinity bounds."""
    a = jnp.array(alpha)

    def log_density(x):
        rest = 1 - jnp.sum(x)
        inside = (rest > 0) & jnp.all(x > 0)
        safe = jnp.clip(jnp.append(x, rest), 1e-12, 1)
        return jnp.where(inside, jnp.sum((a - 1) * jnp.log(safe)), -jnp.inf)

    from scipy.stats import beta

    log_z = sum(map(math.lgamma, alpha)) - math.lgamma(sum(alpha))
    weight = float(beta.cdf(0.25, alpha[0], sum(alpha[1:])))
    d = len(alpha) - 1
    return Known(log_density, d, log_z, lambda x: x[0] < 0.25, weight, {"bounds": (0, 1)})


def ring(radius: float, width: float) -> Known:
    def log_density(x):
        return -0.5 * ((jnp.linalg.norm(x) - radius) / width) ** 2

    log_z = math.log(2 * math.pi * radius * width * math.sqrt(2 * math.pi))
    return Known(log_density, 2, log_z, lambda x: x[0] > 0, 0.5, {})


def shells() -> Known:
    def log_density(x):
        centre = jnp.array([3.5, 0.0])
        radii = jnp.stack([jnp.linalg.norm(x - centre), jnp.linalg.norm(x + centre)])
        return jax.nn.logsumexp(norm.logpdf(radii, 2, 0.1))

    return Known(log_density, 2, math.log(8 * math.pi), lambda x: x[0] > 0, 0.5, {})


def many_well(pairs: int) -> Known:
    """Pairs of a double well and a normal: two modes for every pair."""

    def well(x):
        return -(x**4) + 6 * x**2 + 0.5 * x

    def log_density(x):
        return jnp.sum(well(x[0::2])) - 0.5 * jnp.sum(x[1::2] ** 2)

    grid = np.linspace(-4, 4, 40001)
    mass = np.exp(well(grid))
    log_z = pairs * (math.log(mass.sum() * (grid[1] - grid[0])) + 0.5 * math.log(2 * math.pi))
    weight = mass[grid < 0].sum() / mass.sum()
    return Known(log_density, 2 * pairs, log_z, lambda x: x[0] < 0, float(weight), {})


def half_plane() -> Known:
    def log_density(x):
        return jnp.where(x[0] > 0, -0.5 * x @ x, -jnp.inf)

    return Known(log_density, jnp.ones(2), math.log(math.pi), lambda x: x[1] > 0, 0.5, {})


def circle(periodic: bool) -> Known:
    """A phase of two von Mises modes, one on the seam, beside a normal."""

    def log_density(x):
        first = 4 * jnp.cos(x[0])
        second = 4 * jnp.cos(x[0] - 3) + math.log(0.5)
        return jnp.logaddexp(first, second) - 0.5 * x[1] ** 2

    choices = {"bounds": (jnp.array([0.0, -jnp.inf]), jnp.array([2 * jnp.pi, jnp.inf]))}
    if periodic:
        choices["periodic"] = jnp.array([True, False])
    log_z = math.log(1.5 * 2 * math.pi * float(np.i0(4.0)) * math.sqrt(2 * math.pi))
    return Known(
        log_density, 2, log_z, lambda x: jnp.cos(x[0] - 3) > jnp.cos(x[0]), math.nan, choices
    )


def student(d: int, df: float) -> Known:
    def log_density(x):
        return -0.5 * (df + d) * jnp.log1p(x @ x / df)

    log_z = math.lgamma(df / 2) - math.lgamma((df + d) / 2) + 0.5 * d * math.log(df * math.pi)
    return Known(log_density, d, log_z, lambda x: x[0] > 0, 0.5, {})


def correlated(d: int, rho: float) -> Known:
    def log_density(x):
        return norm.logpdf(x[0]) + _normal(x[1:], rho * x[:-1], math.sqrt(1 - rho**2))

    return Known(log_density, d, 0.0, lambda x: x[0] > 0, 0.5, {})


def mixture(d: int) -> Known:
    """The four modes of the reference mixture, from the smallest."""
    from flowebm.data.targets import GaussianMixture4

    target = GaussianMixture4(d)
    weight = float(target.mode_weights[3])
    return Known(target.log_prob, target.means[3], 0.0, lambda x: target.mode(x) == 3, weight, {})


def labels() -> Known:
    """Means of three components of known widths: six orders of the same fit."""
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.normal(m, 0.5, 20) for m in (-3, 0, 4)])
    y = jnp.asarray(y, jnp.float32)

    def log_density(x):
        each = norm.logpdf(y[:, None], x, 0.5) - math.log(3)
        return jax.nn.logsumexp(each, axis=1).sum() + _normal(x, 0.0, 5.0)

    return Known(log_density, 3, math.nan, lambda x: (x[0] < x[1]) & (x[1] < x[2]), 1 / 6, {})


def eggbox() -> Known:
    def log_density(x):
        return (2 + jnp.cos(x[0] / 2) * jnp.cos(x[1] / 2)) ** 5 / 5

    bounds = {"bounds": (0.0, 10 * math.pi)}
    span = (0.0, 10 * math.pi)
    return _by_grid(log_density, span, span, lambda x: x[0] < 9.0, 2, bounds)


def positive(d: int) -> Known:
    """Gamma(2), half-Cauchy and half-normal coordinates, in turn."""

    def log_density(x):
        kinds = jnp.arange(d) % 3
        each = jnp.stack([jnp.log(x) - x, -jnp.log1p(x**2), -0.5 * x**2])
        return jnp.sum(jnp.take_along_axis(each, kinds[None], axis=0))

    parts = [0.0, math.log(math.pi / 2), 0.5 * math.log(math.pi / 2)]
    log_z = sum(parts[i % 3] for i in range(d))
    weight = 1 - 2 * math.exp(-1)
    return Known(log_density, d, log_z, lambda x: x[0] < 1, weight, {"bounds": (0, jnp.inf)})


def cauchy_gauss() -> Known:
    def log_density(x):
        return -jnp.log1p(x[0] ** 2) - 0.5 * x[1] ** 2

    log_z = math.log(math.pi) + 0.5 * math.log(2 * math.pi)
    return Known(log_density, 2, log_z, lambda x: jnp.abs(x[0]) > 1, 0.5, {})


#: All of them, by name.
KNOWN = {
    "spike and slab, 10": lambda: spike_slab(10, 0.1, 9.0, 5.0),
    "spike and slab, 4": lambda: spike_slab(4, 0.02, 0.5, None),
    "spike and slab, 20": lambda: spike_slab(20, 0.2, 1.0, 8.0),
    "sinusoids": sinusoids,
    "1%": lambda: modes(2, 0.01, 8.0),
    "1% in 10": lambda: modes(10, 0.01, 8.0),
    "0.1%": lambda: modes(3, 0.001, 6.0),
    "mirrored": mirrored,
    "hybrid Rosenbrock": rosenbrock,
    "Müller-Brown, 10": lambda: muller_brown(10.0),
    "Müller-Brown, 15": lambda: muller_brown(15.0),
    "wide and narrow": lambda: modes(5, 0.5, 4.0, 0.05),
    "40 apart": lambda: modes(2, 0.5, 40.0),
    "15 apart in 8": lambda: modes(8, 0.3, 15.0, 0.5),
    "banana": banana,
    "funnel": lambda: funnel(10),
    "cube": lambda: cube(3),
    "cube, 12": lambda: cube(12),
    "arcsine": lambda: arcsine(4),
    "Dirichlet": lambda: dirichlet((0.5, 1.0, 2.0, 3.0)),
    "ring": lambda: ring(5.0, 0.1),
    "shells": shells,
    "many-well": lambda: many_well(4),
    "half plane": half_plane,
    "circle": lambda: circle(True),
    "Student t": lambda: student(5, 4.0),
    "correlated, 25": lambda: correlated(25, 0.95),
    "correlated, 30": lambda: correlated(30, 0.5),
    "mixture, 2": lambda: mixture(2),
    "mixture, 16": lambda: mixture(16),
    "labels": labels,
    "egg box": eggbox,
    "positive": lambda: positive(6),
    "Cauchy and Gauss": cauchy_gauss,
}


@cache
def make(name: str) -> Known:
    """The density called `name`."""
    known = KNOWN[name]()
    if math.isnan(known.weight):
        # The circle: what of one mode's tail is nearer to the other.
        grid = np.linspace(0, 2 * np.pi, 100_001)[:-1]
        values = np.logaddexp(4 * np.cos(grid), 4 * np.cos(grid - 3) + math.log(0.5))
        mass = np.exp(values)
        inside = np.cos(grid - 3) > np.cos(grid)
        known = known._replace(weight=float(mass[inside].sum() / mass.sum()))
    return known
