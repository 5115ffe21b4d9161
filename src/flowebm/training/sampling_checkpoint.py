"""What a run of `flowebm.sample` keeps on disk, to go on from when it was stopped."""

import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from flowebm.samplers.assisted_draws import AssistedDraws, Chains
from flowebm.samplers.nested import Live, Progress
from flowebm.training.budget import Budget

#: Seconds between two saves.
INTERVAL = 10.0


class SamplingCheckpoint:
    """Exploration's points and the draws made so far, in two files of arrays.

    All else follows from these, the key and the inputs: a run that resumes ends with the same
    draws, bit for bit.

    Args:
        directory: The folder, made if there is none; nothing is kept without one.
        resume: Whether to go on from what is there.
        budget: Whose seconds are kept too: those used before a stop count after it.

    Raises:
        FileExistsError: If there is something and `resume` is false.
    """

    def __init__(self, directory: str | Path | None, resume: bool, budget: Budget):
        self._directory = None if directory is None else Path(directory)
        self._resume = resume
        self._budget = budget
        self._next = time.monotonic() + INTERVAL
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        there = [path.name for path in self._paths() if path.exists()]
        if there and not resume:
            raise FileExistsError(
                f"{self._directory} has a checkpoint already ({', '.join(there)}): pass "
                "resume=True to go on from it, or another folder."
            )
        for path in self._paths():
            if path.exists():
                with np.load(path) as saved:
                    budget.restore(float(saved["seconds"]))

    def _paths(self) -> tuple[Path, Path]:
        assert self._directory is not None
        return self._directory / "exploration.npz", self._directory / "draws.npz"

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        partial = path.with_suffix(".partial.npz")
        seconds = np.array(self._budget.used())
        np.savez(partial, allow_pickle=False, seconds=seconds, **arrays)
        partial.replace(path)
        self._next = time.monotonic() + INTERVAL

    def _is_due(self, now: bool) -> bool:
        return self._directory is not None and (now or time.monotonic() >= self._next)

    def progress(self) -> Progress:
        """How far exploration was."""
        progress = Progress([], [], 0)
        if self._directory is None or not self._resume or not self._paths()[0].exists():
            return progress
        with np.load(self._paths()[0]) as saved:
            n = int(saved["n_levels"])
            for level in range(n):
                progress.kept.append(Live(*(saved[f"{level}.{name}"] for name in Live._fields)))
            progress.live[:] = [saved[f"live.{name}"] for name in Live._fields]
            progress.n_evaluations = int(saved["n_evaluations"])
        return progress

    def save_progress(self, progress: Progress, now: bool = False) -> None:
        """Keep how far exploration is, if that is due."""
        if not self._is_due(now):
            return
        arrays = {
            f"{level}.{name}": leaf
            for level, live in enumerate(progress.kept)
            for name, leaf in zip(Live._fields, live, strict=True)
        }
        arrays |= {
            f"live.{name}": leaf for name, leaf in zip(Live._fields, progress.live, strict=True)
        }
        n_levels, n_evaluations = np.array(len(progress.kept)), np.array(progress.n_evaluations)
        arrays |= {"n_levels": n_levels, "n_evaluations": n_evaluations}
        self._write(self._paths()[0], {k: np.asarray(v) for k, v in arrays.items()})

    def chains(self) -> tuple[Chains, list[AssistedDraws], float] | None:
        """Where the chains were, their draws and their step size."""
        if self._directory is None or not self._resume or not self._paths()[1].exists():
            return None
        with np.load(self._paths()[1]) as saved:
            chains = Chains(*(jnp.asarray(saved[f"chains.{name}"]) for name in Chains._fields))
            blocks = [
                AssistedDraws(*(saved[f"{block}.{name}"] for name in AssistedDraws._fields))
                for block in range(int(saved["n_blocks"]))
            ]
            return chains, blocks, float(saved["step_size"])

    def save_chains(self, chains: Chains, blocks: list[AssistedDraws], step_size: float) -> None:
        """Keep the draws so far."""
        if not self._is_due(True):
            return
        arrays = {
            f"{block}.{name}": leaf
            for block, drawn in enumerate(blocks)
            for name, leaf in zip(AssistedDraws._fields, drawn, strict=True)
        }
        arrays |= {f"chains.{n}": leaf for n, leaf in zip(Chains._fields, chains, strict=True)}
        arrays |= {"n_blocks": np.array(len(blocks)), "step_size": np.array(step_size)}
        self._write(self._paths()[1], {k: np.asarray(v) for k, v in arrays.items()})
