"""`fit_ebflow`: an energy-based flow from points, without a determinant in its steps."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from flowjax.bijections import AbstractBijection, Chain
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real, Scalar

from flowebm.compiled_programs import free_programs_if_many
from flowebm.data.dequantise import dequantise
from flowebm.data.split import split
from flowebm.evaluation.log_partition import LogPartition
from flowebm.layers.bijection import LayerBijection
from flowebm.layers.conv2d import Conv2d
from flowebm.layers.full_linear import FullLinear
from flowebm.layers.preprocessing import Preprocessing
from flowebm.layers.whitening import Whitening
from flowebm.models.ebflow import EBFlow
from flowebm.objectives import Objective, dsm, exact, fdssm, ml, sml, ssm
from flowebm.options import Count, Fraction, NotNegative, Positive, Range, check_options
from flowebm.refusal import Refused
from flowebm.training.budget import Budget
from flowebm.training.driver import Callbacks, StoppingCriteria, drive
from flowebm.training.objective import ObjectiveTrainer
from flowebm.training.result import FitResult, collect_warnings
from flowebm.training.row_weights import RowWeights, draw_rows

#: Training points that act-norms start from, and whose exact NLL is reported.
N_INITIAL = 512

#: Training points that a whitening starts from, and their entries, at most. Where data are made
#: continuous by noise each point counts several times with noise of its own: the covariance of
#: pixels that nearly always are zero is that of the noise.
N_WHITENING, WHITENING_ENTRIES = 1 << 15, 1 << 25

#: Share of a time budget that is kept for the fitted model's determinants.
AFTER = 0.1

#: Rows of a matrix up to which a step of `ml` takes about as long as one of `ssm`
#: (`benchmarks/ebflow_scaling.py`), and the layers whose determinants are of whole points.
CHEAP_DETERMINANTS, DEAR_LAYERS = 256, (FullLinear, Conv2d)

#: What can be minimised.
ObjectiveName = Literal["auto", "ml", "sml", "exact", "ssm", "dsm", "fdssm"]


@dataclass(frozen=True)
class EBFlowOptions:
    r"""Choices of `fit_ebflow`.

    Attributes:
        objective: What is minimised, where no function is given: `ml`, `sml`, `exact`, `ssm`,
            `dsm` or `fdssm`; `auto` is `ml`, which fits best, where no layer has a determinant of
            more than 256 rows, and `ssm` otherwise.
        n_slices: Directions that `ssm` draws for each point.
        sigma: Standard deviation of the noise of `dsm`, in the model's units.
        finite_difference: Length of the steps of `fdssm`, in the model's units.
        level_penalty: Weight of the mean energy of the data, which is added to any objective.
        optimizer: `adam`, or `rmsprop` as the published experiments have it.
        learning_rate: Its learning rate.
        schedule: `cosine`: warm-up and decay to zero over the run; or `constant`.
        epoch_decay: Factor on the learning rate after each epoch, as the published ones have.
        clip: Largest norm of a gradient.
        weight_decay: Decoupled weight decay.
        batch_size: Points of a minibatch.
        average_decay: Decay of the parameters' moving average, which is what is kept.
        match_after_preprocessing: Whether the objective sees the preprocessed points alone;
            otherwise the preprocessing's log-determinant is part of the energy that it sees.
        horizontal_flips: Whether every image is mirrored with probability one half.
        pixel_smoothness: $\tau$ of the logit that takes pixels to the line.
    """

    objective: ObjectiveName = "auto"
    n_slices: Count = 1
    sigma: Positive = 0.1
    finite_difference: Positive = 0.1
    level_penalty: NotNegative = 0.0

    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    epoch_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    clip: Positive = 10.0
    weight_decay: NotNegative = 0.0
    batch_size: Count = 256
    average_decay: Fraction = 0.999
    match_after_preprocessing: bool = True
    horizontal_flips: bool = False
    pixel_smoothness: Positive = 1.0

    def __post_init__(self):
        check_options(self)

    def make_objective(self, size: int) -> Objective:
        """The objective of these choices.

        Args:
            size: Rows of the largest matrix whose determinant `ml` would take.

        Returns:
            A function of a key, a model and a batch.
        """
        penalty = self.level_penalty
        objectives = {
            "ssm": lambda: ssm(self.n_slices, level_penalty=penalty),
            "dsm": lambda: dsm(self.sigma, level_penalty=penalty),
            "fdssm": lambda: fdssm(self.finite_difference, level_penalty=penalty),
            "exact": lambda: exact(penalty),
            "ml": lambda: ml(penalty),
            "sml": lambda: sml(penalty),
        }
        name = self.objective
        if name == "auto":
            name = "ml" if size <= CHEAP_DETERMINANTS else "ssm"
        return objectives[name]()


def fit_ebflow(
    key: PRNGKeyArray,
    model: EBFlow,
    data: Real[ArrayLike, "n *shape"],
    *,
    validation: Real[ArrayLike, "m *shape"] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    validation_weights: Float[ArrayLike, " m"] | None = None,
    objective: Objective | None = None,
    options: EBFlowOptions | None = None,
    preprocessing: AbstractBijection | None = None,
    noise: bool = False,
    max_steps: int = 2000,
    time_budget: float | Budget | None = None,
    patience: int | None = None,
    block_length: int = 50,
    callbacks: Callbacks | None = None,
) -> FitResult:
    r"""Fit an energy-based flow by score matching, or by any objective that it supports.

    The likelihood of the validation points is exact: after every block the determinants are
    computed once, and the model that is kept is chosen by it. With *match after
    preprocessing*, the objective sees $z = f(x)$ alone, and $\log|\det J_f(x)|$ is added in the
    reported NLL only, which is in the units of the data. A `Whitening` that the model begins with
    belongs to $f$ then: scores are matched in whitened coordinates.

    Args:
        key: Random key; with the inputs it determines the result on a given device, unless a
            time budget cuts in.
        model: The EBFlow to start from, over preprocessed points; its act-norms are started
            from data.
        data: Training points, one a row, in the preprocessing's units.
        validation: Points to stop and to choose by; a tenth of the data by default.
        weights: How much the training points count, in any unit; all alike by default.
        validation_weights: How much the validation points count; needed where both validation
            points and weights are given.
        objective: What is minimised; that of the options by default.
        options: Choices of the method.
        preprocessing: A bijection $f$ from data to the model's points, such as `LogitPixels`;
            none by default.
        noise: Whether the data are whole numbers (pixels) that are made continuous by uniform
            noise, drawn anew in every iteration.
        max_steps: Iterations at most.
        time_budget: Seconds at most, compilation included.
        patience: Evaluations without a better validation NLL before it stops.
        block_length: Iterations between evaluations.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The fitted model, over preprocessed points, as model and as sampler; its exact
        $\log Z$; and the history. There are no chains.

    Raises:
        ValueError: If shapes do not fit, or noise is asked for data that are not whole numbers.
        TypeError: If the model is no EBFlow, or does not support the objective.
        TrainingDiverged: If training diverges again and again.

    Source: Chao et al. (2023).
    """
    free_programs_if_many()
    budget = Budget.of(time_budget)
    options = options or EBFlowOptions()
    if not isinstance(model, EBFlow):
        raise TypeError(
            f"fit_ebflow fits an EBFlow, whose likelihood is known; got a {type(model).__name__}."
        )
    names = ("split", "validation noise", "initial", "train")
    keys = dict(zip(names, jr.split(key, len(names)), strict=True))
    if validation is None:
        train, held_out, _ = split(keys["split"], np.asarray(data), 0.1)
        if weights is not None:
            # The same key makes the same parts.
            weights, validation_weights, _ = split(keys["split"], np.asarray(weights), 0.1)
    else:
        train, held_out = np.asarray(data), np.asarray(validation)
    for points, whose in ((train, "data's"), (held_out, "validation")):
        if points.shape[1:] != model.shape:
            raise Refused(
                f"The {whose} points have shape {points.shape[1:]}, the model's {model.shape}: "
                "they must be the same."
            )
    row_weights = RowWeights.of(weights, validation_weights)
    if noise:
        seed = int(jr.randint(keys["validation noise"], (), 0, 2**31 - 1))
        held_out = dequantise(seed, held_out)
    held_out = jnp.asarray(held_out, float)
    after = options.match_after_preprocessing
    if preprocessing is not None and not after:
        model = EBFlow([Preprocessing(preprocessing), *model.layers], model.latent)
        preprocessing = None
    # Kept in their own type: pixels take a byte each.
    rows = jnp.asarray(train)
    initial_key, prepare_key = jr.split(keys["initial"])
    whitens = any(isinstance(layer, Whitening) for layer in model.layers)
    n_seen = min(N_WHITENING, WHITENING_ENTRIES // math.prod(model.shape)) if whitens else N_INITIAL
    if not (whitens and noise):
        n_seen = min(n_seen, len(train))
    # Draws of one point's noise stand together: a whitening holds out the first of the batch, and
    # held-out points are none that it has seen.
    in_turn = np.arange(n_seen) * len(train) // n_seen
    seen = jr.permutation(initial_key, len(train))[in_turn]
    seen = draw_rows(row_weights, jr.fold_in(initial_key, 2), seen)
    prepare = _Preparation(preprocessing, noise, options.horizontal_flips)
    points_seen = prepare(prepare_key, rows[seen])
    model = eqx.filter_jit(lambda m, x: m.initialized(x))(model, points_seen)
    points_seen = points_seen[:: max(1, n_seen // N_INITIAL)][:N_INITIAL]
    whitening = model.layers[0]
    if after and isinstance(whitening, Whitening):
        model = EBFlow(model.layers[1:], model.latent)
        whiten = LayerBijection(paramax.unwrap(whitening))
        points_seen = jax.vmap(whiten.transform)(points_seen)
        preprocessing = whiten if preprocessing is None else Chain([preprocessing, whiten])
        prepare = _Preparation(preprocessing, noise, options.horizontal_flips)
    else:
        whitening = None
    log_det, log_det_seen = jnp.zeros(held_out.shape[0]), jnp.zeros(points_seen.shape[0])
    if preprocessing is not None:
        held_out, log_det = jax.vmap(preprocessing.transform_and_log_det)(held_out)
        # That of the inverse, because the noise of these points is known to `prepare` alone.
        log_det_seen = -jax.vmap(preprocessing.inverse_and_log_det)(points_seen)[1]

    trainer = ObjectiveTrainer(
        model=model,
        data=rows,
        validation=held_out,
        validation_log_det=log_det,
        objective=objective or _objective(options, _largest_matrix(model)),
        optimizer=_optimizer(options),
        seen=(points_seen, log_det_seen),
        weights=row_weights,
        prepare=prepare,
        batch_size=min(options.batch_size, len(train)),
        average_decay=options.average_decay,
        schedule_name=options.schedule,
        epoch_decay=options.epoch_decay,
        stage="ebflow",
    )
    callbacks, sentences = collect_warnings(callbacks)
    # Determinants of the fitted model come after.
    part = budget.part(reserve=AFTER)
    stopping = StoppingCriteria(max_steps, part, patience, block_length)
    outcome = drive(keys["train"], trainer, stopping, callbacks)
    fitted = cast(EBFlow, trainer.with_params(outcome.state.best))
    if not after and isinstance(fitted.layers[0], Preprocessing):
        fitted = EBFlow(fitted.layers[1:], fitted.latent)
    if whitening is not None:
        fitted = EBFlow([whitening, *fitted.layers], fitted.latent)
    return FitResult(
        model=fitted,
        flow=fitted,
        log_partition=LogPartition.exact(float(eqx.filter_jit(_log_normalizer)(fitted))),
        chains=jnp.zeros((0, *fitted.shape)),
        history=outcome.history,
        stop_reason=outcome.stop_reason,
        warnings=tuple(sentences),
    )


def _largest_matrix(model: EBFlow) -> int:
    """Rows of the largest matrix among the layers whose determinant a likelihood takes."""

    def is_dear(node):
        return isinstance(node, DEAR_LAYERS)

    layers = filter(is_dear, jax.tree.leaves(model, is_leaf=is_dear))
    return max((math.prod(layer.shape) for layer in layers), default=1)


def _log_normalizer(model: EBFlow) -> Scalar:
    return model.log_normalizer()


class _Preparation(eqx.Module):
    """From rows of the data to points of the model, anew in every iteration."""

    preprocessing: AbstractBijection | None
    noise: bool = eqx.field(static=True)
    horizontal_flips: bool = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, rows: Array) -> Float[Array, "batch *shape"]:
        noise_key, flip_key = jr.split(key)
        points = rows.astype(float)
        if self.noise:
            points = points + jr.uniform(noise_key, points.shape)
        if self.horizontal_flips:
            flipped = jr.bernoulli(flip_key, shape=(points.shape[0],) + (1,) * (points.ndim - 1))
            points = jnp.where(flipped, points[..., ::-1], points)
        if self.preprocessing is not None:
            points = jax.vmap(self.preprocessing.transform)(points)
        return points


@cache
def _objective(options: EBFlowOptions, size: int) -> Objective:
    """The same object for the same choices: a second fit then finds the first one's programs."""
    return options.make_objective(size)


@cache
def _optimizer(options: EBFlowOptions) -> optax.GradientTransformation:
    is_adam = options.optimizer == "adam"
    adaptive = optax.scale_by_adam() if is_adam else optax.scale_by_rms(decay=0.99)
    return optax.chain(
        optax.clip_by_global_norm(options.clip),
        adaptive,
        optax.add_decayed_weights(options.weight_decay),
        optax.scale_by_learning_rate(options.learning_rate),
    )
