"""A numpyro model as a log-density to sample."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from flowebm.refusal import Refused

#: Draws of the prior.
N_PRIOR = 1000


class NumpyroDensity(NamedTuple):
    r"""The posterior of a numpyro model in unconstrained coordinates.

    Attributes:
        log_density: The joint log-density of latent sites and data, nats, of a dictionary of
            unconstrained latent sites; the Jacobian of their constraints is part of it, and
            its $\log Z$ is the log-evidence.
        initial: A point where it is finite.
        prior: Draws of the prior in the same coordinates, leaves with a leading axis: something
            to start from, as `StartPoints(density.prior)`. `None` where the prior cannot be drawn
            from.
        constrain: Maps draws, leaves with leading axes `(chains, draws)`, to the model's sites:
            latent ones in their own space, and deterministic ones.
    """

    log_density: Callable[[dict[str, Array]], Scalar]
    initial: dict[str, Array]
    prior: dict[str, Array] | None
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

    prior = _prior(key, model, args, kwargs, info.param_info.z)
    constrain = jax.vmap(jax.vmap(info.postprocess_fn))
    return NumpyroDensity(log_density, info.param_info.z, prior, constrain)


def _prior(key, model, args, kwargs, latent) -> dict[str, Array] | None:
    from numpyro.infer import Predictive
    from numpyro.infer.util import unconstrain_fn

    try:
        drawn = Predictive(model, num_samples=N_PRIOR)(key, *args, **kwargs)
        sites = {name: drawn[name] for name in latent}
        prior = jax.vmap(lambda site: unconstrain_fn(model, args, kwargs, site))(sites)
    # numpyro has no one class for priors without a sampler, such as improper ones.
    except (NotImplementedError, KeyError, ValueError, AttributeError):
        return None
    finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf.reshape(N_PRIOR, -1)).all(axis=1), prior)
    keep = jnp.stack(jax.tree.leaves(finite)).all(axis=0)
    return jax.tree.map(lambda leaf: leaf[keep], prior) if bool(keep.any()) else None
