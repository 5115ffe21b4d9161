"""An energy-based flow fitted by score matching, or by likelihood, on the shared driver."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowjax.distributions import StandardNormal

from flowebm.data import LogitPixels
from flowebm.layers import FullLinear, Whitening
from flowebm.models import EBFlow, EnergyModel, build_ebflow
from flowebm.models.ebflow_architecture import EBFlowArchitecture
from flowebm.models.ebflow_architectures import fully_connected_ebflow
from flowebm.models.tilts import MLPTilt
from flowebm.objectives import ssm
from flowebm.training import EBFlowOptions, fit_ebflow
from flowebm.training.fit_ebflow import _largest_matrix

MEAN, FACTOR = np.array([1.0, -2.0]), np.array([[0.7, 0.0], [0.9, 0.4]])
DATA = MEAN + np.random.default_rng(0).standard_normal((4000, 2)) @ FACTOR.T
OPTIONS = EBFlowOptions(objective="ssm", learning_rate=0.02, average_decay=0.98)


@eqx.filter_jit
def log_prob(model, x):
    return model.log_prob(x)


def linear_flow():
    return EBFlow([FullLinear(jnp.eye(2), jnp.zeros(2))])


def fit(data=DATA, model=None, **choices):
    choices = {"options": OPTIONS, "max_steps": 2000, "block_length": 500} | choices
    return fit_ebflow(jr.key(1), model or linear_flow(), data, **choices)


@pytest.fixture(scope="module")
def counted_fit(compiled_blocks):
    with compiled_blocks() as programs:
        result = fit()
    return result, programs


@pytest.fixture(scope="module")
def gaussian(counted_fit):
    return counted_fit[0]


def test_score_matching_compiles_one_program(counted_fit):
    result, programs = counted_fit
    assert len(result.history) == 5
    assert len(programs) == 1


def test_a_linear_flow_finds_the_gaussian_of_the_data(gaussian):
    """Score matching of a Gaussian has the data's own mean and covariance as its minimum. The
    KL divergence of the fit from the empirical Gaussian is 0 there; 0.01 nats is what the noise
    of the slices leaves."""
    covariance, mean = np.cov(DATA.T), DATA.mean(axis=0)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, 20_000)
    nll = -np.mean(log_prob(gaussian.model, jnp.asarray(draws)))
    noise = 3.9 / np.sqrt(len(draws))  # The NLL of a 2-D Gaussian has unit variance.
    assert abs(nll - entropy) < 0.01 + noise


def test_the_reported_nll_and_log_z_are_exact(gaussian):
    model = gaussian.model
    assert gaussian.log_partition.value == pytest.approx(float(model.log_normalizer()), abs=1e-6)
    assert gaussian.log_partition.stderr == 0
    nll = [row["nll"] for row in gaussian.history]
    assert nll[-1] < nll[0]
    assert gaussian.flow is model


def test_the_same_key_gives_the_same_fit(gaussian):
    again = fit()
    np.testing.assert_array_equal(again.model.layers[0].weight, gaussian.model.layers[0].weight)


PIXELS = np.random.default_rng(2).binomial(7, [0.2, 0.5, 0.7], (600, 3)).astype(np.uint8)
LOGIT = LogitPixels((3,), levels=8)


@pytest.fixture(scope="module")
def pixel_fits():
    """With and without match after preprocessing."""
    return {
        after: fit(
            PIXELS,
            fully_connected_ebflow((3,), act_norm=False),
            preprocessing=LOGIT,
            noise=True,
            options=EBFlowOptions(
                objective="ssm",
                learning_rate=0.01,
                average_decay=0.98,
                match_after_preprocessing=after,
            ),
            max_steps=100,
            block_length=50,
        )
        for after in (True, False)
    }


@pytest.mark.parametrize("after", [True, False])
def test_the_nll_of_pixels_is_in_their_own_units(pixel_fits, after):
    """The density that `model` and preprocessing make of fresh noisy pixels has the NLL that the
    history reports on the validation pixels, up to the noise of 60 points: 3.9 standard errors
    of each, a false-alarm rate of 1e-4."""
    result = pixel_fits[after]
    assert result.model.shape == (3,)
    noisy = jnp.asarray(PIXELS + np.random.default_rng(3).random(PIXELS.shape))
    z, log_det = jax.jit(jax.vmap(LOGIT.transform_and_log_det))(noisy)
    nll = -np.asarray(log_prob(result.model, z) + log_det)
    kept = min(result.history, key=lambda row: row["nll"])
    # 512 of the training points, of which the fit has seen no more than of these.
    assert abs(kept["train_nll"] - nll.mean()) < 3.9 * nll.std() / np.sqrt(512)
    bound = 3.9 * np.hypot(kept["nll_stderr"], nll.std() / np.sqrt(len(nll)))
    assert abs(nll.mean() - kept["nll"]) < bound


def test_matching_after_preprocessing_is_another_objective(pixel_fits):
    losses = [result.history[1]["loss"] for result in pixel_fits.values()]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


@pytest.fixture(scope="module")
def ill_conditioned():
    """Points whose directions differ by a factor of 1,000, and a fit of 100 iterations."""
    rng = np.random.default_rng(5)
    points = (rng.standard_normal((4000, 3)) * [1.0, 30.0, 1000.0]) @ np.linalg.qr(
        rng.standard_normal((3, 3))
    )[0]
    model = EBFlow([Whitening((3,)), FullLinear(jnp.eye(3), jnp.zeros(3))])
    return points, fit(points, model, max_steps=100, block_length=50)


def test_scores_are_matched_in_whitened_coordinates(ill_conditioned):
    """Of a normal density the loss is minus half the trace of its precision: 3/2 when whitened, 1/2
    in the data's own units. 3.9 standard errors of a batch of 256."""
    _, result = ill_conditioned
    assert result.history[1]["loss"] == pytest.approx(-1.5, abs=3.9 * np.sqrt(1.5 / 256))


