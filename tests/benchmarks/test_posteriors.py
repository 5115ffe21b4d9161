"""The posteriors that are sampled beside NUTS, and what counts as right."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from flowebm import numpyro_density

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import calibration_sampling
import posterior_models
import posteriors


def test_the_schools_log_evidence_is_the_mean_likelihood_of_the_prior():
    rng = np.random.default_rng(0)
    n = 400_000
    tau = 5 * np.abs(rng.standard_cauchy(n))
    mean, variance = rng.normal(0, 5, n)[:, None], tau[:, None] ** 2 + posterior_models.ERRORS**2
    square = (posterior_models.EFFECTS - mean) ** 2 / variance
    likelihood = np.exp(-0.5 * (square + np.log(2 * math.pi * variance)).sum(axis=1))
    assert likelihood.std() / likelihood.mean() / n**0.5 < 0.003
    assert abs(math.log(likelihood.mean()) - posterior_models.schools_log_evidence()) < 0.012


def test_the_forward_algorithm_sums_over_all_paths_of_states():
    y = np.array([-1.0, 0.4, 1.9])
    density = numpyro_density(jax.random.key(0), posterior_models.hidden_markov, y)
    without = numpyro_density(jax.random.key(0), posterior_models.hidden_markov, y[:1])
    sites = jax.tree.map(lambda leaf: leaf[None, None], density.initial)
    values = {name: site[0, 0] for name, site in density.constrain(sites).items()}

    def likelihood(path):
        log_normal = -0.5 * ((y[: len(path)] - values["means"][path,]) ** 2)
        log_normal = log_normal / values["deviations"][path,] ** 2
        normal = np.exp(log_normal) / (values["deviations"][path,] * math.sqrt(2 * math.pi))
        moves = [values["transition"][a, b] for a, b in pairwise(path)]
        return np.prod(normal) * np.prod(moves) / 3

    states = range(3)
    all_three = sum(likelihood([a, b, c]) for a in states for b in states for c in states)
    ratio = all_three / sum(likelihood([a]) for a in states)
    found = density.log_density(density.initial) - without.log_density(density.initial)
    assert float(found) == pytest.approx(math.log(ratio), abs=1e-4)


def test_exchanged_components_are_as_likely():
    known = posterior_models.POSTERIORS["mixture of two"]()
    density = numpyro_density(jax.random.key(0), known.model, *known.data)
    point = density.initial
    # The logit of the share changes its sign.
    other = {name: point[name][::-1] for name in ("means", "deviations")}
    other["share"] = -point["share"]
    assert float(density.log_density(other)) == pytest.approx(
        float(density.log_density(point)), rel=1e-5
    )
    sites = {name: np.asarray(leaf) for name, leaf in point.items()} | {"share": 0.3}
    exchanged = known.images[1](sites)
    assert exchanged["share"] == pytest.approx(0.7)
    assert known.is_first(sites) != known.is_first(exchanged)


def test_moments_are_those_over_all_images():
    known = posterior_models.POSTERIORS["mixture of two"]()
    rng = np.random.default_rng(0)
    sites = {"means": np.array([-2.0, 2.0]) + 0.1 * rng.normal(size=(4, 500, 2))}
    sites |= {"deviations": np.ones((4, 500, 2)), "share": rng.uniform(0.2, 0.4, (4, 500))}
    found = posteriors.moments(sites, known)
    assert found["share"][0] == pytest.approx(0.5)
    assert found["means 0"][1] == pytest.approx(2.0, abs=0.02)
    # Of the mean of both components, not of a jump between them.
    assert found["means 0"][2] < 0.01


TRUTH = {
    "parameters": {"mu": [1.0, 2.0, 0.01]},
    "log_evidence": -3.0,
    "divergences": 0,
    "draws": 100,
    "seconds": 9.0,
}


def record(**changes):
    return {
        "parameters": {"mu": [1.1, 2.1, 0.02]},
        "coordinates": 1,
        "log_z": -3.02,
        "log_z_stderr": 0.01,
        "rhat": 1.001,
        "evaluations": 1000,
        "seconds": 3.0,
        "warnings": [],
    } | changes


def test_a_tenth_of_a_standard_deviation_and_three_errors_are_right():
    assert posteriors.gaps(record(), TRUTH) == {"mu": pytest.approx(0.05)}
    assert posteriors.is_right(record(), TRUTH)
    assert not posteriors.is_right(record(parameters={"mu": [1.3, 2.0, 0.02]}), TRUTH)
    assert not posteriors.is_right(record(log_z=-3.05), TRUTH)
    assert posteriors.is_right(record(log_z=-9.0), TRUTH | {"log_evidence": None})
    assert not posteriors.is_right(record(share=0.7, share_stderr=0.02), TRUTH)
    assert posteriors.is_right(record(share=0.7, share_stderr=0.07), TRUTH)


def test_the_table_counts_silent_misses_and_tells_warnings():
    runs = {"0": record(), "1": record(log_z=0.0), "2": record(log_z=0.0, warnings=["Low."])}
    shown = posteriors.table({"Lotka-Volterra": {"reference": TRUTH} | runs})
    assert "1 of 3 runs are right; 1 are silent misses." in shown
    assert "- Lotka-Volterra, key 2: Low." in shown


def test_all_posteriors_have_a_name():
    assert tuple(posterior_models.POSTERIORS) == posteriors.NAMES


def run_of_log_z(log_z):
    return {
        "log_z": log_z,
        "log_z_stderr": 0.1,
        "true_log_z": 0.0,
        "seconds": 2.0,
        "warnings": [],
    }


def test_keys_are_measured_in_parts_and_counted_once():
    assert calibration_sampling.parts(60) == ["0-24", "25-49", "50-59"]
    results = {
        "0-0": {"runs": {"0": run_of_log_z(9.0)}},
        "0-2": {"runs": {str(key): run_of_log_z(0.1 * (key - 1)) for key in range(3)}},
    }
    assert len(calibration_sampling.runs(results)) == 3
    shown = calibration_sampling.table({"1%": results})
    assert "| 1% | 3 | +0.00 ± 0.58 | 1.00 ± " in shown
