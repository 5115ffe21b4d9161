"""How each method of `density.py` is fitted, within its seconds, and what it then answers.

All take standardised training points and the same validation points, on which they stop. Peers get
the better, on validation points, of their documented defaults and of one other setting: those of
`flowjax` flows are the defaults of its `fit_to_data` (batches of 100, rate 5e-4, patience of five
epochs) and larger steps in larger batches (512, 2e-3); those of zuko the example of its
documentation (batches of 64, rate 1e-3) and larger batches (512, 2e-3); those of persistent
contrastive divergence stand in `pcd_peers.py`. Each setting has all the seconds to itself.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Points whose densities are evaluated at once.
AT_ONCE = 5000


@dataclass
class Fitted:
    """A fitted density over standardised points, rows of NumPy arrays.

    Attributes:
        log_density: Log-density of rows, normalised unless `is_energy`.
        score: Its gradient at rows.
        is_energy: Whether its constant has to be estimated.
        sample: Draws rows; `None` where the method has no sampler of its own.
        cover: For energies, the log-density of the rows that `sample` draws, which cover it.
        notes: What else belongs in the record.
        n_shares: Draws from which the weights of modes are counted.
    """

    log_density: Callable[[np.ndarray], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    is_energy: bool
    sample: Callable[[int, int], np.ndarray] | None
    cover: Callable[[np.ndarray], np.ndarray] | None
    notes: dict
    n_shares: int = 50_000


def _in_jax(log_prob, sample, *, cover=None, notes=None, n_shares=50_000) -> Fitted:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    def by_rows(function):
        # The model is an argument, so that its arrays are no constants of the program.
        many = eqx.filter_jit(lambda f, x: jax.lax.map(f, x, batch_size=AT_ONCE))
        return lambda rows: np.asarray(many(function, jnp.asarray(rows, float)), np.float64)

    draw = eqx.filter_jit(lambda f, key, n: f(key, (n,)))
    return Fitted(
        log_density=by_rows(log_prob),
        score=by_rows(jax.grad(log_prob)),
        is_energy=cover is not None,
        sample=lambda seed, n: np.asarray(draw(sample, jax.random.key(seed), n), np.float64),
        cover=None if cover is None else by_rows(cover),
        notes=notes or {},
        n_shares=n_shares,
    )


def flowebm(method: str, train, validation, seconds: float, key: int) -> Fitted:
    """`FlowEBM` with its defaults, on the points that it is given."""
    import jax.numpy as jnp
    import jax.random as jr

    from flowebm.models import (
        Architecture,
        EBFlowArchitecture,
        build,
        build_ebflow,
        build_model,
    )
    from flowebm.training import fit_balanced, fit_ebflow, fit_joint

    started = time.monotonic()
    shape = train.shape[1:]
    build_key, fit_key = jr.split(jr.key(key))
    given = {"validation": jnp.asarray(validation, float), "max_steps": 1_000_000}
    data = jnp.asarray(train, float)
    if method == "ebflow":
        model = build_ebflow(EBFlowArchitecture(), shape, key=build_key)
        left = seconds - (time.monotonic() - started)
        result = fit_ebflow(fit_key, model, data, time_budget=left, patience=20, **given)
        return _in_jax(result.model.log_prob, result.model.sample)
    if method == "joint":
        model = build_model(Architecture(), shape, data=data, key=build_key)
        left = seconds - (time.monotonic() - started)
        result = fit_joint(fit_key, model, data, time_budget=left, **given)
        notes = {"active": result.active, "components": result.components}
    else:
        parts = build(Architecture(), shape, data=data, key=build_key)
        left = seconds - (time.monotonic() - started)
        result = fit_balanced(
            fit_key, parts.model, data, proposal=parts.proposal, time_budget=left, **given
        )
        notes = {}
    notes |= {
        "own_log_partition": result.log_partition.value,
        "own_log_partition_stderr": result.log_partition.stderr,
        "khat": result.log_partition.khat,
        "iterations": result.history[-1]["iteration"],
    }
    model, flow = result.model, result.flow
    return _in_jax(model.unnormalized_log_prob, flow.sample, cover=flow.log_prob, notes=notes)


def flowjax(kind: str, train, validation, seconds: float, key: int) -> Fitted:
    """flowjax's coupling or masked autoregressive flow of rational-quadratic splines."""
    import jax.numpy as jnp
    import jax.random as jr
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow

    from flowebm.training import fit_flow

    make = coupling_flow if kind == "coupling" else masked_autoregressive_flow
    data, held_out = (jnp.asarray(x, float) for x in (train, validation))
    epoch = max(1, len(train) // 100)
    settings = {
        "documented": {
            "batch_size": 100, "learning_rate": 5e-4, "block_length": epoch, "patience": 5
        },
        "larger": {"batch_size": 512, "learning_rate": 2e-3, "block_length": 25, "patience": 8},
    }  # fmt: skip
    fits = {}
    for number, (name, setting) in enumerate(settings.items()):
        make_key, fit_key = jr.split(jr.fold_in(jr.key(key), number))
        flow = make(
            make_key,
            base_dist=Normal(jnp.zeros(train.shape[1])),
            transformer=RationalQuadraticSpline(knots=8, interval=4),
        )
        flow, outcome = fit_flow(
            fit_key, flow, data, held_out, max_steps=1_000_000, time_budget=seconds, **setting
        )
        fits[name] = (min(row["nll"] for row in outcome.history), flow)
    name = min(fits, key=lambda name: fits[name][0])
    flow = fits[name][1]
    n_shares = _n_shares(kind, train.shape[1])
    return _in_jax(flow.log_prob, flow.sample, notes={"setting": name}, n_shares=n_shares)


def _n_shares(kind: str, dimension: int) -> int:
    """An autoregressive flow draws a point in as many passes as it has coordinates."""
    return 50_000 if kind == "coupling" or dimension <= 32 else 20_000


def zuko(train, validation, seconds: float, key: int) -> Fitted:
    """zuko's neural spline flow."""
    import torch
    from zuko.flows import NSF

    data, held_out = (torch.as_tensor(x, dtype=torch.float32) for x in (train, validation))
    fits = {}
    for name, batch_size, rate in (("documented", 64, 1e-3), ("larger", 512, 2e-3)):
        started = time.monotonic()
        torch.manual_seed(key)
        flow = NSF(train.shape[1], transforms=3, hidden_features=(128, 128, 128))
        optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
        best, state, bad = np.inf, None, 0
        while bad < 8 and time.monotonic() - started < seconds:
            for _ in range(50):
                rows = torch.randint(len(data), (batch_size,))
                loss = -flow().log_prob(data[rows]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if time.monotonic() - started > seconds:
                    break
            with torch.no_grad():
                nll = -flow().log_prob(held_out).mean().item()
            bad += 1
            if nll < best:
                best, bad = nll, 0
                state = {name: value.clone() for name, value in flow.state_dict().items()}
        flow.load_state_dict(state)
        fits[name] = (best, flow)
    name = min(fits, key=lambda name: fits[name][0])
    flow = fits[name][1]

    def log_density(rows):
        with torch.no_grad():
            parts = torch.as_tensor(rows, dtype=torch.float32).split(AT_ONCE)
            return torch.cat([flow().log_prob(part) for part in parts]).double().numpy()

    def score(rows):
        parts = []
        for part in torch.as_tensor(rows, dtype=torch.float32).split(AT_ONCE):
            part = part.clone().requires_grad_(True)
            parts.append(torch.autograd.grad(flow().log_prob(part).sum(), part)[0])
        return torch.cat(parts).double().numpy()

    def sample(seed, n):
        torch.manual_seed(seed)
        with torch.no_grad():
            parts = [flow().sample((min(AT_ONCE, n - i),)) for i in range(0, n, AT_ONCE)]
            return torch.cat(parts).double().numpy()

    n_shares = _n_shares("autoregressive", train.shape[1])
    return Fitted(log_density, score, False, sample, None, {"setting": name}, n_shares)


def mixture(train, validation, seconds: float, key: int) -> Fitted:
    """scikit-learn's mixture of Gaussians, of 1 to 128 components by validation points."""
    from sklearn.mixture import GaussianMixture

    started, best = time.monotonic(), (-np.inf, None)
    for components in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        density = GaussianMixture(components, random_state=key).fit(train)
        best = max(best, (density.score(validation), density), key=lambda candidate: candidate[0])
        if time.monotonic() - started > seconds:
            break
    density = best[1]
    precisions = density.precisions_

    def score(rows):
        pulls = np.einsum("kij,nkj->nki", precisions, density.means_ - rows[:, None])
        return np.einsum("nk,nki->ni", density.predict_proba(rows), pulls)

    def sample(seed, n):
        density.random_state = seed
        return np.random.default_rng(seed).permutation(density.sample(n)[0])

    notes = {"components": density.n_components}
    return Fitted(density.score_samples, score, False, sample, None, notes)


def kernel(train, validation, seconds: float, key: int) -> Fitted:
    """scikit-learn's kernel density, its bandwidth chosen on the validation points."""
    from scipy.special import logsumexp
    from sklearn.neighbors import KernelDensity

    started, best = time.monotonic(), (-np.inf, None, 0.0)
    for bandwidth in np.geomspace(0.5, 0.02, 15):
        density = KernelDensity(bandwidth=bandwidth).fit(train)
        value = density.score_samples(validation).mean()
        best = max(best, (value, density, bandwidth), key=lambda candidate: candidate[0])
        if time.monotonic() - started > seconds:
            break
    _, density, bandwidth = best

    def score(rows):
        parts = []
        for part in np.array_split(rows, max(1, len(rows) // 200)):
            distances = ((part[:, None] - train[None]) ** 2).sum(axis=-1)
            logits = -distances / (2 * bandwidth**2)
            weights = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
            parts.append((weights @ train - part) / bandwidth**2)
        return np.concatenate(parts)

    def sample(seed, n):
        return density.sample(n, random_state=seed)

    return Fitted(density.score_samples, score, False, sample, None, {"bandwidth": bandwidth})


def persistent(name: str, train, validation, seconds: float, key: int) -> Fitted:
    """Persistent contrastive divergence of another library."""
    import pcd_peers

    fit = pcd_peers.fit(name, train, validation, seconds, key)
    return Fitted(fit.log_density, fit.score, True, fit.sample, fit.cover, fit.notes)


METHODS = {
    "joint": lambda *given: flowebm("joint", *given),
    "balanced": lambda *given: flowebm("balanced", *given),
    "ebflow": lambda *given: flowebm("ebflow", *given),
    "flowjax coupling": lambda *given: flowjax("coupling", *given),
    "flowjax autoregressive": lambda *given: flowjax("autoregressive", *given),
    "zuko NSF": zuko,
    "GaussianMixture": mixture,
    "KernelDensity": kernel,
    "torchebm PCD": lambda *given: persistent("torchebm", *given),
    "ebmkit PCD": lambda *given: persistent("ebmkit", *given),
}