def test_a_whitening_comes_back_with_the_model(ill_conditioned):
    """The Gaussian of the data is fitted at once, and densities are in the data's units."""
    points, result = ill_conditioned
    assert isinstance(result.model.layers[0], Whitening)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(points.T))[1]
    nll = -np.mean(log_prob(result.model, jnp.asarray(points, jnp.float32)))
    assert nll == pytest.approx(entropy, abs=0.02)
    kept = min(result.history, key=lambda row: row["nll"])
    # 512 of these points, with 3.9 standard errors.
    assert kept["train_nll"] == pytest.approx(nll, abs=3.9 * np.sqrt(1.5 / 512))


@eqx.filter_jit
def whitened(model, preprocessing, pixels):
    z = jax.vmap(preprocessing.transform)(pixels)
    return jax.vmap(paramax.unwrap(model.layers[0]).forward)(z)


def test_pixels_are_whitened_by_several_draws_of_their_noise():
    """A pixel that is always zero has the noise's variance, which takes more than a few points."""
    pixels = np.zeros((50, 2), np.uint8)
    pixels[:, 1] = np.arange(50) % 8
    model = EBFlow([Whitening((2,)), FullLinear(jnp.eye(2), jnp.zeros(2))])
    result = fit(pixels, model, preprocessing=LogitPixels((2,), levels=8), noise=True, max_steps=0)
    draws = jnp.asarray(np.random.default_rng(0).random((50_000, 2)))
    y = whitened(result.model, LogitPixels((2,), levels=8), draws)[:, 0]
    # The relative error of a variance of n draws is sqrt((kurtosis - 1) / n), here at most 0.02.
    assert np.var(y) == pytest.approx(1, abs=0.08)


def test_noise_of_the_same_pixels_is_no_held_out_point():
    """100 points of 64 independent entries: whitened fresh points have a variance of 1 if their
    correlations are shrunken away, and of 1 / (1 - 0.64) if those of the points are believed,
    which points seen before with other noise would speak for."""
    levels, shape = 256, (64,)
    pixels = np.random.default_rng(6).integers(0, levels, (100, 64)).astype(np.uint8)
    model = EBFlow([Whitening(shape), FullLinear(jnp.eye(64), jnp.zeros(64))])
    result = fit(pixels, model, preprocessing=LogitPixels(shape), noise=True, max_steps=0)
    fresh = jnp.asarray(np.random.default_rng(7).random((1000, 64)) * levels)
    y = whitened(result.model, LogitPixels(shape), fresh)
    assert np.mean(np.square(y)) < 1.3


