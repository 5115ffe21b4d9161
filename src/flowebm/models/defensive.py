"""The defensive mixture: a proposal whose importance weights stay bounded."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.refusal import Refused


class DefensiveMixture(AbstractDistribution):
    r"""A flow mixed with a wide base, $q(x) = (1 - \delta)\, q_\alpha(x) + \delta\, b(x)$.

    A flow that under-covers its target has importance weights without bound; with the
    mixture they are at most $p / (\delta b)$, which a wide base keeps finite.

    Args:
        flow: The proposal $q_\alpha$; itself a mixture, perhaps.
        wide: The wide density $b$, over points of the same shape.
        fraction: The mixture's weight $\delta$ of the wide density.

    Raises:
        ValueError: If the shapes differ or `fraction` is not inside (0, 1).

    Source: Hesterberg (1995), *Weighted average importance sampling and defensive mixture
    distributions*.
    """

    flow: AbstractDistribution
    wide: AbstractDistribution
    fraction: float = eqx.field(static=True)
    cond_shape = None

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(
        self, flow: AbstractDistribution, wide: AbstractDistribution, fraction: float = 0.05
    ):
        self.flow = flow
        self.wide = wide
        self.fraction = fraction

    def __check_init__(self):
        if self.flow.shape != self.wide.shape:
            raise Refused(
                f"The flow has points of shape {self.flow.shape}, the wide density of shape "
                f"{self.wide.shape}: they must be the same."
            )
        if not 0 < self.fraction < 1:
            raise Refused(f"The defensive fraction must be inside (0, 1); got {self.fraction}.")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.flow.shape

    def mix(self, flow_log_prob: Array, wide_log_prob: Array) -> Array:
        """The mixture's log-density from those of its parts at the same points.

        Args:
            flow_log_prob: The flow's log-densities (nats).
            wide_log_prob: The wide density's.

        Returns:
            The mixture's.
        """
        return jnp.logaddexp(
            jnp.log1p(-self.fraction) + flow_log_prob, jnp.log(self.fraction) + wide_log_prob
        )

    def _log_prob(self, x: Array, condition: Array | None = None) -> Array:
        return self.mix(self.flow._log_prob(x), self.wide._log_prob(x))

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        choice, flow_key, wide_key = jr.split(key, 3)
        is_wide = jr.bernoulli(choice, self.fraction)
        return jnp.where(is_wide, self.wide._sample(wide_key), self.flow._sample(flow_key))

    def draw(
        self, key: PRNGKeyArray, n: int
    ) -> tuple[Float[Array, "n *shape"], Float[Array, " n"]]:
        r"""Independent draws and their log-densities, at the price of the flow's alone.

        `sample_and_log_prob` evaluates the flow's inverse at every point, for the few that
        came from the wide density; a batch knows how many these are, and evaluates them only.
        Their number is binomial; the buffer for it is too small with probability below 1e-12,
        and the draws in excess then come from the flow.

        Args:
            key: Random key.
            n: Number of draws.

        Returns:
            Points, one a row, and $\log q$ at each.
        """
        # SciPy's distributions take longer to import than JAX, and not every proposal is a mixture.
        from scipy.stats import binom

        choice, flow_key, wide_key = jr.split(key, 3)
        capacity = min(n, int(binom.isf(1e-12, n, self.fraction)) + 1)
        # Indices of the wide draws; those beyond their number point behind the array's end,
        # where `mode="drop"` discards what is written.
        is_wide = jr.bernoulli(choice, self.fraction, (n,))
        (where_wide,) = jnp.nonzero(is_wide, size=capacity, fill_value=n)
        flow_x, flow_log_prob = draw(flow_key, self.flow, n)
        wide_x = self.wide.sample(wide_key, (capacity,))
        x = flow_x.at[where_wide].set(wide_x, mode="drop")
        flow_log_prob = flow_log_prob.at[where_wide].set(self.flow.log_prob(wide_x), mode="drop")
        return x, self.mix(flow_log_prob, self.wide.log_prob(x))


def draw(
    key: PRNGKeyArray, proposal: AbstractDistribution, n: int
) -> tuple[Float[Array, "n *shape"], Float[Array, " n"]]:
    """Draws of any proposal with their log-densities, by the cheapest way that it has.

    Args:
        key: Random key.
        proposal: A distribution.
        n: Number of draws.

    Returns:
        Points, one a row, and the log-density at each (nats).
    """
    if isinstance(proposal, DefensiveMixture):
        return proposal.draw(key, n)
    return proposal.sample_and_log_prob(key, (n,))


__all__ = ["DefensiveMixture", "draw"]
