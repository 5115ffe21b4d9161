"""A numpyro model as a log-density to sample."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from flowebm.refusal import Refused


class NumpyroDensity(NamedTuple):
    r"""The posterior of a numpyro model in unconstrained coordinates.

    Attributes:
        log_density: The joint log-density of latent sites and data, nats, of a dictionary of
            unconstrained latent sites; the Jacobian of their constraints is part of it, and
            its $\log Z$ is the log-evidence.
        initial: A point where it is finite.
        constrain: Maps draws, leaves with leading axes `(chains, draws)`, to the model's sites:
            latent ones in their own space, and deterministic ones.
    """

    log_density: Callable[[dict[str, Array]], Scalar]
    initial: dict[str, Array]
    constrain: Callable[[PyTree[Array]], dict[str, Array]]


def numpyro_density(
    key: PRNGKeyArray, model: Callable[..., Any], *args: Any, **kwargs: Any
) -> NumpyroDensity:
    """Make the posterior of a numpyro model ready for `flowebm.sample`.

    Args:
        key: Random key of the initial point.
        model: A numpyro model of continuous latent sites.
        args: What the model is called with, data included.
        kwargs: What the model is called with by name.

    Returns:
        The log-density, an initial point and the way back to the model's sites.

    Raises:
        ImportError: If numpyro is not installed.
        ValueError: If the model has no continuous latent sites.
        RuntimeError: By numpyro, if it finds no valid initial point.
    """
    try:
        from numpyro.infer.util import initialize_model
    except ImportError as error:
        raise ImportError("numpyro is not installed: pip install 'flowebm[numpyro]'.") from error
    info = initialize_model(key, model, model_args=args, model_kwargs=kwargs)
    if not info.param_info.z:
        raise Refused("The numpyro model has no continuous latent sites to sample.")

    def log_density(sites):
        return -info.potential_fn(sites)

    return NumpyroDensity(log_density, info.param_info.z, jax.vmap(jax.vmap(info.postprocess_fn)))
