"""A density as the host calls it, in batches that are counted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flowebm.models.unconstrained import UnconstrainedDensity

#: Points of a batch, of which one program is compiled; fewer where the function is NumPy's.
BATCH, NUMPY_BATCH = 1024, 64


@eqx.filter_jit
def _values(model, x):
    return jax.vmap(model.unguarded)(x)


@eqx.filter_jit
def _values_and_grads(model, x):
    return jax.vmap(jax.value_and_grad(model.unnormalized_log_prob))(x)


class DensityCalls:
    """Evaluations of a density on the host, with their number and what was wrong with them.

    Attributes:
        model: The density.
        n_evaluations: Points evaluated, padding included.
        n_nan: Points where the log-density was not a number or plus infinity, which counts as
            minus infinity.
        n_values: Points that `n_nan` is of.
    """

    def __init__(self, model: UnconstrainedDensity, is_numpy: bool):
        self.model = model
        self.has_gradient = not is_numpy
        self.n_evaluations = 0
        self.n_nan = self.n_values = 0
        self._batch = NUMPY_BATCH if is_numpy else BATCH

    def values(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log-densities of points, nats."""
        x = np.asarray(x, np.float32)
        out = []
        for at in range(0, len(x), self._batch):
            rows = x[at : at + self._batch]
            padded = np.concatenate([rows, np.repeat(rows[:1], self._batch - len(rows), axis=0)])
            out.append(np.asarray(_values(self.model, jnp.asarray(padded)))[: len(rows)])
            self.n_evaluations += self._batch
        values = np.concatenate(out).astype(float) if out else np.zeros(0)
        is_nan = ~(values < np.inf)
        self.n_nan += int(is_nan.sum())
        self.n_values += len(values)
        return np.where(is_nan, -np.inf, values)

    def value_and_grad(self, x: Float[np.ndarray, " d"]) -> tuple[float, np.ndarray]:
        """The log-density and its gradient at a point."""
        values, gradients = self.values_and_grads(x[None])
        return float(values[0]), gradients[0]

    def values_and_grads(self, x: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
        """Log-densities and gradients of points: one program for each number of them."""
        values, gradients = _values_and_grads(self.model, jnp.asarray(x, jnp.float32))
        self.n_evaluations += len(x)
        return np.asarray(values, float), np.asarray(gradients, float)
