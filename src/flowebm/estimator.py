"""`FlowEBM`: the library behind scikit-learn's interface."""

from pathlib import Path
from typing import Any, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.bijections import Invert
from flowjax.distributions import Transformed
from jaxtyping import Float
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from flowebm.data import Standardise, check_table, read_table, split
from flowebm.models.architecture import Architecture, build, build_flow
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.preprocessed import PreprocessedModel
from flowebm.models.saved import SavedModel, load_model, save_model
from flowebm.models.tilted import EnergyModel
from flowebm.samplers.model_samples import sample_model
from flowebm.training.balanced import BalancedOptions
from flowebm.training.driver import Observers
from flowebm.training.fit_balanced import fit_balanced

#: Rows that a fit needs at least: fewer leave no validation part worth the name.
MIN_ROWS = 50

#: Iterations of a fit where neither steps nor a time budget are given.
DEFAULT_STEPS = 1000

#: Points whose densities are evaluated at once.
BATCH_SIZE = 4096


class FlowEBM(DensityMixin, BaseEstimator):
    r"""A normalised density fitted to a table, with its mass in the right modes.

    $\log p(x) = -E(x) - \log Z$ in the units of the data: standardisation and its
    log-determinant are part of $E$, and $\log Z$ comes with a standard error.

    Args:
        method: How the model is fitted; `"balanced"`: flow-assisted maximum likelihood.
        max_steps: Iterations at most; 1000 where no time budget is given.
        time_budget: Seconds at most, compilation included.
        patience: Evaluations (one every 50 iterations) without a better validation NLL before
            the fit stops; `None` uses all iterations and keeps the best.
        architecture: Networks, base and flow; an `Architecture`.
        options: Choices of the method; a `BalancedOptions`.
        point_shape: Shape of one point where rows are flattened images; `None` for a table.
        validation_fraction: Share of the rows that choose the best model.
        observers: Progress, metrics and checkpoints; an `Observers`.
        random_state: Seed of everything random.

    Attributes:
        model_: The energy model in the units of the data.
        flow_: The proposal in the units of the data, a flowjax distribution.
        log_partition_: $\log Z$, nats.
        log_partition_stderr_: Its standard error, nats.
        history_: One row of metrics a block.
        result_: The `FitResult`, over standardised points.
        n_features_in_: Number of columns.
        feature_names_in_: Their names, if the data had names.
    """

    def __init__(
        self,
        method: Literal["balanced"] = "balanced",
        *,
        max_steps: int | None = None,
        time_budget: float | None = None,
        patience: int | None = None,
        architecture: Architecture | None = None,
        options: BalancedOptions | None = None,
        point_shape: tuple[int, ...] | None = None,
        validation_fraction: float = 0.1,
        observers: Observers | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.method = method
        self.max_steps = max_steps
        self.time_budget = time_budget
        self.patience = patience
        self.architecture = architecture
        self.options = options
        self.point_shape = point_shape
        self.validation_fraction = validation_fraction
        self.observers = observers
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> "FlowEBM":
        """Fit the density to a table.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If the table or a parameter is refused, with one sentence that says why.
            TrainingDiverged: If training diverges again and again.
        """
        if self.method != "balanced":
            raise ValueError(f"Unknown method {self.method!r}: choose 'balanced'.")
        if not self.validation_fraction > 0:
            raise ValueError(
                f"validation_fraction must be above 0; got {self.validation_fraction}: without "
                "validation rows nothing tells when to stop."
            )
        table = read_table(X)
        check_table(table.values, table.names, min_rows=MIN_ROWS)
        width = table.values.shape[1]
        shape = self._shape(width)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        split_key, build_key, fit_key = jr.split(jr.key(seed), 3)
        parts = split(split_key, table.values, self.validation_fraction)
        # Pixels are bounded: their distributions have peaks, not tails.
        standardise = Standardise.fit(
            parts.train.reshape(-1, *shape), bend_tails=self.point_shape is None
        )

        def standardised(rows: np.ndarray) -> jax.Array:
            return jnp.asarray(standardise.standardise_rows(rows.reshape(-1, *shape)), float)

        architecture = self.architecture or Architecture()
        train = standardised(parts.train)
        components = build(architecture, shape, data=train, key=build_key)
        base = None
        if architecture.base == "flow":
            kind, key = architecture.base_flow, jr.fold_in(build_key, 1)
            base = build_flow(architecture, kind, shape, key=key)
        steps = self.max_steps
        if steps is None:
            # A time budget ends the run; the bound on steps is then out of its way.
            steps = DEFAULT_STEPS if self.time_budget is None else 1_000_000
        result = fit_balanced(
            fit_key,
            components.model,
            train,
            validation=standardised(parts.validation),
            proposal=components.proposal,
            options=self.options,
            base=base,
            train_base=architecture.train_base,
            max_steps=steps,
            time_budget=self.time_budget,
            patience=self.patience,
            observers=self.observers,
        )
        names = table.names if hasattr(X, "columns") or isinstance(X, str | Path) else None
        self._set_fitted(
            SavedModel(
                model=cast(EnergyModel, result.model),
                proposal=cast(DefensiveMixture, result.flow),
                preprocessing=standardise,
                log_partition=result.log_partition.value,
                log_partition_stderr=result.log_partition.stderr,
                architecture=architecture,
                columns=names,
                metadata={"method": self.method, "seed": seed},
            )
        )
        self.result_ = result
        self.history_ = result.history
        return self

    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:
        """Normalised log-density of every row, in nats and in the units of the data.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.

        Returns:
            One log-density a row.

        Raises:
            ValueError: If the table is refused or its width is not the model's.
        """
        check_is_fitted(self, "model_")
        table = read_table(X)
        check_table(
            table.values,
            table.names,
            min_rows=1,
            width=self.n_features_in_,
            allow_constant=True,
        )
        saved = self.saved_
        rows = table.values.reshape(-1, *saved.shape)
        # Standardised in double precision: a column's offset may have more digits than single
        # precision has.
        standardised = jnp.asarray(saved.preprocessing.standardise_rows(rows), float)
        log_prob = _log_prob(
            saved.model,
            saved.preprocessing,
            standardised,
            jnp.asarray(rows, float),
            min(BATCH_SIZE, len(rows)),
        )
        return np.asarray(log_prob, np.float64) - self.log_partition_

    def score(self, X: Any, y: None = None) -> float:
        """Mean log-density of the rows, in nats a point.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.
            y: Ignored.

        Raises:
            ValueError: If the table is refused or its width is not the model's.
        """
        return float(np.mean(self.score_samples(X)))

    def sample(
        self, n_samples: int = 1, *, random_state: int | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Draw independent samples of the model, in the units of the data.

        Args:
            n_samples: Number of samples.
            random_state: Seed; the fit's own by default, so that a fresh fit gives the same.

        Returns:
            One sample a row.

        Raises:
            ValueError: If `n_samples` is below one.
        """
        check_is_fitted(self, "model_")
        seed = self.random_state if random_state is None else random_state
        seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        saved = self.saved_
        samples = sample_model(jr.key(seed), saved.model, saved.proposal, n_samples)
        rows = np.asarray(samples.positions, np.float64)
        return saved.preprocessing.restore_rows(rows).reshape(n_samples, -1)

    def save(self, directory: str | Path) -> None:
        """Write the fitted model to `model.safetensors` and `model.json` in a folder.

        Args:
            directory: The folder; made if there is none.
        """
        check_is_fitted(self, "model_")
        save_model(directory, self.saved_)

    @classmethod
    def load(cls, directory: str | Path) -> "FlowEBM":
        """Read a fitted model that `save` or `flowebm train` wrote; executes nothing of it.

        Args:
            directory: The folder.

        Raises:
            ValueError: If the folder holds no model that this version can read.
        """
        saved = load_model(directory)
        estimator = cls(
            saved.metadata.get("method", "balanced"),
            architecture=saved.architecture,
            point_shape=None if len(saved.shape) == 1 else saved.shape,
        )
        estimator._set_fitted(saved)
        return estimator

    def _set_fitted(self, saved: SavedModel) -> None:
        """Set what a fit and a load have in common."""
        self.saved_ = saved
        self.model_ = PreprocessedModel(saved.model, saved.preprocessing)
        self.flow_ = Transformed(saved.proposal, Invert(saved.preprocessing))
        self.log_partition_ = saved.log_partition
        self.log_partition_stderr_ = saved.log_partition_stderr
        self.n_features_in_ = int(np.prod(saved.shape))
        if saved.columns is not None:
            self.feature_names_in_ = np.asarray(saved.columns, object)

    def _shape(self, width: int) -> tuple[int, ...]:
        """The shape of one point in rows of `width` columns."""
        if self.point_shape is None:
            return (width,)
        shape = tuple(self.point_shape)
        if int(np.prod(shape)) != width:
            raise ValueError(
                f"point_shape={shape} has {int(np.prod(shape))} values, the data's rows have "
                f"{width}: they must agree."
            )
        return shape


@eqx.filter_jit
def _log_prob(model, preprocessing, standardised, rows, batch_size: int):
    """Unnormalised log-densities of rows whose standardised values are at hand."""

    def one(points):
        z, x = points
        return model.unnormalized_log_prob(z) + preprocessing.transform_and_log_det(x)[1]

    return jax.lax.map(one, (standardised, rows), batch_size=batch_size)
