"""Bridge sampling against closed forms."""

import numpy as np
from scipy.stats import norm

from flowebm.evaluation.bridge import bridge


def log_weights(x, sd):
    """Of an unnormalised normal, of log Z 1.5, against a standard one."""
    return norm.logpdf(x, 0.5, sd) + 1.5 - norm.logpdf(x)


def test_it_is_right_within_its_errors_where_importance_weights_have_no_variance():
    """The target is twice as wide as the proposal. 40 repetitions: the mean z-score within 5
    standard errors, the spread of z within 0.6 and 1.5: false alarms under 1e-4."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(40):
        of_q = log_weights(rng.normal(size=4000), 2.0)
        of_p = log_weights(0.5 + 2 * rng.normal(size=(20, 200)), 2.0)
        estimate = bridge(of_q, of_p)
        scores.append((estimate.value - 1.5) / estimate.stderr)
    assert abs(np.mean(scores)) < 5 / 40**0.5
    assert 0.6 < np.std(scores) < 1.5


def test_what_the_proposal_never_reached_counts_by_the_models_draws():
    """Half of the model's draws are where the proposal has none: importance sampling is low by
    ln 2, the bridge is not."""
    of_q = np.zeros(5000)
    of_p = np.zeros((20, 250))
    of_p[::2] = 200.0
    assert abs(bridge(of_q, of_p).value - np.log(2)) < 1e-6
