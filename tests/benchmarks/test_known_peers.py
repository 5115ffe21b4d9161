"""What peers are told of the densities whose truth is known, and how their weights are measured."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import known_peers
import sampling_known
import sampling_truths

BENCHMARKS = Path(known_peers.__file__).parent


@pytest.mark.parametrize("name", ["cube", "positive", "circle", "shells"])
def test_importance_sampling_from_the_prior_has_the_right_log_z_and_weight(name):
    """Through the cube, as nested samplers see a density: prior, likelihood and region agree,
    within four standard errors, which are a twentieth at most."""
    known = sampling_truths.make(name)
    problem = known_peers.pose(known)
    u = np.random.default_rng(0).random((200_000, problem.dimension))
    z = problem.from_cube(u).astype(np.float32)
    log_weights = np.asarray(jax.jit(jax.vmap(problem.log_likelihood))(z), float)
    inside = np.asarray(jax.jit(jax.vmap(problem.region))(z), float)
    weights = np.exp(log_weights)
    log_z, log_z_stderr = math.log(weights.mean()), weights.std() / weights.mean() / len(z) ** 0.5
    weight, stderr = known_peers.of_importance(log_weights, inside)
    assert abs(log_z - known.log_z) < 4 * log_z_stderr + 1e-5
    assert abs(weight - known.weight) < 4 * stderr
    assert max(log_z_stderr, stderr) < 0.05


def test_bounds_are_a_prior_of_their_own():
    problem = known_peers.pose(sampling_truths.make("circle"))
    assert problem.scale.tolist() == [1.0, known_peers.WIDTH]
    assert problem.periodic == [0]
    middle = problem.from_cube(np.full(2, norm.cdf(1)))
    assert middle == pytest.approx([1.0, known_peers.WIDTH])


def nested_run(seed, n_live=400, n_rounds=4000):
    """An exact nested run, of strands, on a likelihood exp(-x) of a uniform x."""
    rng = np.random.default_rng(seed)
    x, born = rng.random(n_live), np.full(n_live, -np.inf)
    births, deaths, strands, points = [], [], [], []
    for _ in range(n_rounds):
        worst = int(np.argmax(x))
        births.append(born[worst])
        deaths.append(-20 * x[worst])
        strands.append(worst)
        points.append(x[worst])
        born[worst] = deaths[-1]
        x[worst] *= rng.random()
    births, deaths = np.append(births, born), np.append(deaths, -20 * x)
    strands, points = np.append(strands, np.arange(n_live)), np.append(points, x)
    return births, deaths, strands, points


def test_shells_of_a_nested_run_integrate_its_likelihood():
    births, deaths, _, _ = nested_run(0)
    shells = known_peers.log_shells(births, deaths, np.ones(len(deaths), int))
    assert np.exp(shells).sum() == pytest.approx(1, abs=1e-6)
    truth = math.log(-math.expm1(-20) / 20)
    # Information of two nats: an error of sqrt(2 / 400).
    assert abs(np.logaddexp.reduce(deaths + shells) - truth) < 0.25


def test_strands_drawn_anew_tell_the_error_of_a_weight():
    truth = -math.expm1(-1) / -math.expm1(-20)
    scores = []
    for seed in range(20):
        births, deaths, strands, points = nested_run(seed)
        weight, stderr = known_peers.of_strands(births, deaths, strands, points < 0.05)
        scores.append((weight - truth) / stderr)
    # The root of a mean of twenty squares is within 0.55 and 1.5 but once in a thousand times.
    assert 0.55 < np.sqrt(np.mean(np.square(scores))) < 1.5


def test_populations_count_by_their_own_z():
    inside = np.array([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    weights = np.full((2, 4), 0.25)
    even, _ = known_peers.of_populations(np.zeros(2), weights, inside)
    first, _ = known_peers.of_populations(np.array([0.0, -50]), weights, inside)
    assert even == pytest.approx(0.25)
    assert first == pytest.approx(0.5)


def record(**changes):
    return {
        "log_z": 0.1,
        "log_z_stderr": 0.05,
        "true_log_z": 0.0,
        "weight": 0.11,
        "weight_stderr": 0.001,
        "true_weight": 0.1,
        "evaluations": 1000,
        "seconds": [5.0, 3.0],
        "core_seconds": [5.0, 3.0],
    } | changes


def test_without_log_z_the_weight_alone_counts():
    without = record(log_z=math.nan, log_z_stderr=math.nan)
    assert sampling_known.verdict("NUTS", without) == "right"
    assert sampling_known.verdict("dynesty", without) == "log Z lost"
    assert sampling_known.verdict("dynesty", record(log_z=1.0)) == "log Z +20"
    assert sampling_known.verdict("NUTS", record(weight=0.0)) == "weight 0"
    assert sampling_known.verdict("dynesty", record(log_z=1e-6, log_z_stderr=0.0)) == "right"


def test_the_table_counts_what_was_cut_and_what_failed():
    results = {
        "NUTS": {"banana": {"0": record(log_z=math.nan)}, "ring": {"0": {"cut": 240.0}}},
        "dynesty": {"banana": {"0": record(log_z=1.0)}, "ring": {"0": {"failed": "no"}}},
    }
    own = {"banana": {"0": record(seconds=7.0, core_seconds=9.0), "1": record()}}
    shown = sampling_known.peers_table(results, own).splitlines()
    assert "| flowebm | 1 of 1 | 0 | 0 | 0 | 1,000 | 7.0 |  | 9.0 |" in shown
    assert "| NUTS | 1 of 2 | 0 | 1 | 0 | 1,000 | 122 | 3.0 | 5.0 |" in shown
    assert "| dynesty | 0 of 2 | 1 | 0 | 1 | 1,000 | 5.0 | 3.0 | 5.0 |" in shown
    assert "| banana | 0.317 | right | right | log Z +20 |" in shown


def test_peers_have_a_file_of_their_own(tmp_path):
    """A run that is over before it begins is cut, and the other file is as it was."""
    own, peers = tmp_path / "own.json", tmp_path / "peers.json"
    command = [sys.executable, "sampling_known.py", "--samplers", "NUTS", "--only", "banana"]
    files = ["--results", str(own), "--peer-results", str(peers), "--limit", "0.01"]
    done = subprocess.run([*command, *files], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| NUTS | 0 of 1 | 0 | 1 | 0 |" in done.stdout
    assert json.loads(peers.read_text())["results"]["NUTS"]["banana"]["0"]["cut"] == 0.01
    assert not own.exists()
