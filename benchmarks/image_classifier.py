"""A convolutional classifier of small images, which judges what class a model's samples are of."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from scipy.optimize import nnls


class Classifier(eqx.Module):
    """Three convolutions of stride two and a linear map to the classes' logits."""

    convolutions: tuple[eqx.nn.Conv2d, ...]
    readout: eqx.nn.Linear

    def __init__(self, shape: tuple[int, int, int], classes: int, key: jax.Array):
        keys, sizes = jr.split(key, 4), (shape[0], 24, 48, 64)
        kernels = (5, 3, 3)
        self.convolutions = tuple(
            eqx.nn.Conv2d(sizes[i], sizes[i + 1], n, stride=2, padding=n // 2, key=keys[i])
            for i, n in enumerate(kernels)
        )
        sides = [-(-side // 8) for side in shape[1:]]
        self.readout = eqx.nn.Linear(64 * sides[0] * sides[1], classes, key=keys[3])

    def __call__(self, image, key=None):
        for convolution in self.convolutions:
            image = jax.nn.relu(convolution(image))
        hidden = image.ravel()
        if key is not None:
            hidden = 2 * hidden * jr.bernoulli(key, 0.5, hidden.shape)
        return self.readout(hidden)


def fit(images, labels, *, seed: int = 0, steps: int = 2_500, batch: int = 128) -> Classifier:
    """A classifier trained on images in [0, 1], moved, turned and stretched a little.

    Args:
        images: Of shape `(n, channels, height, width)`.
        labels: Whole numbers from 0.
        seed: Seed.
        steps: Iterations.
        batch: Images of a minibatch.
    """
    shape = images.shape[1:]
    network = Classifier(shape, int(labels.max()) + 1, jr.key(seed))
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-3)
    state = optimizer.init(eqx.filter(network, eqx.is_array))
    axes = [jnp.arange(float(side)) - (side - 1) / 2 for side in shape[1:]]
    grid, middle = jnp.stack(jnp.meshgrid(*axes, indexing="ij")), jnp.asarray(shape[1:]) / 2 - 0.5
    images, labels = jnp.asarray(images, float), jnp.asarray(labels)

    def moved(image, key):
        turn_key, shift_key = jr.split(key)
        turn = jnp.eye(2) + 0.08 * jr.normal(turn_key, (2, 2))
        at = jnp.einsum("ij,jhw->ihw", turn, grid) + middle[:, None, None]
        at = at + jr.uniform(shift_key, (2, 1, 1), minval=-2, maxval=2)
        sample = jax.scipy.ndimage.map_coordinates
        return jnp.stack([sample(channel, at, order=1, mode="nearest") for channel in image])

    @eqx.filter_jit
    def step(network, state, key):
        row_key, move_key, drop_key = jr.split(key, 3)
        rows = jr.randint(row_key, (batch,), 0, len(images))
        points = jax.vmap(moved)(images[rows], jr.split(move_key, batch))

        def loss(network):
            logits = jax.vmap(network)(points, jr.split(drop_key, batch))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        gradient = eqx.filter_grad(loss)(network)
        updates, state = optimizer.update(gradient, state, eqx.filter(network, eqx.is_array))
        return eqx.apply_updates(network, updates), state

    for i in range(steps):
        network, state = step(network, state, jr.fold_in(jr.key(seed), i))
    return network


def probabilities(network: Classifier, images) -> np.ndarray:
    """Of the classes, for each image in [0, 1]."""

    @eqx.filter_jit
    def some(network, images):
        return jax.nn.softmax(jax.vmap(network)(images))

    parts = [
        np.asarray(some(network, jnp.asarray(images[i : i + 1000], float)))
        for i in range(0, len(images), 1000)
    ]
    return np.concatenate(parts)


def corrected_shares(of_samples, of_rows, labels, *, seed: int = 0, resamplings: int = 200):
    """Shares of the classes among samples, whatever the classifier confuses, and their errors.

    The shares that explain the mean probabilities of the samples by those of rows of each class
    that the classifier has not seen (Lipton, Wang and Smola, 2018).

    Args:
        of_samples: Probabilities of samples.
        of_rows: Probabilities of labelled rows.
        labels: The rows' classes.
        seed: Seed of the resamplings that tell the errors.
        resamplings: How many.
    """
    classes = of_rows.shape[1]
    is_of = (labels == np.arange(classes)[:, None]).astype(float)

    def explained(row_weights, sample_weights):
        confusion = (is_of * row_weights) @ of_rows / (is_of @ row_weights)[:, None]
        mean = sample_weights @ of_samples / sample_weights.sum()
        matrix = np.vstack([confusion.T, np.full(classes, 1e3)])
        found, _ = nnls(matrix, np.append(mean, 1e3))
        return found / found.sum()

    rng = np.random.default_rng(seed)
    others = [
        explained(rng.exponential(size=len(of_rows)), rng.exponential(size=len(of_samples)))
        for _ in range(resamplings)
    ]
    return explained(np.ones(len(of_rows)), np.ones(len(of_samples))), np.std(others, axis=0)
