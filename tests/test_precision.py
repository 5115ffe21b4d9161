"""One log-density wherever it is asked, also of columns with more digits than single precision."""

import warnings

import numpy as np
import pandas as pd
import pytest

from flowebm import Architecture, BalancedOptions, EstimateWarning, FlowEBM
from flowebm.cli.measure import measure


@pytest.fixture(scope="module")
def frame():
    """A column of time stamps, whose seconds single precision does not hold."""
    rng = np.random.default_rng(0)
    rows = np.stack([1.7e9 + 3000 * rng.normal(size=300), rng.normal(size=300)], axis=1)
    return pd.DataFrame(rows, columns=["time", "value"])


@pytest.fixture(scope="module")
def fitted(frame):
    model = FlowEBM(
        "balanced",
        max_steps=5,
        architecture=Architecture(
            width=8, depth=1, flow="affine-coupling", flow_layers=1, flow_width=8, flow_depth=1
        ),
        options=BalancedOptions(n_chains=16, batch_size=16, flow_batch=16, n_evaluation=64),
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        return model.fit(frame)


@pytest.mark.filterwarnings("ignore::flowebm.EstimateWarning")
def test_evaluate_and_scores_agree_on_time_stamps(frame, fitted):
    scores = fitted.score_samples(frame)
    values = measure(0, fitted, frame.to_numpy()).values
    nll, log_z = values["nll"]["value"], values["log_partition"]["value"]
    assert nll == pytest.approx(-scores.mean() - fitted.log_partition_ + log_z, abs=1e-5)


def test_the_model_and_its_distributions_agree_with_the_scores(frame, fitted):
    """Their differences would be 0.06 nats a row, were the rows standardised after rounding."""
    scores, rows = fitted.score_samples(frame), frame.to_numpy()
    np.testing.assert_allclose(fitted.to_distribution().log_prob(rows), scores, atol=1e-4)
    energies = [fitted.model_.energy(row) for row in rows[:20]]
    np.testing.assert_allclose(energies, -scores[:20] - fitted.log_partition_, atol=1e-4)
    saved = fitted.saved_
    standardised = saved.preprocessing.transform_rows(rows)
    volume = np.log(saved.preprocessing.double_precision()[1]).sum()
    np.testing.assert_allclose(
        fitted.flow_.log_prob(rows), saved.proposal.log_prob(standardised) - volume, atol=1e-4
    )


def test_points_of_a_batch_of_any_shape_have_a_density_each(frame, fitted):
    distribution = fitted.to_distribution()
    rows = frame.to_numpy()[:6]
    assert distribution.log_prob(rows[0]).shape == ()
    np.testing.assert_allclose(
        distribution.log_prob(rows.reshape(2, 3, 2)).ravel(), distribution.log_prob(rows)
    )
    with pytest.raises(ValueError, match="Expected trailing dimensions"):
        distribution.log_prob(rows[:, :1])
