r"""Whether `flowebm.sample` has the posteriors of numpyro models right, beside long runs of NUTS.

    python benchmarks/posteriors.py                              # everything, one key each
    python benchmarks/posteriors.py --only Lotka-Volterra --keys 2
    python benchmarks/posteriors.py --table                      # the table of what was measured

The models are those of `posterior_models.py`, sampled with all defaults by way of
`numpyro_density` from draws of their priors. The reference are four chains of numpyro's NUTS, in
coordinates in which it finds its way: the eight schools non-centred, the mixture with its means in
order, and exchanged afterwards. It is a cell of its own, with the errors of its means.

Parameters are those of the models, with bounds where they have some. A run is right where no mean
is more than a tenth of the posterior's standard deviation from the reference's, log-evidence is
within three of its standard errors where quadrature tells it, and of a mixture the share of the
first labelling within a fifth or three standard errors of one half. It is a silent miss where it
is wrong and `result.warnings` is empty.
"""

import time
from pathlib import Path
from typing import Any

import cells

RESULTS = Path(__file__).parent / "results" / "posteriors.json"

#: Their models need numpyro, which the table does not.
NAMES = (
    "eight schools, centred",
    "eight schools, non-centred",
    "hidden Markov model",
    "Gaussian process",
    "Lotka-Volterra",
    "mixture of two",
)

#: Of the reference: draws of each chain, and those before them.
N_CHAINS, N_DRAWS, N_WARMUP = 4, 20_000, 2_000

#: Standard deviations of the posterior by which a mean may be off.
LIMIT = 0.1


def measure(posterior: str, key: str) -> dict:
    """The reference, or one run."""
    return reference(posterior) if key == "reference" else run(posterior, int(key))


