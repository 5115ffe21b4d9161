"""Neal's funnel in more than two dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from flowebm.data.targets import Funnel


def test_log_prob_is_a_gaussian_given_the_first_coordinate():
    x = np.array([-1.5, 0.3, -0.2, 1.1])
    expected = norm.logpdf(x[0], 0, 2) + norm.logpdf(x[1:], 0, np.exp(x[0] / 2)).sum()
    with jax.enable_x64(True):
        np.testing.assert_allclose(Funnel(4, 2.0).log_prob(jnp.array(x)), expected, rtol=1e-13)


@pytest.mark.parametrize("options", [{"dim": 1}, {"scale": -1.0}])
def test_impossible_parameters_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Funnel(**options)
