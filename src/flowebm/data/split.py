"""Training, validation and test parts of the data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from flowebm.refusal import Refused


class Split(NamedTuple):
    """Disjoint parts of the rows, each in random order.

    Attributes:
        train: What parameters are fitted to.
        validation: What decides when to stop.
        test: What nothing was decided on.
    """

    train: Float[np.ndarray, "n_train ..."]
    validation: Float[np.ndarray, "n_validation ..."]
    test: Float[np.ndarray, "n_test ..."]


def split(
    key: PRNGKeyArray | int,
    X: Float[np.ndarray, "n ..."],
    validation_fraction: float,
    test_fraction: float = 0.0,
) -> Split:
    """Split rows at random into three parts; the same key gives the same parts.

    Args:
        key: A JAX key, or an integer seed.
        X: The points, shape `(n, *shape)`.
        validation_fraction: Share of the rows kept for validation; 0 keeps none.
        test_fraction: Share of the rows kept for testing; 0 keeps none.

    Returns:
        The parts; validation and test have the nearest whole number of rows to their share.

    Raises:
        ValueError: If a fraction is negative, or a part that was asked for would be empty.
    """
    X = np.asarray(X)
    n = len(X)
    sizes = {}
    for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
        if not 0 <= fraction < 1:
            raise Refused(f"{name}_fraction must be at least 0 and under 1; got {fraction}.")
        sizes[name] = round(n * fraction)
        if fraction > 0 and sizes[name] == 0:
            raise Refused(
                f"{name}_fraction={fraction} of {n} rows is an empty {name} part: give more rows "
                "or a larger fraction."
            )
    held_out = sizes["validation"] + sizes["test"]
    if held_out >= n:
        raise Refused(
            f"validation_fraction={validation_fraction} and test_fraction={test_fraction} leave "
            f"no row of {n} to train on: give more rows or smaller fractions."
        )
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        key = jax.random.key(key)
    rows = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel()).permutation(n)
    validation, test, train = np.split(rows, [sizes["validation"], held_out])
    return Split(X[train], X[validation], X[test])
