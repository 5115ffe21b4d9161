"""A polynomial triangular map: coordinates in which bent and funnel-shaped densities are normal."""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float, Int, Scalar

#: Terms that a mean has at most where products are among them, and standard errors of a product's
#: partial correlation, given all coordinates, from which on it is looked at.
MOST_TERMS, CLEAR = 64, 4.0

#: Alternations of means and log-scales, steps of each of the latter, ridge a point, and nats by
#: which a log-scale may leave the range that it has at the points.
ALTERNATIONS, SCORING_STEPS, RIDGE, LEEWAY = 6, 4, 1e-12, 2.0

#: Nats a point, of points left out, that a coordinate's further terms must gain, and standard
#: errors that the gain must have beside.
SMALLEST_GAIN, CLEAR_ERRORS = 0.005, 2.0


class TriangularMap(AbstractBijection):
    r"""The map $x = T(u)$ of which each coordinate is a conditional normal's, given earlier ones.

    With $z = (x - \text{location}) / \text{scale}$ and coordinates in some order,

    $$z_i = m_i(z_{<i}) + e^{s_i(z_{<i})} u_i,$$

    where $m_i$ is a polynomial of degree two and $s_i$ is linear between two limits. Where $u$ is
    standard normal, $x$ has every density whose conditionals are normal with such means and
    scales: bananas and Rosenbrock densities of any length, funnels, and hierarchies.

    Args:
        order: Of the coordinates, of shape `(d,)`.
        location: Of shape `(d,)`.
        scale: Positive, of shape `(d,)`.
        intercept, slope, product: Of the means, of shapes `(d,)`, `(d, d)` and `(d, d, d)`.
        log_scale, log_slope: Of the log-scales, of shapes `(d,)` and `(d, d)`.
        limits: Least and greatest log-scales, of shape `(d, 2)`.

    Source: Marzouk, Moselhy, Parno, Spantini (2016), *Sampling via measure transport*; Parno and
    Marzouk (2018), *Transport map accelerated Markov chain Monte Carlo*.
    """

    order: Int[Array, " d"]
    location: Float[Array, " d"]
    scale: Float[Array, " d"]
    intercept: Float[Array, " d"]
    slope: Float[Array, "d d"]
    product: Float[Array, "d d d"]
    log_scale: Float[Array, " d"]
    log_slope: Float[Array, "d d"]
    limits: Float[Array, "d 2"]
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: None = None

    def __init__(
        self,
        order: ArrayLike,
        location: ArrayLike,
        scale: ArrayLike,
        intercept: ArrayLike,
        slope: ArrayLike,
        product: ArrayLike,
        log_scale: ArrayLike,
        log_slope: ArrayLike,
        limits: ArrayLike,
    ):
        self.order = jnp.asarray(order)
        self.location = jnp.asarray(location, float)
        self.scale = jnp.asarray(scale, float)
        self.intercept = jnp.asarray(intercept, float)
        self.slope = jnp.asarray(slope, float)
        self.product = jnp.asarray(product, float)
        self.log_scale = jnp.asarray(log_scale, float)
        self.log_slope = jnp.asarray(log_slope, float)
        self.limits = jnp.asarray(limits, float)
        self.shape = self.location.shape

    def transform_and_log_det(
        self, x: Float[Array, " d"], condition: None = None
    ) -> tuple[Float[Array, " d"], Scalar]:
        def set_next(z, i):
            mean = self.intercept[i] + self.slope[i] @ z + z @ self.product[i] @ z
            log_scale = self.log_scale[i] + self.log_slope[i] @ z
            log_scale = jnp.clip(log_scale, self.limits[i, 0], self.limits[i, 1])
            return z.at[i].set(mean + jnp.exp(log_scale) * x[i]), log_scale

        z, log_scales = jax.lax.scan(set_next, jnp.zeros_like(x), self.order)
        return (
            self.location + self.scale * z,
            jnp.sum(log_scales) + jnp.sum(jnp.log(self.scale)),
        )

    def inverse_and_log_det(
        self, y: Float[Array, " d"], condition: None = None
    ) -> tuple[Float[Array, " d"], Scalar]:
        z = (y - self.location) / self.scale
        mean = self.intercept + self.slope @ z + jnp.einsum("ijk,j,k->i", self.product, z, z)
        log_scale = self.log_scale + self.log_slope @ z
        log_scale = jnp.clip(log_scale, self.limits[:, 0], self.limits[:, 1])
        log_det = -jnp.sum(log_scale) - jnp.sum(jnp.log(self.scale))
        return (z - mean) * jnp.exp(-log_scale), log_det

    def inverse_on_host(
        self, y: Float[np.ndarray, "n d"]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """`inverse_and_log_det` of many points in double precision, with no program compiled."""
        leaf = self._leaves()
        z = (np.asarray(y, float) - leaf["location"]) / leaf["scale"]
        mean = leaf["intercept"] + z @ leaf["slope"].T
        for i in np.flatnonzero(np.any(leaf["product"], axis=(1, 2))):
            mean[:, i] += np.sum((z @ leaf["product"][i]) * z, axis=1)
        log_scales = np.clip(leaf["log_scale"] + z @ leaf["log_slope"].T, *leaf["limits"].T)
        log_det = -log_scales.sum(axis=1) - np.log(leaf["scale"]).sum()
        return (z - mean) * np.exp(-log_scales), log_det

    def normal_log_prob(self, y: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The log-densities of points where latent ones are standard normal, nats."""
        u, log_det = self.inverse_on_host(y)
        return -0.5 * np.sum(u**2, axis=1) - 0.5 * u.shape[1] * np.log(2 * np.pi) + log_det

    def transform_on_host(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """`transform` of many points in double precision, with no program compiled."""
        leaf = self._leaves()
        z = np.zeros(np.shape(x))
        for i in np.asarray(self.order):
            mean = leaf["intercept"][i] + z @ leaf["slope"][i]
            mean = mean + np.sum((z @ leaf["product"][i]) * z, axis=1)
            log_scale = leaf["log_scale"][i] + z @ leaf["log_slope"][i]
            z[:, i] = mean + np.exp(np.clip(log_scale, *leaf["limits"][i])) * x[:, i]
        return leaf["location"] + leaf["scale"] * z

    def _leaves(self) -> dict[str, np.ndarray]:
        """All arrays but the order, in double precision."""
        arrays = {name: leaf for name, leaf in vars(self).items() if eqx.is_inexact_array(leaf)}
        return {name: np.asarray(leaf, float) for name, leaf in arrays.items()}


class _Conditional(NamedTuple):
    """A coordinate's normal given earlier ones: coefficients of its mean and log-scale."""

    intercept: float
    slope: np.ndarray
    product: np.ndarray
    log_scale: float
    log_slope: np.ndarray
    gain: float


def fit_triangular_map(
    rng: np.random.Generator, points: Float[np.ndarray, "n d"]
) -> tuple[TriangularMap, float]:
    r"""Fit a map by maximum likelihood, in that order of the coordinates which suits best.

    Orders are the given one, its reverse, and one by how much each coordinate tells of others'
    means and scales beyond correlation. A coordinate has products in its mean, and a log-scale
    that is not constant, where points left out ask for them.

    Args:
        rng: Random numbers.
        points: Draws of a density, one a row; copies allowed.

    Returns:
        The map, and how much higher the mean log-density of points left out is than that of a
        normal with the points' covariance, nats.
    """
    points = np.asarray(points, float)
    # Copies of a point stay together, so that points left out are new.
    _, first = np.unique(points, axis=0, return_inverse=True)
    left_out = rng.permutation(first.max() + 1)[first.ravel()] % 3 == 0
    location, scale = points.mean(axis=0), points.std(axis=0) + 1e-30
    z = (points - location) / scale
    train, held_out = z[~left_out], z[left_out]
    n_different = len(np.unique(first[~left_out.ravel()]))
    d = z.shape[1]
    orders = {tuple(range(d)), tuple(range(d))[::-1], _informative_first(train)}
    best, gain = None, -np.inf
    for order in sorted(orders):
        fitted = [
            _conditional(train, held_out, i, np.array(order[:at], int), n_different)
            for at, i in enumerate(order)
        ]
        total = sum(conditional.gain for conditional in fitted)
        if total > gain:
            gain, best = total, (order, fitted)
    assert best is not None
    order, fitted = best
    of_coordinate = [fitted[order.index(i)] for i in range(d)]
    intercept, slope, product, log_scale, log_slope, _ = (
        np.array(leaf) for leaf in zip(*of_coordinate, strict=True)
    )
    log_scales = log_scale + z @ log_slope.T
    limits = np.stack([log_scales.min(axis=0) - LEEWAY, log_scales.max(axis=0) + LEEWAY], axis=1)
    fitted_map = TriangularMap(
        np.array(order), location, scale, intercept, slope, product, log_scale, log_slope, limits
    )
    return fitted_map, gain


def _conditional(train, held_out, i: int, given: np.ndarray, n_different: int) -> _Conditional:
    """The conditional of one coordinate, with as many terms as points left out ask for."""
    d = train.shape[1]
    pairs = _clear_products(train, i, given)
    terms, held_out_terms = _terms(train, given, pairs), _terms(held_out, given, pairs)
    linear, constant = np.arange(1 + len(given)), np.arange(1)
    best, plain = None, np.zeros(1)
    choices = [(linear, constant)]
    if len(given):
        choices.append((linear, linear))
    if len(pairs):
        sparse = _selected(terms, train[:, i], n_different)
        choices += [(sparse, constant), (sparse, linear)]
    for of_mean, of_scale in choices:
        mean, spread, scores = _fit_normal(
            (terms, train[:, i]), (held_out_terms, held_out[:, i]), of_mean, of_scale
        )
        if best is None:
            best, plain = (scores, mean, spread), scores
        gains = scores - best[0]
        # Half as many different points are left out as are fitted.
        error = gains.std() / (n_different / 2) ** 0.5
        if gains.mean() > SMALLEST_GAIN + CLEAR_ERRORS * error:
            best = scores, mean, spread
    assert best is not None
    scores, mean, spread = best
    slope, log_slope, product = np.zeros(d), np.zeros(d), np.zeros((d, d))
    slope[given], log_slope[given] = mean[linear[1:]], spread[linear[1:]]
    product[pairs[:, 0], pairs[:, 1]] = mean[1 + len(given) :]
    return _Conditional(
        mean[0], slope, product, spread[0], log_slope, float(np.mean(scores - plain))
    )


def _terms(z, given, pairs):
    """One, coordinates and products, a column each."""
    return np.concatenate(
        [np.ones((len(z), 1)), z[:, given], z[:, pairs[:, 0]] * z[:, pairs[:, 1]]], axis=1
    )


def _clear_products(z, i: int, given: np.ndarray) -> np.ndarray:
    """Pairs of coordinates whose product tells more of another than all coordinates do linearly."""
    first, second = np.triu_indices(len(given))
    pairs = np.stack([given[first], given[second]], axis=1)
    linear = _terms(z, given, pairs[:0])
    basis = np.linalg.qr(linear)[0]
    residual, products = (
        leaf - basis @ (basis.T @ leaf) for leaf in (z[:, i], z[:, pairs[:, 0]] * z[:, pairs[:, 1]])
    )
    norms = np.linalg.norm(residual) * np.linalg.norm(products, axis=0) + 1e-30
    correlation = np.abs(residual @ products) / norms
    strongest = np.argsort(-correlation)[:MOST_TERMS]
    return pairs[strongest[correlation[strongest] > CLEAR / len(z) ** 0.5]]


def _selected(terms, target, n_different: int) -> np.ndarray:
    """The constant and the few terms that tell most, as many as Schwarz's criterion takes.

    What few terms tell holds beyond the points as well; with all of them it does not.
    """
    from sklearn.linear_model import orthogonal_mp

    centred = terms[:, 1:] - terms[:, 1:].mean(axis=0)
    norms = np.linalg.norm(centred, axis=0) + 1e-30
    rest = target - target.mean()
    most = min(MOST_TERMS, centred.shape[1])
    with warnings.catch_warnings():
        # That terms are linearly dependent: the path is then shorter.
        warnings.simplefilter("ignore", RuntimeWarning)
        path = orthogonal_mp(centred / norms, rest, n_nonzero_coefs=most, return_path=True)
    path = np.asarray(path).reshape(centred.shape[1], -1)
    squares = np.sum((rest[:, None] - centred / norms @ path) ** 2, axis=0)
    squares = np.append(np.sum(rest**2), squares) + 1e-30
    penalty = 0.5 * np.log(n_different) / n_different * np.arange(len(squares))
    number = int(np.argmin(0.5 * np.log(squares) + penalty))
    chosen = np.flatnonzero(path[:, number - 1]) if number else np.zeros(0, int)
    # Terms that were taken before better ones, and tell no more beside these.
    while len(chosen):
        basis, upper = np.linalg.qr(centred[:, chosen] / norms[chosen])
        inverse = np.linalg.pinv(upper)
        along = basis.T @ rest
        # A point counts once, however many copies there are.
        variance = (rest @ rest - along @ along) / n_different + 1e-30
        squares = (inverse @ along) ** 2 / (np.sum(inverse**2, axis=1) * variance)
        if squares.min() > np.log(n_different):
            break
        chosen = np.delete(chosen, np.argmin(squares))
    return np.append(0, 1 + chosen)


def _solve(terms, weights, target):
    """Weighted least squares with a ridge for all but the constant."""
    root = np.sqrt(weights)
    ridge = (RIDGE * len(terms)) ** 0.5 * np.eye(terms.shape[1])[1:]
    # Not by normal equations: conditionals ten thousand times as narrow as their coordinate occur.
    rows = np.concatenate([terms * root[:, None], ridge])
    wanted = np.concatenate([target * root, np.zeros(len(ridge))])
    return np.linalg.lstsq(rows, wanted, rcond=None)[0]


def _fit_normal(train, held_out, of_mean, of_scale):
    """Coefficients of mean and log-scale, of all terms, and the scores of points left out."""
    terms, target = train
    log_scale = np.zeros(len(target))
    mean, spread = np.zeros(terms.shape[1]), np.zeros(terms.shape[1])
    to_spread = np.linalg.pinv(terms[:, of_scale]) if len(of_scale) > 1 else None
    for alternation in range(1 if to_spread is None else ALTERNATIONS):
        precision = np.exp(-2 * (log_scale - log_scale.min()))
        mean[of_mean] = _solve(terms[:, of_mean], precision, target)
        residual = target - terms @ mean
        if alternation == 0:
            spread[0] = 0.5 * np.log(np.mean(residual**2) + 1e-30)
            if to_spread is not None:
                # The logarithm of a squared standard normal is -1.27 on average.
                logs = 0.5 * np.log(residual**2 + 1e-8 * np.exp(2 * spread[0])) + 0.635
                spread[of_scale] = to_spread @ logs
        if to_spread is not None:
            for _ in range(SCORING_STEPS):
                # Fisher scoring; the information of a log-scale is two a point.
                excess = residual**2 * np.exp(-2 * (terms @ spread)) - 1
                spread[of_scale] += 0.5 * to_spread @ np.minimum(excess, 20.0)
        log_scale = terms @ spread
    limits = log_scale.min() - LEEWAY, log_scale.max() + LEEWAY
    terms, target = held_out
    log_scale = np.clip(terms @ spread, *limits)
    scores = -0.5 * (target - terms @ mean) ** 2 * np.exp(-2 * log_scale) - log_scale
    return mean, spread, scores


def _informative_first(z) -> tuple[int, ...]:
    """Coordinates in an order in which the earlier ones tell of the later ones' shape."""
    n, d = z.shape
    gains = np.zeros((d, d))
    for j in range(d):
        features = np.stack([np.ones(n), z[:, j], z[:, j] ** 2], axis=1)
        residual = z - features[:, :2] @ np.linalg.lstsq(features[:, :2], z, rcond=None)[0]
        bent = z - features @ np.linalg.lstsq(features, z, rcond=None)[0]
        curved = 0.5 * np.log((residual.var(axis=0) + 1e-30) / (bent.var(axis=0) + 1e-30))
        logs = 0.5 * np.log(bent**2 + 1e-8 * bent.var(axis=0) + 1e-30)
        slope = (z[:, j] @ (logs - logs.mean(axis=0))) / n
        gains[j] = np.maximum(curved - 4 / n, 0) + np.maximum(slope**2 - 4 / n, 0)
    np.fill_diagonal(gains, 0)
    left, order = list(range(d)), []
    while left:
        inside = gains[np.ix_(left, left)]
        order.append(left.pop(int(np.argmax(inside.sum(axis=1) - inside.sum(axis=0)))))
    return tuple(order)