def test_flips_mirror_images_whole():
    """A Gaussian fitted to rising rows of pixels and their mirror images holds both to be equally
    likely; without flips, or with flips of other axes, falling rows are far out."""
    rising = np.tile(np.arange(4.0), (200, 1, 1, 1)) + 0.3 * np.random.default_rng(4).random(
        (200, 1, 1, 4)
    )
    model = EBFlow([FullLinear(jnp.eye(4), jnp.zeros(4), (1, 1, 4))], StandardNormal((1, 1, 4)))
    options = EBFlowOptions(learning_rate=0.02, average_decay=0.9, horizontal_flips=True)
    flipped = fit(rising, model, options=options, max_steps=200, block_length=100).model
    falling = rising[..., ::-1].copy()
    likelihoods = [np.mean(log_prob(flipped, jnp.asarray(rows))) for rows in (rising, falling)]
    assert abs(likelihoods[0] - likelihoods[1]) < 1


@pytest.mark.parametrize("objective", ["dsm", "fdssm", "exact", "ml", "sml"])
def test_every_objective_lowers_the_exact_nll(objective):
    options = EBFlowOptions(objective=objective, learning_rate=0.02, average_decay=0.9)
    history = fit(options=options, max_steps=60, block_length=30).history
    assert history[-1]["nll"] < history[0]["nll"] - 0.1


def test_a_given_objective_stands_before_the_named_one(gaussian):
    result = fit(objective=ssm(), options=EBFlowOptions(**(vars(OPTIONS) | {"sigma": 9.0})))
    assert result.history[-1]["loss"] == gaussian.history[-1]["loss"]


def test_overfitting_is_not_taken_for_divergence():
    """Validation points far from the data get ever worse without a return to an earlier state."""
    far = DATA[:100] + 40.0
    result = fit(validation=far, options=EBFlowOptions(learning_rate=0.02), max_steps=1000)
    assert max(row["nll"] for row in result.history) > result.history[0]["nll"] + 2
    assert result.warnings == ()


def test_few_entries_are_fitted_by_likelihood_and_many_by_score_matching():
    by_name = {name: EBFlowOptions(objective=name) for name in ("auto", "ml", "ssm")}
    model, points = linear_flow(), jnp.asarray(DATA[:8], jnp.float32)

    def loss(name, size):
        return float(by_name[name].make_objective(size)(model, points, jr.key(0)))

    assert loss("auto", 2) == loss("ml", 2)
    assert loss("auto", 784) == loss("ssm", 2) != loss("ml", 2)


def test_what_cannot_be_fitted_is_refused():
    tilted = EnergyModel(MLPTilt((2,), key=jr.key(0)), StandardNormal((2,)))
    with pytest.raises(TypeError, match="fits an EBFlow"):
        fit(model=tilted)
    with pytest.raises(ValueError, match=r"data's points have shape \(3,\)"):
        fit(np.zeros((60, 3)))
    with pytest.raises(ValueError, match="validation points have shape"):
        fit(validation=np.zeros((60, 3)))
    with pytest.raises(ValueError, match="whole numbers"):
        fit(noise=True)
    for choice, message in [
        ({"objective": "sms"}, "objective must be "),
        ({"optimizer": "sgd"}, "optimizer must be "),
        ({"objective": "dsm", "sigma": -1.0}, "sigma must be above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(options=EBFlowOptions(**choice))


def test_a_likelihood_without_large_determinants_is_the_default():
    """A Glow mixes channels, whose determinants cost nothing; convolutions mix a whole image."""

    def largest(name, shape=(1, 28, 28)):
        architecture = EBFlowArchitecture(name, n_blocks=1, whiten=False, conditioner_width=4)
        return _largest_matrix(build_ebflow(architecture, shape, key=jr.key(0)))

    assert (largest("glow"), largest("cnn"), largest("fc", (7,))) == (1, 784, 7)
