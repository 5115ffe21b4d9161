"""What the driver drives: one iteration, one evaluation, and what is worth keeping."""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.training.row_weights import RowWeights

Metrics = dict[str, Scalar]


class AbstractTrainer(eqx.Module):
    """One training algorithm as pure functions over a state that holds arrays only.

    Attributes:
        data: Training points, one a row.
        batch_size: Points of a minibatch.
        stage: A word for progress and metrics.
        weights: How much rows count, training rows in the minibatches that the driver draws and
            validation rows in its averages; `None` where all count alike.
        one_a_chain: Names of the state's arrays with one row a chain, which several devices
            share out, with the option that says how many chains there are.
    """

    data: AbstractVar[Float[Array, "n *shape"]]
    batch_size: AbstractVar[int]
    stage: AbstractVar[str]
    weights: AbstractVar[RowWeights | None]
    one_a_chain: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def init(self, key: PRNGKeyArray) -> PyTree[Array]:
        """The state before the first iteration."""

    @abstractmethod
    def step(
        self,
        key: PRNGKeyArray,
        state: PyTree[Array],
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[PyTree[Array], Metrics]:
        """One iteration.

        Args:
            key: Random key of this iteration.
            state: The state.
            batch: Rows of `data` in this iteration's minibatch.
            learning_rate_factor: Schedule and divergence guard, as one factor on every
                learning rate.

        Returns:
            The next state, and scalars that the driver averages over a block.
        """

    @abstractmethod
    def evaluate(
        self, key: PRNGKeyArray, state: PyTree[Array]
    ) -> tuple[Metrics, Float[Array, " m"] | None]:
        """Scalars at the end of a block.

        Among them `"nll"`, in nats a point of validation data, by which the best state is
        chosen and divergence is seen, with the error of a log Z that is in it as
        `"log_partition_stderr"`. A trainer that cannot know it leaves it out; its best
        state is then its last. A trainer that knows itself when it has nothing left to gain
        gives `"finished"`, one then and zero before, and the run ends.

        Args:
            key: Random key, the same at every evaluation of a run.
            state: The state.

        Returns:
            The scalars, and the NLL of every validation point, or `None` with `"nll"` unknown.
        """

    @abstractmethod
    def solution(self, state: PyTree[Array]) -> PyTree[Array]:
        """The part of the state that is kept from the best evaluation."""

    @abstractmethod
    def schedule(self, progress: Scalar) -> Scalar:
        """The learning rate's factor at `progress` from 0 (start) to 1 (last iteration)."""
