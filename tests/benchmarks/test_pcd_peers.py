"""Persistent contrastive divergence of other libraries: what a fit returns is one density."""

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["torchebm", "ebmkit"])
def test_a_fit_is_an_energy_with_its_score_and_a_density_that_covers_it(name, monkeypatch):
    pytest.importorskip({"ebmkit": "ebm"}.get(name, name))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pcd_peers

    rng = np.random.default_rng(0)
    setting = pcd_peers.Setting((16,), 2, 0.01, 32, buffer_size=64)
    train, validation = rng.normal(size=(400, 2)), rng.normal(size=(100, 2))
    fitted = pcd_peers.fit(name, train, validation, 0.5, 0, {"small": setting})

    rows, step = rng.normal(size=(5, 2)), np.array([1e-2, 0.0])
    slope = (fitted.log_density(rows + step) - fitted.log_density(rows - step)) / 2e-2
    np.testing.assert_allclose(fitted.score(rows)[:, 0], slope, atol=1e-3)

    axis = np.linspace(-15, 15, 301)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(fitted.cover(grid)) * 0.1**2
    assert mass.sum() == pytest.approx(1.0, abs=1e-3)
    # Draws follow it: their second moment, within five standard errors of a fixed seed.
    draws = fitted.sample(1, 4000)
    error = (draws**2).std(axis=0) / 4000**0.5
    assert np.all(np.abs((draws**2).mean(axis=0) - mass @ grid**2) < 5 * error)
