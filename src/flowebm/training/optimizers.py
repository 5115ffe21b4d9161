"""The optimizers of fits, each made once: the same object finds the programs made for it."""

from functools import cache

import optax


@cache
def clipped_adam(max_norm: float, learning_rate: float) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's norm.

    Args:
        max_norm: The norm that gradients are clipped to.
        learning_rate: The learning rate, to which a trainer's schedule is a factor.

    Returns:
        The same object for the same numbers.

    Source: Kingma, Ba (2015), *Adam*; Pascanu, Mikolov, Bengio (2013), *On the difficulty of
    training recurrent neural networks*, for the clip.
    """
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


@cache
def clipped_adamw(
    max_norm: float, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay behind a clip of the gradient's norm.

    Args:
        max_norm: The norm that gradients are clipped to.
        learning_rate: The learning rate, to which a trainer's schedule is a factor.
        weight_decay: Share of a parameter that a step takes off, in units of the learning rate.

    Returns:
        The same object for the same numbers.

    Source: Loshchilov and Hutter (2019), *Decoupled weight decay regularization*.
    """
    return optax.chain(
        optax.clip_by_global_norm(max_norm), optax.adamw(learning_rate, weight_decay=weight_decay)
    )
