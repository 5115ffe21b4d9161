"""`fit_joint`: candidates by maximum likelihood, a stack of them, and a tilt of the stack."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import exp, inf, log, prod
from typing import Any, cast

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import paramax
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Scalar

from flowebm.compiled_programs import free_programs_if_many
from flowebm.data.logit_pixels import LogitPixels
from flowebm.evaluation.importance import bounded_log_mean_error
from flowebm.evaluation.log_partition import LogPartition
from flowebm.evaluation.relevance import Relevance, relevant_directions
from flowebm.models.bases import as_mixture
from flowebm.models.batches import in_batches, on_device
from flowebm.models.bounded import NoTilt, tilts
from flowebm.models.linear_change import LinearChange
from flowebm.models.marginals import Marginals, fit_marginals
from flowebm.models.random_start import seed_of
from flowebm.models.stack import draw
from flowebm.models.subspace import SubspaceDensity, SubspaceTilt
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import CircularTilt, MLPTilt, sharper
from flowebm.refusal import Refused
from flowebm.training.budget import Budget
from flowebm.training.candidate import Candidate, better_of, gain
from flowebm.training.driver import Callbacks, TrainingDiverged
from flowebm.training.fit_balanced import training_and_validation
from flowebm.training.joint_options import JointOptions
from flowebm.training.result import FitResult, collect_warnings
from flowebm.training.row_weights import RowWeights, rows_in_proportion
from flowebm.training.rows import Rows
from flowebm.training.stages.image import fit_image
from flowebm.training.stages.mixtures import fit_mixture, fit_scale_mixture
from flowebm.training.stages.network import behind, fit_network
from flowebm.training.stages.pursuit import pursue_mixture
from flowebm.training.stages.stacking import stack
from flowebm.training.stages.tilt import TiltFit, fit_tilt

#: Training points whose scores tell the directions of an active subspace.
N_DIRECTIONS = 4000

#: Gaussians up to which mixtures of the columns and of their transforms are compared.
FEW_GAUSSIANS = 8

#: How many times as many rows a network needs where a mixture of few Gaussians does best.
SETTLED = 10

#: How names of candidates begin that are densities of the active subspace.
SUBSPACE = "subspace"

#: How names of candidates begin that start from directions which are not Gaussian.
PURSUED = "pursued"

#: The name of the Gaussian of several scales.
HEAVY_TAILS = "heavy tails"

#: Rows times squared columns up to which mixtures of the columns are cheap.
CHEAP = 5_000_000

#: Share of validation points at nine tenths of the tilt's bound from which a wider bound is tried.
SATURATED = 0.01


@dataclass(frozen=True)
class JointFitResult(FitResult):
    r"""A `FitResult`, with what the stages found.

    Attributes:
        components: The stack: shares and names of its densities.
        candidates: Validation NLL of every candidate (nats), by name.
        active: Columns of the active subspace that densities are made of; `None` where all count.
        relevance: How far from Gaussian the data are, direction by direction; `None` where nobody
            looked.
        bound: $B$ of the tilt, nats; `None` where there is no tilt.
        hidden_mass: The most of the model's mass that a region without any draw can hold, with 95%
            confidence for a region chosen before the draws; 0 where there is no tilt.
        log_partition_bound: What log Z is off by at most, with 95% confidence whatever the tilt is
            (nats); 0 where there is none.
    """

    components: str = ""
    candidates: dict[str, float] = field(default_factory=dict)
    active: int | None = None
    relevance: Relevance | None = None
    bound: float | None = None
    hidden_mass: float = 0.0
    log_partition_bound: float = 0.0


def fit_joint(
    key: PRNGKeyArray,
    model: EnergyModel,
    data: Float[ArrayLike, "n *shape"],
    *,
    validation: Float[ArrayLike, "m *shape"] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    validation_weights: Float[ArrayLike, " m"] | None = None,
    redrawn: Sequence[Float[ArrayLike, "n *shape"]] = (),
    circular: tuple[bool, ...] | None = None,
    pixels: LogitPixels | None = None,
    options: JointOptions | None = None,
    max_steps: int | None = None,
    time_budget: float | Budget | None = None,
    callbacks: Callbacks | None = None,
) -> JointFitResult:
    r"""Fit an energy model in stages, each of which must gain on validation points.

    1. *Candidates*, by maximum likelihood: the model's base; a Gaussian of several scales, for
       heavy tails; mixtures of Gaussians by EM, of the columns and of their marginal transforms;
       where a few directions hold all that is not Gaussian (`relevant_directions`), a mixture of
       these alone, which of many columns comes first; autoregressive networks behind the marginal
       transforms, each with another order of the columns. Of images of whole-number pixels an
       autoregressive density of these alone.
    2. *A stack* of the candidates, in the posterior-mean shares of validation points.
    3. *A bounded tilt* of the stack, $p(x) \propto b(x) e^{-U(x)}$ with $|U| \le B$, by
       importance-weighted likelihood. The stack is its own proposal: importance weights lie in
       $[e^{-B}, e^B]$ for any network, and so does $Z$.

    Args:
        key: Random key; with the inputs it determines the result on a given device, unless a
            time budget cuts in.
        model: Its tilt is the network to tilt with, its base the first candidate; of standardised
            points.
        data: Training points, one a row.
        validation: Validation points; a tenth of the data by default.
        weights: How much the training points count, in any unit; all alike by default.
        validation_weights: How much the validation points count; needed where both validation
            points and weights are given.
        redrawn: The training points again, with other noise for what is not known of them (the
            place of a whole number in its unit, an entry that is missing); needs validation points.
        circular: Columns of period $2\pi$; none by default.
        pixels: The map from dequantised pixels to these points, where they are images of
            whole-number pixels; each then stands in the middle of its level.
        options: Choices of the method.
        max_steps: Iterations of any one training at most.
        time_budget: Seconds at most, for all stages; or a `Budget` that others share.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The fitted model, the stack as its proposal, $\log Z$ with its error, and what was found.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If the model is no `EnergyModel`.

    Source: Smyth and Wolpert (1999) for the stack; Bengio and Senécal (2003) for the
    importance-weighted likelihood; Zahm et al. (2022) for the directions.
    """
    if not isinstance(model, EnergyModel):
        raise TypeError(f"fit_joint fits an EnergyModel; got a {type(model).__name__}.")
    free_programs_if_many()
    options = options or JointOptions()
    callbacks, sentences = collect_warnings(callbacks)
    *parts, weights, validation_weights = training_and_validation(
        jr.fold_in(key, 0), model, data, validation, weights, validation_weights
    )
    others = tuple(np.asarray(points, parts[0].dtype) for points in redrawn)
    if any(points.shape != parts[0].shape for points in others):
        raise Refused("Points that are redrawn must be as many as the training points, in order.")
    rows = Rows(parts[0], parts[1], RowWeights.of(weights, validation_weights), others)
    fit = _Joint(key, rows, options, max_steps, Budget.of(time_budget), callbacks, circular, pixels)
    mixture = as_mixture(model.base) if len(rows.shape) == 1 else None
    gaussian = Candidate.of("Gaussian", mixture or model.base, rows)
    # On a circle there are only the networks, which are periodic, and of whole-number pixels those
    # that have probabilities.
    is_closed = not any(circular or ()) and pixels is None
    candidates = [gaussian, *fit.pursued()] if is_closed else [*fit.images()]
    relevance, active = fit.active_subspace(model.base, candidates)
    candidates += fit.of_subspace(relevance, active)
    if is_closed:
        if fit.mixtures_are_cheap or not fit.has_few_directions(candidates):
            candidates += fit.mixtures()
        if not fit.has_few_directions(candidates):
            relevance, active = fit.active_subspace(model.base, candidates)
            candidates += fit.of_subspace(relevance, active)
        candidates += fit.heavy_tails()
    candidates += fit.networks(candidates, relevance, active, range(1))
    candidates += fit.large_mixture(candidates)
    candidates += fit.networks(candidates, relevance, active, range(1, options.most_networks))
    if not candidates:
        raise TrainingDiverged(
            "The network of circular columns diverged, and nothing else is fitted on a circle: "
            "look for outliers among the other columns, or take the angles for real numbers."
        )
    base = stack(fit.seed("stack"), candidates, rows)
    tilt = model.tilt
    if active is not None and relevance is not None and isinstance(tilt, MLPTilt):
        tilt = SubspaceTilt.of(tilt, relevance.change, active, key=fit.key("tilt"))
    elif circular is not None and any(circular) and isinstance(tilt, MLPTilt):
        tilt = CircularTilt.of(tilt, circular, key=fit.key("tilt"))
    # An image's samples would cost five times as much for a thousandth of its likelihood.
    is_settled = fit.is_settled(candidates) or pixels is not None
    tilted = None if is_settled else fit.tilt(tilt, base, gaussian, active or prod(rows.shape))
    return fit.result(base, tilted, candidates, relevance, active, sentences)


class _Joint:
    r"""The stages of one fit, with what they share.

    Args:
        key: Random key.
        rows: The rows.
        options: Choices of the method.
        max_steps: Iterations of any one training at most.
        budget: The seconds that there are.
        callbacks: Progress, metrics and checkpoints.
        circular: Columns of period $2\pi$.
        pixels: The map from dequantised pixels to the points, where these are such images.
    """

    def __init__(
        self,
        key: PRNGKeyArray,
        rows: Rows,
        options: JointOptions,
        max_steps: int | None,
        budget: Budget,
        callbacks: Callbacks,
        circular: tuple[bool, ...] | None,
        pixels: LogitPixels | None,
    ):
        self.root, self.rows, self.options, self.callbacks = key, rows, options, callbacks
        self.max_steps, self.budget, self.circular = max_steps, budget, circular
        self.pixels = pixels
        self.points = rows.in_proportion()
        self.marginals = fit_marginals(self.points, circular) if self.are_columns else None

    @property
    def are_columns(self) -> bool:
        """Whether a point is a vector of so few columns that each can have a say of its own."""
        return len(self.rows.shape) == 1 and self.rows.shape[0] <= self.options.network_columns

    @property
    def mixtures_are_cheap(self) -> bool:
        """Whether mixtures of the columns take seconds only, whatever few directions have shown."""
        return len(self.points) * prod(self.rows.shape) ** 2 <= CHEAP

    def key(self, stage: str) -> PRNGKeyArray:
        """The key of a stage, whatever stages there are beside it."""
        return jr.fold_in(self.root, zlib.crc32(stage.encode()))

    def seed(self, stage: str) -> int:
        """The seed of a stage that NumPy computes."""
        return seed_of(self.key(stage))

    def pursued(self) -> Iterator[Candidate]:
        """Of many columns, a mixture that starts from the few directions that are not Gaussian."""
        d = prod(self.rows.shape)
        if (
            len(self.rows.shape) > 1
            or d < self.options.pursuit_columns
            or len(self.points) < 10 * d
            or self.budget.is_spent(reserve=0.6)
        ):
            return
        held_out = np.asarray(self.rows.validation, np.float64)
        if self.rows.weights is not None:
            held_out = held_out[rows_in_proportion(self.rows.weights.validation)]
        fitted = pursue_mixture(self.seed("pursuit"), self.points, held_out)
        if fitted is not None:
            name = f"{PURSUED} mixture of {fitted.n_components}"
            yield Candidate.of(name, fitted, self.rows)

    def heavy_tails(self) -> Iterator[Candidate]:
        """A Gaussian with the tails of the columns."""
        if self.are_columns and not self.budget.is_spent(reserve=0.5):
            weights = None if self.rows.weights is None else self.rows.weights.train
            points = np.asarray(self.rows.train, np.float64)
            yield Candidate.of(HEAVY_TAILS, fit_scale_mixture(points, weights), self.rows)

    def mixtures(self) -> Iterator[Candidate]:
        """Mixtures of few Gaussians, of the columns and of their marginal transforms."""
        if self.are_columns:
            for name, space in self._spaces().items():
                yield from self._mixture(name, *space, most=FEW_GAUSSIANS)

    def large_mixture(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """A mixture of many Gaussians, where that may come up to what else there is."""
        few = [c for c in candidates if c.name.startswith("mixture")]
        if not few:
            return
        best = self.best(few)
        name, _, components = best.name.rpartition(" of ")
        # Twice as many as half of them were tried, and gained nothing.
        if int(components) > FEW_GAUSSIANS // 2:
            gap = self.nll(best) - min(map(self.nll, candidates))
            larger = self._mixture(name, *self._spaces()[name], least=FEW_GAUSSIANS, gap=gap)
            known = {candidate.name for candidate in candidates}
            yield from (candidate for candidate in larger if candidate.name not in known)

    def is_settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether a mixture of few Gaussians is the best, and twice as many would gain nothing.

        What these do not find is no shape that a network would find in few rows, nor an energy in
        many.
        """
        # Heavy tails leave that to the others.
        others = [candidate for candidate in candidates if candidate.name != HEAVY_TAILS]
        if not others or "mixture" not in self.best(others).name:
            return False
        components = int(self.best(others).name.rpartition(" of ")[2])
        most = min(FEW_GAUSSIANS, self.options.most_gaussians) // 2
        return components <= min(self.options.settled_gaussians, most)

    def has_few_directions(self, candidates: Sequence[Candidate]) -> bool:
        """Whether the best candidate is one of a few directions that are not Gaussian."""
        return self.best(candidates).name.startswith((SUBSPACE, PURSUED))

    def _spaces(self) -> dict[str, tuple]:
        """What mixtures are of: training and validation points, and the way back to columns."""
        rows, marginals = self.rows, cast(Marginals, self.marginals)
        return {
            "mixture": (rows.train, rows.validation, None),
            "mixture of transforms": (
                *(marginals.transform_rows(x)[0] for x in (rows.train, rows.validation)),
                lambda density: behind(density, marginals),
            ),
        }

    def _mixture(
        self,
        name: str,
        points: ArrayLike,
        validation: ArrayLike,
        wrap: Callable[[AbstractDistribution], AbstractDistribution] | None,
        *,
        least: int = 1,
        most: int | None = None,
        gap: float = -inf,
    ) -> Iterator[Candidate]:
        """A mixture of `least` to `most` Gaussians, if there is time."""
        most = min(most or self.options.most_gaussians, self.options.most_gaussians)
        reserve = 0.6 if least == 1 else 0.4
        if self.budget.is_spent(reserve=reserve) or least > most:
            return
        weights = self.rows.weights
        fitted = fit_mixture(
            self.seed(name),
            np.asarray(points, np.float64),
            np.asarray(validation, np.float64),
            weights=None if weights is None else weights.train,
            validation_weights=None if weights is None else np.asarray(weights.validation),
            least_components=least,
            most_components=most,
            gap=gap,
            out_of_time=lambda: self.budget.is_spent(reserve=reserve),
        )
        density = fitted if wrap is None else wrap(fitted)
        yield Candidate.of(f"{name} of {fitted.n_components}", density, self.rows)

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """The candidate of the lowest validation NLL."""
        return min(candidates, key=self.nll)

    def nll(self, candidate: Candidate) -> float:
        """A candidate's NLL of validation points, nats."""
        return -float(self.rows.mean(candidate.log_prob).value)

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """What the history has of a candidate that EM has fitted."""
        nll, seconds = self.nll(candidate), round(self.budget.used(), 3)
        return {"stage": candidate.name, "iteration": 0, "seconds": seconds, "nll": nll}

    def active_subspace(
        self, gaussian: AbstractDistribution, candidates: Sequence[Candidate]
    ) -> tuple[Relevance | None, int | None]:
        """The directions along which the best candidate, rightly, is not Gaussian, if few are."""
        d = prod(self.rows.shape)
        if (
            d < self.options.subspace_columns
            or self.budget.is_spent(reserve=0.5)
            or len(candidates) < 2
        ):
            return None, None
        if any(self.circular or ()):
            return None, None
        rows_key, noise_key = jr.split(self.key("subspace"))
        held_out = self.rows.validation
        if self.rows.weights is not None:
            held_out = held_out[rows_in_proportion(self.rows.weights.validation)]
        chosen = np.random.default_rng(seed_of(rows_key)).permutation(len(self.points))
        relevance = relevant_directions(
            noise_key,
            self.best(candidates).density.log_prob,
            cast(Transformed, gaussian),
            on_device(self.points[chosen[:N_DIRECTIONS]].reshape(-1, *self.rows.shape)),
            on_device(held_out),
        )
        active = max(1, int(relevance.n_relevant))
        return relevance, active if active <= d // 2 else None

    def of_subspace(self, relevance: Relevance | None, active: int | None) -> Iterator[Candidate]:
        """A mixture of Gaussians of the active subspace, with a Gaussian of the rest."""
        if relevance is None or active is None:
            return
        turn = _turn(relevance.change, active)
        yield from self._mixture(
            f"{SUBSPACE} mixture",
            turn(self.rows.train),
            turn(self.rows.validation),
            lambda density: SubspaceDensity(density, relevance.change),
        )

    def images(self) -> Iterator[Candidate]:
        """An autoregressive density of the pixels, where points are images of whole numbers."""
        if self.pixels is not None:
            yield fit_image(
                self.key("pixels"),
                self.rows,
                self.pixels,
                options=self.options,
                max_steps=self.max_steps,
                time_budget=self.budget.part(0.95),
                callbacks=self.callbacks,
            )

    def networks(
        self,
        candidates: Sequence[Candidate],
        relevance: Relevance | None,
        active: int | None,
        numbers: range,
    ) -> Iterator[Candidate]:
        """Autoregressive networks of the columns, while the last has gained enough for the stack.

        Of the active subspace's coordinates alone, where a mixture of these is the best so far.
        """
        options, rows, marginals = self.options, self.rows, self.marginals
        # Nothing else is fitted on a circle, however few rows and columns are.
        least = options.network_rows * (SETTLED if self.is_settled(candidates) else 1)
        is_worth_it = not candidates or (
            len(rows.train) >= least and (active or rows.shape[0]) >= options.network_least_columns
        )
        if not self.are_columns or not is_worth_it:
            return
        change = None
        is_subspace_best = bool(candidates) and self.best(candidates).name.startswith(SUBSPACE)
        if relevance is not None and active is not None and is_subspace_best:
            change = relevance.change
            rows = rows.mapped(_turn(change, active))
            marginals = fit_marginals(rows.in_proportion())
        found = list(candidates)
        for number in numbers if found else range(1):
            name = f"network-{number + 1}"
            # Of few columns an energy is worth more than a second network.
            is_few = number > 0 and (active or rows.shape[0]) <= options.energy_columns
            if found and self.budget.is_spent(reserve=0.5 if is_few else 0.2):
                return
            if number > 0 and not self._is_worthwhile(f"network-{number}", found):
                return
            with suppress(TrainingDiverged):
                network = fit_network(
                    self.key(name),
                    rows,
                    _order(number, rows.shape[0]),
                    cast(Marginals, marginals),
                    options=options,
                    circular=self.circular,
                    max_steps=self.max_steps,
                    time_budget=self.budget.part(0.3 if number == 0 else 0.2),
                    stage=name,
                    callbacks=self.callbacks,
                )
                if change is not None:
                    density = SubspaceDensity(network.density, change)
                    network = Candidate.of(name, density, self.rows, network.history)
                yield network
                found.append(network)
            if rows.shape[0] == 1:
                return

    def _is_worthwhile(self, name: str, candidates: Sequence[Candidate]) -> bool:
        """Whether a candidate has gained enough for the stack that another like it may follow."""
        others = [candidate for candidate in candidates if candidate.name != name]
        if len(others) in (0, len(candidates)):
            return not others
        with_it, without = (
            stack(self.seed("stack"), list(some), self.rows) for some in (candidates, others)
        )
        return gain(with_it, without, self.rows)[0] >= self.options.worthwhile

    def tilt(
        self, network: Callable[[Array], Scalar], base: Candidate, gaussian: Candidate, columns: int
    ) -> TiltFit | None:
        """The tilt of the base that gains on validation points; none if no tilt does.

        Args:
            network: The network, zero everywhere.
            base: The stack.
            gaussian: The Gaussian, which an energy of few columns tilts.
            columns: Those that the network sees.
        """
        options, best = self.options, None
        if not options.tilt_steps or len(self.rows.train) < options.network_rows:
            return None
        # What many columns cost more to draw, they have less use for.
        n, draws = options.n_draws // (1 if columns <= options.energy_columns else 2), None
        is_few = columns <= options.energy_columns and not any(self.circular or ())
        tries = [("energy", options.energy_bound, gaussian)]
        if not is_few:
            bounds = options.first_bound, options.second_bound
            tries = [(f"tilt-{bound:g}", bound, None) for bound in bounds]
        for stage, bound, reference in tries:
            if self.budget.is_spent(reserve=0.05):
                break
            if draws is None:
                draws = draw(self.key("draws"), base.density, n)
            steps = options.tilt_steps * (1 if reference is None else 2)
            with suppress(TrainingDiverged):
                tilted = fit_tilt(
                    self.key(stage),
                    network if reference is None else sharper(network, columns),
                    base,
                    draws,
                    self.rows,
                    bound=bound,
                    reference=reference,
                    learning_rate=options.learning_rate * (1 if reference is None else 3),
                    weight_decay=options.weight_decay,
                    batch_size=options.batch_size,
                    max_steps=steps if self.max_steps is None else min(steps, self.max_steps),
                    time_budget=self.budget.part(0.2 if reference is None else 0.6),
                    stage=stage,
                    callbacks=self.callbacks,
                )
                simple = base if best is None else best.candidate
                if better_of(simple, tilted.candidate, self.rows) is tilted.candidate:
                    best = tilted
                if tilted.saturated < SATURATED:
                    break
        return best

    def result(
        self,
        base: Candidate,
        tilted: TiltFit | None,
        candidates: Sequence[Candidate],
        relevance: Relevance | None,
        active: int | None,
        sentences: list[str],
    ) -> JointFitResult:
        r"""The fit with $\log Z$ from draws that had no part in it."""
        # What EM fits has no blocks: a row tells how good it came out.
        history = [row for c in candidates for row in c.history or (self.row(c),)]
        options, log_z, bound = self.options, LogPartition.exact(0.0), None
        hidden_mass = log_z_bound = 0.0
        tilt: Callable[[Array], Scalar] = NoTilt()
        if tilted is None:
            # Draws of the stack are such chains: whoever wants some makes them.
            chains = np.empty((0, *self.rows.shape))
        else:
            tilt, history = tilted.tilt, history + list(tilted.candidate.history)
            bound = float(tilted.tilt.bound.tree)
            # Draws that nothing was fitted or chosen with.
            unseen = draw(self.key("unseen"), base.density, options.n_draws)
            log_weights = -tilts(tilt, unseen)
            log_z = LogPartition.from_log_weights(on_device(log_weights))
            log_z_bound = bounded_log_mean_error(log_weights, bound)
            hidden_mass = min(1.0, exp(2 * bound) * log(20) / len(unseen))
            # Exact draws of the model, by rejection.
            uniforms = np.random.default_rng(self.seed("chains")).random(len(log_weights))
            chains = np.asarray(unseen)[np.log(uniforms) < log_weights - bound]
        density = paramax.non_trainable(base.density)
        return JointFitResult(
            # Frozen in both places: the proposal is the base itself.
            model=EnergyModel(tilt, density),
            flow=density,
            log_partition=log_z,
            chains=on_device(chains[: options.n_chains]),
            history=history,
            stop_reason="all stages done" if not self.budget.is_spent() else "time budget spent",
            warnings=tuple(sentences),
            components=base.name,
            candidates={c.name: self.nll(c) for c in candidates},
            active=active,
            relevance=relevance,
            bound=bound,
            hidden_mass=hidden_mass,
            log_partition_bound=log_z_bound,
        )


def _order(number: int, d: int) -> Int[np.ndarray, " d"]:
    """Ranks of the columns: as they are, the other way round, then at random."""
    if number < 2:
        return np.arange(d) if number == 0 else np.arange(d)[::-1].copy()
    return np.random.default_rng(number).permutation(d)


def _turn(change: LinearChange, k: int) -> Callable[[ArrayLike], np.ndarray]:
    """The first coordinates of points, one a row, under the change."""
    return partial(in_batches, partial(_first_coordinates, change, k))


@eqx.filter_jit
def _first_coordinates(
    change: LinearChange, k: int, points: Float[Array, "n *shape"]
) -> Float[Array, "n k"]:
    return jax.vmap(lambda x: change.inverse(x).ravel()[:k])(points)
