"""`Budget`: the one owner of the seconds of a fit, also across a resume."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

from jax.stages import Lowered
from jaxlib.mlir import ir

from flowebm.training.processes import value_of_first

#: Seconds that compiling takes for each operation of a program, while none has been compiled yet.
SECONDS_AN_OPERATION = 0.0015


class Budget:
    r"""The seconds that a fit has, of which its stages are told what is left.

    A fit makes one and hands it, or a part of it, to each of its stages as their `time_budget`;
    `drive` reports into it. What it had used before it was resumed counts: `drive` restores that
    from a stage's checkpoint. Several processes hear the first one's clock.

    ```python
    budget = Budget.of(time_budget)            # seconds, a Budget, or None for no end
    if not budget.is_spent(reserve=0.2):       # a fifth is for what comes after
        fit_flow(..., time_budget=budget.part(0.3, reserve=0.2))
    ```

    Args:
        seconds: Seconds in all, compilation included; `None` for no end.
    """

    def __init__(self, seconds: float | None = None):
        self.seconds = value_of_first(seconds)
        self._clock = _Clock()
        self._end = math.inf if self.seconds is None else self.seconds

    @classmethod
    def of(cls, time_budget: "float | Budget | None") -> "Budget":
        """The budget itself, or a new one of so many seconds.

        Args:
            time_budget: Seconds, a budget, or `None` for no end.
        """
        return time_budget if isinstance(time_budget, Budget) else cls(time_budget)

    @property
    def is_limited(self) -> bool:
        """Whether it ever ends."""
        return self._end < math.inf

    def used(self) -> float:
        """Seconds since the fit began, those before a resume among them."""
        return value_of_first(self._clock.now())

    def left(self, share: float = 1.0, *, reserve: float = 0.0) -> float | None:
        """Seconds that are left, from 0 on; `None` where there is no end.

        Args:
            share: Of the whole budget, which the answer does not exceed.
            reserve: Share of the whole budget that is kept for what comes after.
        """
        if self.seconds is None or not self.is_limited:
            return None
        end = self._end - reserve * self.seconds
        return max(0.0, min(end - self.used(), share * self.seconds))

    def is_spent(self, *, reserve: float = 0.0) -> bool:
        """Whether nothing is left but a reserve.

        Args:
            reserve: Share of the whole budget that is kept for what comes after.
        """
        return self.left(reserve=reserve) == 0.0

    def part(self, share: float = 1.0, *, reserve: float = 0.0) -> Self:
        """What a stage may use from now on: it ends with its share, or before the reserve.

        Args:
            share: Of the whole budget.
            reserve: Share of the whole budget that is kept for what comes after.
        """
        part = type(self)(self.seconds)
        # One clock: a stage that is resumed turns it forward for the stages after it.
        part._clock = self._clock
        left = self.left(share, reserve=reserve)
        part._end = math.inf if left is None else self._clock.now() + left
        return part

    def restore(self, used: float) -> None:
        """Go on where a stage was when it was saved.

        Args:
            used: Seconds since the fit began, then.
        """
        self._clock.turn_forward(used)


class _Clock:
    """Seconds since a fit began."""

    def __init__(self):
        self._began = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._began

    def turn_forward(self, to: float) -> None:
        self._began = min(self._began, time.monotonic() - to)


@dataclass
class _Compilations:
    """What compiling has taken on this machine, in this process: seconds, and operations."""

    seconds: float = 0.0
    operations: int = 0

    def expected(self, operations: int) -> float:
        if not self.operations:
            return SECONDS_AN_OPERATION * operations
        return self.seconds / self.operations * operations


_so_far = _Compilations()


def compile_in_time(budget: Budget, function: Callable[..., Any], *args: Any) -> bool:
    """Compile a program, if that can be done in what is left of a budget.

    What it will take is judged by its number of operations, and by what others took here before.

    Args:
        budget: The budget; one without an end leaves compiling to the function's first call.
        function: A function that `equinox.filter_jit` compiles; its next call with such arguments
            finds the program.
        args: Its arguments.

    Returns:
        Whether the function may be called.
    """
    if not budget.is_limited:
        return True
    with warnings.catch_warnings():
        # Of numbers, which no output takes the place of.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        lowered = function.lower(*args).lowered
    # JAX keeps programs by their lowered form, and says only there whether it has compiled one.
    if getattr(getattr(lowered, "_lowering", None), "_executable", None) is not None:
        return True
    operations = _operations(lowered)
    if value_of_first(_so_far.expected(operations)) > cast(float, budget.left()):
        return False
    started = time.monotonic()
    lowered.compile()
    _so_far.seconds += time.monotonic() - started
    _so_far.operations += operations
    return True


def _operations(lowered: Lowered) -> int:
    """The number of operations of a program, those inside of its loops and functions included."""
    count = 0

    def visit(_) -> ir.WalkResult:
        nonlocal count
        count += 1
        return ir.WalkResult.ADVANCE

    cast(Any, lowered.compiler_ir()).operation.walk(visit)
    return count