def reference(posterior: str) -> dict:
    """Long chains of NUTS."""
    import jax
    import numpy as np
    from numpyro.infer import MCMC, NUTS
    from posterior_models import POSTERIORS

    known = POSTERIORS[posterior]()
    started = time.perf_counter()
    chains = MCMC(
        NUTS(known.reference, target_accept_prob=0.95),
        num_warmup=N_WARMUP,
        num_samples=N_DRAWS,
        num_chains=N_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    chains.run(jax.random.key(1_000), *known.data)
    sites = chains.get_samples(group_by_chain=True)
    return {
        "parameters": moments(sites, known),
        "log_evidence": known.log_evidence() if known.log_evidence else None,
        "divergences": int(np.sum(chains.get_extra_fields()["diverging"])),
        "draws": N_CHAINS * N_DRAWS,
        "seconds": time.perf_counter() - started,
    }


def run(posterior: str, key: int) -> dict:
    """One run of `flowebm.sample`."""
    import warnings

    import jax
    import numpy as np
    from posterior_models import POSTERIORS

    from flowebm import StartPoints, numpyro_density, sample

    warnings.simplefilter("ignore")
    known = POSTERIORS[posterior]()
    density = numpyro_density(jax.random.key(0), known.model, *known.data)
    started, core_started = time.perf_counter(), time.process_time()
    result = sample(
        jax.random.key(key), density.log_density, StartPoints(density.prior), verbose=False
    )
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - core_started
    sites = density.constrain(result.draws)
    log_z = result.log_partition
    record = {
        "parameters": moments(sites, known._replace(images=known.images[:1])),
        "coordinates": sum(leaf[0, 0].size for leaf in result.draws.values()),
        "log_z": log_z.value,
        "log_z_stderr": log_z.stderr,
        "khat": log_z.khat,
        "rhat": float(result.diagnostics.rhat.max()),
        "ess_bulk": float(result.diagnostics.ess_bulk.min()),
        "modes": [[mode.weight, mode.stderr] for mode in result.modes],
        "opinions": {name: list(map(float, o)) for name, o in result.opinions.items()},
        "evaluations": result.n_evaluations,
        "seconds": seconds,
        "core_seconds": core_seconds,
        "warnings": list(result.warnings),
    }
    if known.is_first is not None:
        by_chain = np.asarray(known.is_first(sites), float).mean(axis=1)
        record["share"] = float(by_chain.mean())
        record["share_stderr"] = float(by_chain.std(ddof=1) / len(by_chain) ** 0.5)
    return record


def moments(sites: dict[str, Any], known: Any) -> dict[str, list[float]]:
    """Mean, standard deviation and the mean's Monte Carlo error of each parameter.

    Args:
        sites: Draws, leaves with leading axes `(chains, draws)`.
        known: The posterior, over whose images draws are averaged.

    Returns:
        The three by a parameter's name, such as `theta 3`.
    """
    import numpy as np
    from arviz import mcse

    images = [image(sites) for image in known.images]
    found = {}
    for site in known.parameters:
        values = np.stack([np.asarray(image[site], float) for image in images])
        flat = values.reshape(*values.shape[:3], -1)
        for index in range(flat.shape[-1]):
            draws = flat[..., index]
            name = site if flat.shape[-1] == 1 else f"{site} {index}"
            error = float(mcse(draws.mean(axis=0)))
            found[name] = [float(draws.mean()), float(draws.std()), error]
    return found


def gaps(record: dict, truth: dict) -> dict[str, float]:
    """By how many posterior standard deviations each mean is off."""
    return {
        name: abs(record["parameters"][name][0] - mean) / sd
        for name, (mean, sd, _) in truth["parameters"].items()
    }


def ratios(record: dict, truth: dict) -> list[float]:
    """Standard deviations, in units of the reference's."""
    return [record["parameters"][name][1] / sd for name, (_, sd, _) in truth["parameters"].items()]


def evidence_is_right(record: dict, truth: dict) -> bool:
    """Whether log-evidence is that of quadrature; true where that is not known."""
    exact = truth["log_evidence"]
    return exact is None or abs(record["log_z"] - exact) <= 3 * record["log_z_stderr"]


def share_is_right(record: dict) -> bool:
    """Whether a mixture's two labellings are as frequent as each other."""
    if "share" not in record:
        return True
    return abs(record["share"] - 0.5) <= max(0.1, 3 * record["share_stderr"])


def is_right(record: dict, truth: dict) -> bool:
    """Whether means, log-evidence and labellings are."""
    close = max(gaps(record, truth).values()) <= LIMIT
    return close and evidence_is_right(record, truth) and share_is_right(record)


def table(results: dict) -> str:
    """A row a run, what is said in them, and how good the reference is."""
    lines = [
        "| posterior | coordinates | key | right | worst mean, in sd | sd / reference's "
        "| log-evidence | exact | first labelling | R-hat | warnings | evaluations | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    totals, said, references = [0, 0, 0], [], []
    for posterior in [name for name in NAMES if "reference" in results.get(name, {})]:
        truth = results[posterior]["reference"]
        references.append(_reference_line(posterior, truth))
        for key in [key for key in results[posterior] if key != "reference"]:
            record = results[posterior][key]
            right = is_right(record, truth)
            silent = not right and not record["warnings"]
            totals = [a + b for a, b in zip(totals, (1, right, silent), strict=True)]
            lines.append(_row(posterior, key, record, truth))
            said += [f"- {posterior}, key {key}: {warning}" for warning in record["warnings"]]
    lines += ["", f"{totals[1]} of {totals[0]} runs are right; {totals[2]} are silent misses."]
    if said:
        lines += ["", "Warnings:", "", *said]
    return "\n".join([*lines, "", "References:", "", *references])


def _row(posterior: str, key: str, record: dict, truth: dict) -> str:
    off = gaps(record, truth)
    worst = max(off, key=lambda name: off[name])
    exact = truth["log_evidence"]
    columns = [
        posterior,
        str(record["coordinates"]),
        key,
        "yes" if is_right(record, truth) else "**no**",
        f"{off[worst]:.3f} ({worst})",
        f"{min(ratios(record, truth)):.3f} to {max(ratios(record, truth)):.3f}",
        f"{record['log_z']:.3f} ± {record['log_z_stderr']:.3f}",
        "" if exact is None else f"{exact:.3f}",
        f"{record['share']:.3f} ± {record['share_stderr']:.3f}" if "share" in record else "",
        f"{record['rhat']:.3f}",
        str(len(record["warnings"])),
        f"{record['evaluations']:,}",
        f"{record['seconds']:.0f}",
    ]
    return f"| {' | '.join(columns)} |"


def _reference_line(posterior: str, truth: dict) -> str:
    worst = max(error / sd for _, sd, error in truth["parameters"].values())
    return (
        f"- {posterior}: {truth['draws']:,} draws, {truth['divergences']} divergences, means known "
        f"to {worst:.4f} standard deviations or better, {truth['seconds']:.0f} seconds."
    )


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        {"posterior": posterior, "key": key}
        for posterior in arguments.only
        for key in ("reference", *map(str, range(arguments.keys)))
    ]
    packages = ["flowebm", "jax", "flowjax", "numpyro"]
    cells.main(arguments, wanted, measure, table, packages=packages)


if __name__ == "__main__":
    main()
