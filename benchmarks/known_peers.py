"""Other samplers on the densities of `sampling_truths.py`, told what `flowebm.sample` is told.

Every peer works in the unconstrained coordinates of flowebm's own bijection. Those that need a
prior have independent normals there: of standard deviation `WIDTH` around the initial point where
a coordinate has no bounds, and standard where it has some, which is uniform between two bounds and
half-Cauchy beyond one. Their likelihood is the density over the prior. Samplers of the unit cube
have the prior's quantiles. NUTS starts from the initial point. flowebm's own start is wider where
there are no bounds, with normals of 1 to 100 and a Cauchy density of scale `WIDTH`: what lies
several `WIDTH` away (the second of two modes 40 apart, tails of the banana and of the hybrid
Rosenbrock density) is harder for those that have the prior.

A peer is as its package has it by default; what has no default is said beside it. Errors of
weights are those of the peer's own kind: of the means of chains, of independent populations, of
importance weights, or of strands of nested sampling drawn anew (Higson et al. 2018, *Sampling
errors in nested sampling parameter estimation*, Bayesian Analysis 13). Where new points stem from
others, as slices do, strands know nothing of that, and modes' weights err more than they tell.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

#: Standard deviation of the prior where there are no bounds, which is flowebm's default.
WIDTH = 10.0

#: blackjax's nested slice sampling: live points, those replaced at a time, and the log of the
#: share of Z among the live points at which it stops; as its authors have them in examples.
LIVE, REPLACED, REMAINDER = 1000, 100, -3.0

#: The least log-density that tempered SMC is told, to which minus infinity times a temperature of
#: zero is no number.
LEAST = -1e30

#: How often the strands of a nested run are drawn anew for the error of a weight.
BOOTSTRAPS = 50

#: Seconds of a first run beyond which there is no second.
LONGEST_REPEATED = 60.0


@dataclass(frozen=True, eq=False)
class Problem:
    """A density as peers see it, in unconstrained coordinates.

    Attributes:
        log_density: Of one point.
        region: Whether a point is in the region.
        start: The initial point.
        mean: The prior's.
        scale: Its standard deviations.
        periodic: Which coordinates are circular on the unit cube.
    """

    log_density: Callable[[Any], Any]
    region: Callable[[Any], Any]
    start: Any
    mean: np.ndarray
    scale: np.ndarray
    periodic: list[int]

    @property
    def dimension(self) -> int:
        return self.mean.size

    def log_prior(self, z):
        from jax.scipy.stats import norm

        return norm.logpdf(z, self.mean, self.scale).sum()

    def log_likelihood(self, z):
        return self.log_density(z) - self.log_prior(z)

    def from_cube(self, u: np.ndarray) -> np.ndarray:
        """The prior's quantiles, of one point or of many."""
        from scipy.special import ndtri

        tiny = np.finfo(float).eps
        return self.mean + self.scale * ndtri(np.clip(u, tiny, 1 - tiny))

    @property
    def choices(self) -> dict[str, Any]:
        """What samplers of the unit cube are told besides."""
        return {"periodic": np.asarray(self.periodic)} if self.periodic else {}


def pose(known) -> Problem:
    """A density of `sampling_truths.py` for peers."""
    from flowebm.training.sampling_target import sampling_target

    bounds, periodic = known.choices.get("bounds"), known.choices.get("periodic")
    target = sampling_target(known.log_density, known.initial, bounds, None, periodic=periodic)
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    has_bounds = np.isfinite(np.asarray(low)) | np.isfinite(np.asarray(high))
    model = target.model
    return Problem(
        log_density=lambda z: -model.energy(z),
        region=lambda z: known.region(model.unravel(model.bijection.transform(z))),
        start=target.centre,
        mean=np.where(has_bounds, 0.0, np.asarray(target.centre, float)),
        scale=np.where(has_bounds, 1.0, np.full(target.centre.shape, WIDTH)),
        periodic=np.flatnonzero(target.periodic).tolist(),
    )


