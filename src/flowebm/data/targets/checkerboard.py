"""A uniform density on the black squares of a board."""

from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr

from flowebm.data.targets.target import AbstractTarget


class Checkerboard(AbstractTarget):
    r"""EBFlow's checkerboard: uniform on eight of the sixteen squares of $[-6, 6]^2$.

    $$p(x) = \tfrac{1}{72} \quad\text{where } \lfloor x_1/3 \rfloor + \lfloor x_2/3 \rfloor
      \text{ is even and } x \in [-6, 6)^2, \text{ and } 0 \text{ elsewhere.}$$

    The squares meet at their corners, so they are not counted as modes.

    Source: Chao et al. (2023), 2-D experiments.
    """

    shape: ClassVar[tuple[int, ...]] = (2,)
    cond_shape: ClassVar[None] = None
    mode_weights: ClassVar[None] = None

    def _log_prob(self, x, condition=None):
        on_board = jnp.all((x >= -6) & (x < 6))
        black = jnp.sum(jnp.floor(x / 3)) % 2 == 0
        return jnp.where(on_board & black, -jnp.log(jnp.asarray(72.0, x.dtype)), -jnp.inf)

    def _sample(self, key, condition=None):
        column_key, row_key, place_key = jr.split(key, 3)
        column = jr.randint(column_key, (), 0, 4)
        row = 2 * jr.randint(row_key, (), 0, 2) + column % 2
        return 3 * (jnp.stack([column, row]) - 2 + jr.uniform(place_key, self.shape))

    def mode(self, x):
        return jnp.zeros((), int)
