"""Persistent contrastive divergence in torchebm and in ebmkit, set up as their documentation says.

`PEERS[name](dimension, setting)` builds one, of which `run(data, n)` makes `n` steps; `fit` trains
one on an array within its seconds and keeps what was best on validation points. Both libraries hold
the chains in a buffer of their own and start a part of them anew.

`DOCUMENTED` is the example of each one's README. `LARGER` is the other setting that each is given:
network, batch and Langevin steps of `flowebm.fit_persistent` with its defaults.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Threads that spin while they wait cost several times the work wherever a core is busy otherwise.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from torch import Tensor, nn

#: Points whose energies are evaluated at once.
AT_ONCE = 5000

#: Steps by which numbers of threads are compared, twice for each.
TRIED = 3


@dataclass(frozen=True)
class Setting:
    """Choices of persistent contrastive divergence.

    Attributes:
        hidden: Units of the network's hidden layers, which are followed by SiLU.
        n_langevin: Langevin steps of a training step.
        step_size: Of a Langevin step, in squared units of the standardised points.
        batch_size: Data points, and chains, of a training step.
        buffer_size: Chains kept.
        learning_rate: Adam's.
    """

    hidden: tuple[int, ...]
    n_langevin: int
    step_size: float
    batch_size: int
    buffer_size: int = 8192
    learning_rate: float = 1e-3


DOCUMENTED = {
    "torchebm": Setting((128,), 10, 0.1, 256),
    "ebmkit": Setting((128, 128), 60, 1e-2, 256),
}
LARGER = Setting((128, 128, 128), 20, 5e-3, 1024)


@dataclass
class Peer:
    """A model in training.

    Attributes:
        energy: The network, from rows to their energies.
        run: Makes so many training steps on batches that it draws from the data.
    """

    energy: nn.Module
    run: Callable[[Tensor, int], None]


def network(dimension: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with SiLU between them, and one output."""
    sizes = (dimension, *hidden)
    layers = []
    for size, next_size in pairwise(sizes):
        layers += [nn.Linear(size, next_size), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def torchebm(dimension: int, setting: Setting) -> Peer:
    """torchebm's `ContrastiveDivergence(persistent=True)` in the loop of its README."""
    from torchebm.core import BaseModel
    from torchebm.losses import ContrastiveDivergence
    from torchebm.samplers import LangevinDynamics

    class MLPEnergy(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = network(dimension, setting.hidden)

        def forward(self, x):
            return self.net(x).squeeze(-1)

    energy = MLPEnergy()
    sampler = LangevinDynamics(model=energy, step_size=setting.step_size, noise_scale=1.0)
    loss = ContrastiveDivergence(
        model=energy,
        sampler=sampler,
        k_steps=setting.n_langevin,
        persistent=True,
        buffer_size=setting.buffer_size,
    )
    optimizer = torch.optim.Adam(energy.parameters(), lr=setting.learning_rate)

    def run(data: Tensor, n: int) -> None:
        for _ in range(n):
            value, _ = loss(data[torch.randint(len(data), (setting.batch_size,))])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return Peer(energy, run)


def ebmkit(dimension: int, setting: Setting) -> Peer:
    """ebmkit's `ContrastiveDivergence` with a `ReplayBuffer` in its `Trainer`."""
    import ebm

    energy = ebm.nets.MLPEnergy(dim=dimension, hidden=setting.hidden)
    sampler = ebm.LangevinDynamics(step_size=setting.step_size, steps=setting.n_langevin)
    buffer = ebm.ReplayBuffer(setting.buffer_size, (dimension,))
    loss = ebm.ContrastiveDivergence(sampler, buffer=buffer)
    trainer = ebm.Trainer(energy, loss, lr=setting.learning_rate)

    def run(data: Tensor, n: int) -> None:
        trainer.fit(data, steps=n, batch_size=setting.batch_size, verbose=False)

    return Peer(energy, run)


PEERS = {"torchebm": torchebm, "ebmkit": ebmkit}


def use_fastest_threads(run: Callable[[], None]) -> int:
    """Let torch use one thread, or one for each core, whichever makes `run` faster; how many."""
    seconds: dict[int, float] = {}
    for threads in 2 * (os.cpu_count() or 1, 1):
        torch.set_num_threads(threads)
        started = time.perf_counter()
        run()
        seconds[threads] = min(seconds.get(threads, math.inf), time.perf_counter() - started)
    fastest = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(fastest)
    return fastest


@dataclass
class PcdFit:
    """A trained energy; everything takes and gives rows of NumPy arrays.

    Attributes:
        log_density: Minus the energy, a log-density up to a constant.
        score: Its gradient.
        sample: Draws rows of a density that covers the data, from a seed and a number.
        cover: That density's logarithm, normalised.
        notes: What belongs in a record.
    """

    log_density: Callable[[np.ndarray], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    sample: Callable[[int, int], np.ndarray]
    cover: Callable[[np.ndarray], np.ndarray]
    notes: dict


def fit(
    name: str,
    train: np.ndarray,
    validation: np.ndarray,
    seconds: float,
    seed: int,
    settings: dict[str, Setting] | None = None,
    *,
    patience: int = 40,
    between: int = 25,
) -> PcdFit:
    r"""The better of two settings on validation points, each with all the seconds to itself.

    The validation NLL needs $\log Z$, which neither library estimates in training: here it is
    importance sampling's, from a mixture of Gaussians fitted to the training points and widened,
    with the same points each time.

    Args:
        name: One of `PEERS`.
        train: Standardised points, one a row.
        validation: Points to choose and to stop by.
        seconds: Seconds of a setting.
        seed: Seed of everything random.
        settings: The settings by name; the documented one and the larger by default.
        patience: Evaluations without a better validation NLL before a setting stops.
        between: Steps between evaluations.

    Returns:
        The trained energy, as it was at its best.
    """
    settings = settings or {"documented": DOCUMENTED[name], "larger": LARGER}
    sample, cover = _wide_mixture(train, seed)
    drawn = sample(seed, 10_000)
    data, held_out, points = (
        torch.as_tensor(rows, dtype=torch.float32) for rows in (train, validation, drawn)
    )
    log_q = torch.as_tensor(cover(drawn))
    found = []
    for setting_name, setting in settings.items():
        started = time.monotonic()
        torch.manual_seed(seed)
        peer = PEERS[name](train.shape[1], setting)
        # The steps made here are the training's first.
        threads = use_fastest_threads(lambda peer=peer: peer.run(data, TRIED))
        best, state, bad, steps = math.inf, None, 0, 4 * TRIED
        while bad < patience and (steps == 4 * TRIED or time.monotonic() - started < seconds):
            peer.run(data, between)
            steps += between
            log_weights = _in_parts(peer.energy, points).neg().double() - log_q
            log_z = torch.logsumexp(log_weights, 0) - math.log(len(points))
            nll = float(_in_parts(peer.energy, held_out).double().mean() + log_z)
            if not math.isfinite(nll):
                break
            bad += 1
            if nll < best:
                best, bad = nll, 0
                state = {key: value.clone() for key, value in peer.energy.state_dict().items()}
        if state is not None:
            peer.energy.load_state_dict(state)
            notes = {"setting": setting_name, "steps": steps, "threads": threads}
            found.append((best, peer.energy, notes | {"validation_nll": best}))
    if not found:
        raise RuntimeError(f"{name} diverged with every setting before its first evaluation.")
    _, energy, notes = min(found, key=lambda one: one[0])

    def log_density(rows: np.ndarray) -> np.ndarray:
        return -_in_parts(energy, torch.as_tensor(rows, dtype=torch.float32)).double().numpy()

    def score(rows: np.ndarray) -> np.ndarray:
        parts = []
        for part in torch.as_tensor(rows, dtype=torch.float32).split(AT_ONCE):
            part = part.clone().requires_grad_()
            parts.append(-torch.autograd.grad(energy(part).sum(), part)[0])
        return torch.cat(parts).double().numpy()

    return PcdFit(log_density, score, sample, cover, notes)


@torch.no_grad()
def _in_parts(energy: nn.Module, rows: Tensor) -> Tensor:
    return torch.cat([energy(part) for part in rows.split(AT_ONCE)])


def _wide_mixture(train: np.ndarray, seed: int):
    """Draws and log-density of Gaussians around the data, and one of twice its width."""
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(16, reg_covar=1e-3, n_init=1, random_state=seed).fit(train)
    weights = np.append(0.9 * fitted.weights_, 0.1)
    means = np.concatenate([fitted.means_, train.mean(axis=0)[None]])
    wide = 4.0 * np.atleast_2d(np.cov(train.T))
    factors = np.linalg.cholesky(np.concatenate([1.5 * fitted.covariances_, wide[None]]))
    log_dets = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    dimension = train.shape[1]

    def sample(seed: int, n: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        which = rng.choice(len(weights), size=n, p=weights)
        noise = rng.normal(size=(n, dimension))
        rows = np.empty((n, dimension))
        for i, (mean, factor) in enumerate(zip(means, factors, strict=True)):
            rows[which == i] = mean + noise[which == i] @ factor.T
        return rows

    def log_density(rows: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve_triangular
        from scipy.special import logsumexp

        parts = [
            -0.5 * (solve_triangular(factor, (rows - mean).T, lower=True) ** 2).sum(axis=0)
            - log_det
            for mean, factor, log_det in zip(means, factors, log_dets, strict=True)
        ]
        constant = 0.5 * dimension * math.log(2 * math.pi)
        return logsumexp(np.stack(parts, axis=1), b=weights, axis=1) - constant

    return sample, log_density
