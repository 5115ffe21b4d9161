"""The hot deck: a proposal for missing entries, made of points that resemble the observed ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from flowebm.samplers.proposal import FunctionProposal

#: Donors of a chain.
DONORS = 64

#: Weight and width, in standard deviations of the donors, of the proposal's wide component.
WIDE_WEIGHT, WIDE = 0.1, 2.0

#: Bandwidths to choose from, in standard deviations of the donors.
BANDWIDTHS = tuple(2.0 ** (-k / 2) for k in range(11))


class HotDeck(NamedTuple):
    """What donors give a point with missing entries.

    Attributes:
        proposal: A density of complete points whose observed entries are those of the point,
            known up to a constant.
        start: The point completed by one donor.
        sd: The donors' standard deviations, entry by entry.
    """

    proposal: FunctionProposal
    start: Float[Array, "*shape"]
    sd: Float[Array, "*shape"]


def hot_deck(
    key: PRNGKeyArray,
    point: Float[Array, "*shape"],
    missing: Bool[Array, "*shape"],
    donors: Float[Array, "pool *shape"],
) -> HotDeck:
    r"""A proposal for a point's missing entries, and a start, from donors close to the point.

    $$q(x_m) = \frac{1 - \delta}{K} \sum_{k=1}^K \mathcal{N}(x_m; y_{k,m}, h^2 S)
      + \delta\, \mathcal{N}(x_m; \bar y_m, 4 S)$$

    with the donors' variances $S$ (diagonal) and the bandwidth $h$ of the highest leave-one-out
    likelihood. The donors $y_k$ are chosen at random, see `choose`.

    Args:
        key: Random key of the choice of donors.
        point: One point; its missing entries do not matter.
        missing: True where an entry is missing.
        donors: Complete points to choose from.

    Returns:
        The proposal, the start and the donors' standard deviations.

    Source: Andridge, Little (2010), *A review of hot deck imputation*; Silverman (1986), section
    3.4, for the bandwidth.
    """
    is_missing = missing.ravel()
    chosen = donors[choose(key, point, missing, donors)]
    deck = chosen.reshape(len(chosen), -1)
    center, sd = deck.mean(axis=0), jnp.maximum(deck.std(axis=0), 1e-6)
    # Observed entries are zero here, so that they count in no distance.
    nodes = jnp.where(is_missing, (deck - center) / sd, 0.0)
    squares, n_missing = jnp.sum(nodes**2, axis=1), is_missing.sum()

    def squared_distances(z):
        return jnp.maximum(squares - 2 * nodes @ z + jnp.sum(z**2), 0.0)

    others = ~jnp.eye(len(nodes), dtype=bool)
    apart = jax.vmap(squared_distances)(nodes)
    bandwidths = jnp.asarray(BANDWIDTHS)
    likelihood = jax.vmap(
        lambda h: logsumexp(-apart / (2 * h**2), axis=1, b=others).mean() - n_missing * jnp.log(h)
    )(bandwidths)
    bandwidth = bandwidths[jnp.argmax(likelihood)]

    def log_prob(x):
        z = jnp.where(is_missing, (x.ravel() - center) / sd, 0.0)
        kernels = -squared_distances(z) / (2 * bandwidth**2)
        near = logsumexp(kernels) - jnp.log(len(nodes)) - n_missing * jnp.log(bandwidth)
        wide = -jnp.sum(z**2) / (2 * WIDE**2) - n_missing * jnp.log(WIDE)
        # Up to the constant that both components have in common.
        return jnp.logaddexp(jnp.log1p(-WIDE_WEIGHT) + near, jnp.log(WIDE_WEIGHT) + wide)

    def sample_and_log_prob(key):
        node_key, wide_key, noise_key = jr.split(key, 3)
        node = nodes[jr.randint(node_key, (), 0, len(nodes))]
        noise = jr.normal(noise_key, node.shape)
        is_wide = jr.bernoulli(wide_key, WIDE_WEIGHT)
        z = jnp.where(is_wide, WIDE * noise, node + bandwidth * noise)
        x = jnp.where(missing, (center + sd * z).reshape(point.shape), point)
        return x, log_prob(x)

    start = jnp.where(missing, chosen[0], point)
    proposal = FunctionProposal(log_prob, sample_and_log_prob)
    return HotDeck(proposal, start, sd.reshape(point.shape))


def choose(
    key: PRNGKeyArray,
    point: Float[Array, "*shape"],
    missing: Bool[Array, "*shape"],
    donors: Float[Array, "pool *shape"],
) -> Int[Array, " chosen"]:
    r"""Indices of a point's donors, in the order in which they are drawn without replacement.

    Their weights are $\exp(-(r_k^2 - r_{\min}^2)^2 / s^2)$ with the distances $r_k$ of observed
    parts, and with $s$ such that about twice as many donors as are drawn have weight. It is the
    excess over the closest that counts, because in many dimensions all distances are large.

    Args:
        key: Random key.
        point: One point.
        missing: True where an entry is missing.
        donors: Complete points.
    """
    observed = jnp.where(missing, 0.0, 1.0).ravel()
    flat = donors.reshape(len(donors), -1)
    x = observed * point.ravel()
    distances = flat**2 @ observed - 2 * flat @ x + jnp.sum(x**2)
    n_donors = min(DONORS, len(flat))
    closest = -jax.lax.top_k(-distances, min(2 * n_donors, len(flat)))[0]
    excess, reach = distances - closest[0], closest[-1] - closest[0]
    # Without reach the closest are all as close: they, and no other, have the same weight.
    log_weights = jnp.where(reach > 0, -((excess / reach) ** 2), jnp.where(excess > 0, -jnp.inf, 0))
    _, chosen = jax.lax.top_k(log_weights + jr.gumbel(key, log_weights.shape), n_donors)
    return chosen
