"""`FlowEBM("ebflow")`: the same interface with an exact likelihood."""

import jax
import numpy as np
import pytest

from flowebm.estimator import FlowEBM
from flowebm.models import Architecture, EBFlowArchitecture, build_ebflow
from flowebm.training import BalancedOptions, EBFlowOptions

LINEAR = EBFlowArchitecture("fc", n_blocks=1)
MEAN, FACTOR = np.array([500.0, -1.0]), np.array([[100.0, 0.0], [0.05, 0.1]])
DATA = MEAN + np.random.default_rng(0).standard_normal((600, 2)) @ FACTOR.T


def estimator(**parameters):
    defaults = {
        "max_steps": 200,
        "architecture": LINEAR,
        "options": EBFlowOptions(learning_rate=0.02, average_decay=0.95),
        "random_state": 7,
    }
    return FlowEBM("ebflow", **(defaults | parameters))


@pytest.fixture(scope="module")
def fitted():
    return estimator().fit(DATA)


def test_the_density_integrates_to_one_without_an_error(fitted):
    covariance = np.cov(DATA.T)
    axes = [
        np.linspace(m - 8 * s, m + 8 * s, 201)
        for m, s in zip(DATA.mean(axis=0), np.sqrt(np.diag(covariance)), strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(fitted.score_samples(grid)).sum() * np.prod([a[1] - a[0] for a in axes])
    assert mass == pytest.approx(1.0, abs=1e-4)
    assert fitted.log_partition_stderr_ == 0


def test_samples_are_exact(fitted):
    """The mean log-density of the model's samples is its negative entropy, that of a Gaussian
    with their covariance; 4 standard errors of 20,000 draws, a false-alarm rate of 6e-5."""
    samples = fitted.sample(20_000)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(samples.T))[1]
    assert abs(fitted.score(samples) + entropy) < 4 / np.sqrt(20_000)


def test_a_saved_and_loaded_model_gives_the_same_scores_and_samples(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = FlowEBM.load(tmp_path)
    assert loaded.method == "ebflow"
    assert loaded.architecture == LINEAR
    np.testing.assert_array_equal(loaded.score_samples(DATA), fitted.score_samples(DATA))
    draws = [model.sample(20, random_state=1) for model in (loaded, fitted)]
    np.testing.assert_array_equal(*draws)


def test_missing_entries_are_drawn_and_the_others_stay(fitted):
    rows = DATA[:30].copy()
    rows[:, 1] = np.nan
    draws = fitted.impute(rows, n_draws=2, random_state=0)
    assert draws.shape == (2, 30, 2)
    np.testing.assert_array_equal(draws[..., 0], [rows[:, 0]] * 2)
    assert np.isfinite(draws).all()
    assert (draws[0, :, 1] != draws[1, :, 1]).all()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 4, (200, 4))


@pytest.fixture(scope="module")
def fitted_to_pixels(pixels):
    return estimator(point_shape=(1, 2, 2), pixel_levels=4, max_steps=50).fit(pixels)


def test_samples_of_pixels_are_whole_numbers(fitted_to_pixels):
    assert set(np.unique(fitted_to_pixels.sample(100))) <= {0, 1, 2, 3}


def test_a_saved_model_of_pixels_keeps_their_levels(fitted_to_pixels, pixels, tmp_path):
    fitted_to_pixels.save(tmp_path)
    loaded = FlowEBM.load(tmp_path)
    assert loaded.pixel_levels == 4
    np.testing.assert_array_equal(
        loaded.score_samples(pixels), fitted_to_pixels.score_samples(pixels)
    )
    values = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(values.replace('"levels": 4', '"levels": "4"'))
    with pytest.raises(ValueError, match="no valid 'preprocessing'"):
        FlowEBM.load(tmp_path)


def test_scores_of_pixels_need_them_in_range(fitted_to_pixels):
    with pytest.raises(
        ValueError, match="Pixels of 4 levels lie from 0 to 3; these go from 0 to 9"
    ):
        fitted_to_pixels.score_samples([[0, 1, 2, 9]])


@pytest.mark.parametrize(
    ("parameters", "error", "sentence"),
    [
        ({"architecture": Architecture()}, TypeError, "takes architecture of type EBFlowArch"),
        ({"options": BalancedOptions()}, TypeError, "takes options of type EBFlowOptions"),
        ({"objective": "sms"}, ValueError, "objective must be "),
        ({"architecture": EBFlowArchitecture("glow")}, ValueError, "glow is for images of shape"),
        ({"pixel_levels": 4}, ValueError, "Pixels of 4 levels lie from 0 to 3"),
        ({"method": "balanced"}, TypeError, "takes architecture of type Architecture"),
        (
            {"method": "balanced", "architecture": None, "options": None, "objective": "ssm"},
            ValueError,
            "objective is for the method 'ebflow'",
        ),
    ],
)
def test_choices_that_do_not_fit_are_refused(parameters, error, sentence):
    model = estimator().set_params(**parameters)
    with pytest.raises(error, match=sentence):
        model.fit(DATA)


def test_pixels_with_noise_already_on_them_are_refused(pixels):
    with pytest.raises(ValueError, match="must be whole numbers"):
        estimator(pixel_levels=4).fit(pixels + 0.5 * (np.arange(4) == 0))


def test_each_kind_of_point_has_an_architecture_by_default():
    def layers(shape, **choices):
        model = build_ebflow(EBFlowArchitecture(**choices), shape, key=jax.random.key(0))
        return {type(layer).__name__ for layer in model.layers}

    assert "AffineCoupling" in layers((3,))
    assert "SplineCoupling" in layers((3,), transformer="spline")
    for shape in [(1,), (1, 4, 4)]:
        assert "FullLinear" in layers(shape)
        assert not any("Coupling" in name for name in layers(shape))