class Found(NamedTuple):
    """What a peer returns.

    Attributes:
        log_z: log Z, not a number where the method has none.
        log_z_stderr: The error that it states.
        draws: Points in unconstrained coordinates, `d` the last axis.
        weigh: From whether each of them is in a region to its weight and the error of that.
        evaluations: Evaluations of the density, with its gradient or without.
    """

    log_z: float
    log_z_stderr: float
    draws: Any
    weigh: Callable[[np.ndarray], tuple[float, float]]
    evaluations: int


def of_chains(inside: np.ndarray) -> tuple[float, float]:
    """A region's weight in draws of chains, `(chains, draws)`, and the error of their means."""
    means = inside.mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5)


def of_importance(log_weights: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """A region's weight in independent weighted draws, and its error."""
    weights = np.exp(log_weights - log_weights.max())
    weights = weights / weights.sum()
    mean = float(weights @ inside)
    return mean, float(np.sqrt(np.sum((weights * (inside - mean)) ** 2)))


def of_populations(
    log_z: np.ndarray, weights: np.ndarray, inside: np.ndarray
) -> tuple[float, float]:
    """A region's weight in populations, `(populations, particles)`, each counted by its Z."""
    share = np.exp(log_z - log_z.max())
    share = share / share.sum()
    each = (weights * inside).sum(axis=1)
    mean = float(share @ each)
    n = len(share)
    return mean, float(np.sqrt(np.sum((share * (each - mean)) ** 2) * n / (n - 1)))


def log_shells(births: np.ndarray, deaths: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Expected prior volumes of the shells of points of a nested run, in logarithms.

    Args:
        births: The likelihoods above which points were drawn, minus infinity for the first ones.
        deaths: Their own likelihoods.
        times: How often each point counts.
    """
    from scipy.special import digamma

    order, by_birth = np.argsort(deaths, kind="stable"), np.argsort(births, kind="stable")
    n_born = np.append(0, np.cumsum(times[by_birth]))
    counts = times[order]
    born = n_born[np.searchsorted(births[by_birth], deaths[order], side="left")]
    live = np.maximum(born - np.cumsum(counts) + counts, counts)
    shrinkage = digamma(live + 1) - digamma(live - counts + 1)
    before = np.append(0, -np.cumsum(shrinkage))[:-1]
    with np.errstate(divide="ignore"):
        shells = before + np.log(-np.expm1(-shrinkage))
    result = np.empty(len(deaths))
    result[order] = shells
    return result


def of_strands(
    births: np.ndarray, deaths: np.ndarray, strands: np.ndarray, inside: np.ndarray
) -> tuple[float, float]:
    """A region's weight in a nested run, and its error by strands drawn anew."""

    def weight(times: np.ndarray) -> float:
        log_weights = deaths + log_shells(births, deaths, times)
        weights = np.exp(log_weights - log_weights.max())
        return float(weights @ inside / weights.sum())

    rng, n = np.random.default_rng(0), int(strands.max()) + 1
    drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(BOOTSTRAPS)]
    anew = [weight(times[strands]) for times in drawn]
    return weight(np.ones(len(deaths), int)), float(np.std(anew, ddof=1))


def nested_slices(key: int, problem: Problem) -> Found:
    """blackjax's nested slice sampling, max(5, 2 d) slices a new point as it recommends.

    What it does with all dead points is compiled for each number of them, in a second run too.
    """
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from blackjax.ns.base import NSInfo
    from blackjax.ns.utils import finalise, log_weights

    init, step = _nested_slices(problem)
    start_key, step_key, volume_key = jr.split(jr.key(key), 3)
    normal = jr.normal(start_key, (LIVE, problem.dimension))
    state = init(jnp.asarray(problem.mean + problem.scale * normal, jnp.float32))
    dead, strands, evaluations = [], [], LIVE
    while not float(state.integrator.logZ_live - state.integrator.logZ) < REMAINDER:
        step_key, now = jr.split(step_key)
        state, particles, places, n = step(now, state)
        dead.append(NSInfo(particles, None))
        strands.append(np.asarray(places))
        evaluations += int(n)
    done = finalise(state, dead, update_info=False)
    log_z = np.asarray(jax.nn.logsumexp(log_weights(volume_key, done), axis=0), float)
    births = np.asarray(done.particles.loglikelihood_birth, float)
    births = np.where(np.isnan(births), -np.inf, births)
    deaths = np.maximum(np.asarray(done.particles.loglikelihood, float), -1e30)
    all_strands = np.concatenate([*strands, np.arange(LIVE)])
    return Found(
        float(log_z.mean()),
        float(log_z.std(ddof=1)),
        done.particles.position,
        lambda inside: of_strands(births, deaths, all_strands, inside),
        evaluations,
    )


@cache
def _nested_slices(problem: Problem):
    import blackjax
    import jax

    algorithm = blackjax.nss(
        problem.log_prior,
        problem.log_likelihood,
        num_inner_steps=max(5, 2 * problem.dimension),
        num_delete=REPLACED,
    )

    def step(key, state):
        # Those that are replaced, whose places the new points take.
        _, places = jax.lax.top_k(-state.particles.loglikelihood, REPLACED)
        state, info = algorithm.step(key, state)
        # Both ends of a slice, its expansions and what was drawn within it.
        moves = info.update_info
        evaluations = (2 + moves.num_expansions + moves.num_shrink).sum()
        return state, info.particles, places, evaluations

    return jax.jit(algorithm.init), jax.jit(step)


def tempered_smc(key: int, problem: Problem) -> Found:
    """blackjax's adaptive tempered SMC in independent populations, as in `sampling_peers.py`.

    Z is the mean of the populations' own.
    """
    import jax.random as jr
    from sampling_peers import POPULATIONS, smc_evaluations, tempered

    populations = tempered(_finite(problem))(
        jr.split(jr.key(key), POPULATIONS),
        np.asarray(problem.mean, np.float32),
        np.asarray(problem.scale, np.float32),
    )
    log_each = np.asarray(populations.log_z, float)
    each = np.exp(log_each - log_each.max())
    weights = np.asarray(populations.weights, float)
    return Found(
        float(math.log(each.mean()) + log_each.max()),
        float(each.std(ddof=1) / each.mean() / len(each) ** 0.5),
        populations.particles,
        lambda inside: of_populations(log_each, weights, inside),
        smc_evaluations(populations.n_temperatures),
    )


@cache
def _finite(problem: Problem) -> Callable:
    import jax.numpy as jnp

    return lambda z: jnp.maximum(problem.log_density(z), LEAST)


def nuts(key: int, problem: Problem) -> Found:
    """blackjax's NUTS, 32 chains for themselves, as in `sampling_peers.py`."""
    import jax.random as jr
    import sampling_peers

    drawn = sampling_peers.nuts(jr.key(key), problem)
    return Found(math.nan, math.nan, drawn.draws, of_chains, drawn.n_evaluations)


def flowmc(key: int, problem: Problem) -> Found:
    """flowMC with parallel tempering, from the prior, as in `sampling_peers.py`."""
    import jax.random as jr
    import sampling_peers

    around = replace(problem, start=problem.mean)
    drawn = sampling_peers.flowmc(jr.key(key), around, problem.scale)
    return Found(math.nan, math.nan, drawn.draws, of_chains, drawn.n_evaluations)


def nautilus(key: int, problem: Problem) -> Found:
    """nautilus, of whose log Z the error is one over the root of its effective size."""
    from nautilus import Sampler

    sampler = Sampler(
        problem.from_cube,
        _batches(problem.log_likelihood),
        problem.dimension,
        vectorized=True,
        pass_dict=False,
        seed=key,
        **problem.choices,
    )
    sampler.run(verbose=False)
    draws, log_weights, _ = sampler.posterior()
    return Found(
        float(sampler.log_z),
        float(sampler.n_eff**-0.5),
        draws,
        lambda inside: of_importance(log_weights, inside),
        int(sampler.n_like),
    )


def dynesty(key: int, problem: Problem) -> Found:
    """dynesty's static nested sampling, a point at a time as it comes."""
    import jax
    from dynesty import NestedSampler
    from dynesty.utils import resample_run

    log_likelihood = jax.jit(problem.log_likelihood)
    sampler = NestedSampler(
        lambda z: float(log_likelihood(np.asarray(z, np.float32))),
        problem.from_cube,
        problem.dimension,
        rstate=np.random.default_rng(key),
        **problem.choices,
    )
    sampler.run_nested(print_progress=False)
    results = sampler.results

    def weigh(inside: np.ndarray) -> tuple[float, float]:
        rng, anew = np.random.default_rng(0), []
        for _ in range(BOOTSTRAPS):
            drawn, rows = resample_run(results, rstate=rng, return_idx=True)
            anew.append(float(drawn.importance_weights() @ inside[rows]))
        return float(results.importance_weights() @ inside), float(np.std(anew, ddof=1))

    return Found(
        float(results.logz[-1]),
        float(results.logzerr[-1]),
        results.samples,
        weigh,
        int(np.sum(results.ncall)),
    )


def pocomc(key: int, problem: Problem) -> Found:
    """pocoMC, preconditioned Monte Carlo with flows."""
    from pocomc import Prior, Sampler
    from scipy.stats import norm

    sampler = Sampler(
        Prior([norm(*each) for each in zip(problem.mean, problem.scale, strict=True)]),
        _batches(problem.log_likelihood),
        vectorize=True,
        random_state=key,
    )
    sampler.run(progress=False)
    draws, weights, *_ = sampler.posterior()
    log_z, log_z_stderr = sampler.evidence()
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    return Found(
        float(log_z),
        float(log_z_stderr),
        draws,
        lambda inside: of_importance(log_weights, inside),
        int(sampler.calls),
    )


def _batches(log_likelihood: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """The likelihood of many points, of whatever number: in programs of powers of two."""
    import jax

    compiled = jax.jit(jax.vmap(log_likelihood))

    def many(z: np.ndarray) -> np.ndarray:
        n = len(z)
        size = 1 << max(n - 1, 0).bit_length()
        padded = np.concatenate([z, np.repeat(z[:1], size - n, axis=0)]).astype(np.float32)
        return np.asarray(compiled(padded), float)[:n]

    return many


#: All peers, by name.
PEERS = {
    "nested slices": nested_slices,
    "tempered SMC": tempered_smc,
    "NUTS": nuts,
    "nautilus": nautilus,
    "dynesty": dynesty,
    "pocoMC": pocomc,
    "flowMC": flowmc,
}

#: Those whose run is compiled, of which the time without that is worth knowing.
COMPILED = ("nested slices", "tempered SMC", "NUTS", "flowMC")

#: Those that return no log Z.
WITHOUT_LOG_Z = ("NUTS", "flowMC")

#: The distributions that peers come with.
DISTRIBUTIONS = {
    "nested slices": "blackjax",
    "tempered SMC": "blackjax",
    "NUTS": "blackjax",
    "nautilus": "nautilus-sampler",
    "dynesty": "dynesty",
    "pocoMC": "pocomc",
    "flowMC": "flowMC",
}


def is_installed(peer: str) -> bool:
    try:
        version(DISTRIBUTIONS[peer])
    except PackageNotFoundError:
        return False
    return True


def measure(sampler: str, density: str, key: str) -> dict:
    """A run of a peer; where it is compiled, a second one for the time of that alone.

    What it raises is kept as what it failed with.
    """
    import warnings

    import jax
    from sampling_truths import make

    warnings.simplefilter("ignore")
    known = make(density)
    problem = pose(known)
    found, seconds, core_seconds = [], [], []
    for repeat in range(2 if sampler in COMPILED else 1):
        if sum(seconds) > LONGEST_REPEATED:
            break
        started, core_started = time.perf_counter(), time.process_time()
        try:
            found.append(PEERS[sampler](2 * int(key) + repeat, problem))
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"[:300]}
        jax.block_until_ready(found[-1].draws)
        seconds.append(time.perf_counter() - started)
        core_seconds.append(time.process_time() - core_started)
    first = found[0]
    draws = np.asarray(first.draws, np.float32)
    inside = jax.jit(jax.vmap(problem.region))(draws.reshape(-1, problem.dimension))
    weight, weight_stderr = first.weigh(np.asarray(inside, float).reshape(draws.shape[:-1]))
    return {
        "log_z": first.log_z,
        "log_z_stderr": first.log_z_stderr,
        "true_log_z": known.log_z,
        "weight": weight,
        "weight_stderr": weight_stderr,
        "true_weight": known.weight,
        "evaluations": first.evaluations,
        "seconds": seconds,
        "core_seconds": core_seconds,
    }
