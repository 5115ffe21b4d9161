"""The benchmark of densities: its peers' densities and scores, and what its page shows."""

import sys
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def check_score(fitted, rows):
    """Against central differences of the log-density itself."""
    step = 1e-3
    ends = [fitted.log_density(rows + sign * np.array([step, 0.0])) for sign in (1, -1)]
    np.testing.assert_allclose(
        fitted.score(rows)[:, 0], (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("method", ["KernelDensity", "GaussianMixture"])
def test_a_peers_density_and_its_score(method):
    from density_methods import METHODS

    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 2))
    fitted = METHODS[method](train, rng.normal(size=(100, 2)), 5.0, 0)
    check_score(fitted, rng.normal(size=(7, 2)))
    axis = np.linspace(-8, 8, 81)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(fitted.log_density(grid)).reshape(81, 81)
    assert trapezoid(trapezoid(density, axis), axis) == pytest.approx(1.0, abs=1e-3)
    assert fitted.sample(0, 5).shape == (5, 2)


@pytest.mark.parametrize("name", ["bananas", "unequal", "helix", "copula"])
def test_a_density_is_that_of_its_draws(name):
    r"""$\mathbb E_p[g/p] = 1$ for any normal $g$ within $p$: z-test at 5 standard errors.

    Narrower than a tenth of the draws, so that the ratio is bounded. A density that is a tenth
    too high everywhere fails.
    """
    from density_targets import TARGETS

    with jax.enable_x64(True):
        target = TARGETS[name]()
        points = jax.jit(lambda key: target.sample(key, (200_000,)))(jr.key(0))
        log_prob = np.asarray(jax.jit(jax.vmap(target.log_prob))(points))
    draws = np.asarray(points)
    middle = np.median(draws, axis=0)
    centre = draws[np.argmin(np.linalg.norm(draws - middle, axis=1))]
    near = draws[np.argsort(np.linalg.norm(draws - centre, axis=1))[:20_000]]
    narrow = multivariate_normal(near.mean(axis=0), 0.5 * np.cov(near.T))
    ratio = np.exp(narrow.logpdf(draws) - log_prob)
    error = ratio.std() / len(ratio) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean() - 1) < 5 * error


def record(kl, weights=None):
    run = {"date": "2020-01-01", "cores": 2, "versions": {"jax": "9"}, "peak_memory_bytes": 2**30}
    return {"kl": kl, "total_variation": weights, "fisher": 1.0, "fit_seconds": 30.0, "run": run}


def test_the_table_marks_the_best_median():
    import density

    results = {
        "rings": {
            "joint": {"0": record(0.1), "1": record(0.3), "2": record(0.2)},
            "zuko NSF": {"0": record(0.19, 0.5)},
        }
    }
    lines = density.table(results).splitlines()
    assert lines[2] == "| rings | joint | 3 | 0.2000, 0.3000 | – | 1 | 30 | 1.0 |"
    assert lines[3].startswith("| rings | zuko NSF | 1 | **0.1900**, 0.1900 | 0.5000, 0.5000 |")


def test_the_page_has_every_benchmark_that_was_measured(tmp_path, monkeypatch):
    import report

    (tmp_path / "images").mkdir()
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(report, "PICTURE", tmp_path / "images" / "page.png")
    report.main()
    text = (tmp_path / "page.md").read_text()
    for name, title in report.BENCHMARKS.items():
        has_results = (BENCHMARKS / "results" / f"{name}.json").exists()
        assert (f"## {title}" in text) == has_results
    assert text == report_of_the_guide()
    sys.modules.pop("report")


def report_of_the_guide():
    """What the guide shows: `make bench-report` was run after the last measurement."""
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    return page.replace("images/benchmark_density.png", "images/page.png")
