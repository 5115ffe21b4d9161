"""The choices of joint training."""

from dataclasses import dataclass
from typing import Annotated

from flowebm.options import Count, Fraction, NotNegative, Positive, Range, check_options

#: A whole number that may be zero.
AnyCount = Annotated[int, Range(least=0)]


@dataclass(frozen=True)
class JointOptions:
    """Choices of joint training; `docs/tried.md` says what the defaults were chosen on.

    Attributes:
        most_gaussians: Components of a mixture of Gaussians at most.
        most_networks: Autoregressive networks at most, each with another order of the columns;
            the next one is trained only where the last has gained `worthwhile`.
        worthwhile: Nats of validation likelihood that a network must gain for another to follow.
        network_rows: Training rows from which there are networks.
        network_least_columns: Columns from which there are networks: of fewer, mixtures and an
            energy tell more.
        network_columns: Columns up to which there are networks.
        network_width: Units of a network's hidden layer.
        network_blocks: Residual blocks of two layers in a network.
        network_components: Components of each conditional mixture; by default 60 over the number of
            columns, but 10 to 30.
        dropout: Share of hidden units that are left out of a training step.
        epochs: Passes over the training rows, but `least_steps` to `most_steps` iterations.
        least_steps: Iterations of a network at least, where rows are few.
        most_steps: Iterations of a network at most, where rows are many.
        network_learning_rate: Adam's learning rate at its height; it falls along a cosine.
        network_weight_decay: Decoupled weight decay of a network.
        network_batch_size: Rows of a network's minibatch.
        image_epochs: Passes over the pixels of the training images, where points are images of
            whole-number pixels.
        image_steps: Iterations of each scale at least, but no more than 60 passes.
        image_most_steps: Iterations of each scale at most, where images are many.
        image_latent_classes: Latent classes of images, at most: clusters of their coarsest scale.
        image_pixels: Pixels of an image in a minibatch, at most.
        image_batch_pixels: Pixels of all its images.
        image_learning_rate: Adam's learning rate at its height, of a network of images.
        image_dropout: Share of hidden units that are left out of a training step of theirs.
        settled_gaussians: Gaussians up to which a mixture that is the best, and gains nothing by
            twice as many, is taken for the density: energies and tilts are then not tried, nor
            networks in less than ten times `network_rows`. At most 4 have an effect; 0 for never.
        pursuit_columns: Columns from which a mixture is looked for along the directions that are
            least Gaussian, before any of all columns.
        subspace_columns: Columns from which an active subspace is looked for.
        energy_columns: Columns up to which an energy that tilts the Gaussian is tried, with the
            stack as its proposal, instead of a tilt of the stack.
        energy_bound: Bound of its log-ratio to the stack, in nats.
        first_bound: Bound of the tilt, in nats.
        second_bound: The bound that is tried next where the tilt reaches the first.
        tilt_steps: Iterations of a tilt; no tilt at 0.
        n_draws: Draws of the stack that train a tilt, half of them where columns are many, and as
            many that measure log Z.
        n_chains: Draws of the model that a result holds.
        learning_rate: Learning rate of the tilt at its height.
        weight_decay: Decoupled weight decay of the tilt.
        batch_size: Rows, and draws, of an iteration of the tilt.
    """

    most_gaussians: Count = 128
    most_networks: AnyCount = 3
    worthwhile: NotNegative = 0.02
    network_rows: Count = 300
    network_least_columns: Count = 3
    network_columns: Count = 128
    network_width: Count = 256
    network_blocks: Count = 2
    network_components: Count | None = None
    dropout: Fraction = 0.2
    epochs: Count = 24
    least_steps: Count = 600
    most_steps: Count = 4000
    network_learning_rate: Positive = 8e-3
    network_weight_decay: NotNegative = 0.1
    network_batch_size: Count = 256
    image_epochs: Positive = 4.0
    image_steps: Count = 4000
    image_most_steps: Count = 8000
    image_latent_classes: Count = 32
    image_pixels: Count = 32
    image_batch_pixels: Count = 4096
    image_learning_rate: Positive = 3e-3
    image_dropout: Fraction = 0.1
    settled_gaussians: AnyCount = 4
    pursuit_columns: Count = 24
    subspace_columns: Count = 8
    energy_columns: AnyCount = 3
    energy_bound: Positive = 3.0
    first_bound: Positive = 1.0
    second_bound: Positive = 3.0
    tilt_steps: AnyCount = 1000
    n_draws: Count = 1 << 16
    n_chains: Count = 1024
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.02
    batch_size: Count = 1024

    def __post_init__(self):
        check_options(self)

    def components_of(self, columns: int) -> int:
        """Components of each conditional mixture of so many columns."""
        if self.network_components is not None:
            return self.network_components
        return min(max(60 // columns, 10), 30)

    def network_steps(self, n_rows: int) -> int:
        """Iterations of a network's training on so many rows."""
        steps = self.epochs * n_rows // min(self.network_batch_size, n_rows)
        return min(max(steps, self.least_steps), self.most_steps)
