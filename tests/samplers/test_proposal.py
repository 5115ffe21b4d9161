import jax
import jax.numpy as jnp
import pytest
from flowjax.distributions import Normal

from flowebm.samplers import FunctionProposal, WeightedState, draw, flow_imh


def log_density(x):
    return -jnp.sum(x**4)


def test_log_weight_is_the_log_ratio_of_the_densities():
    proposal = Normal(jnp.ones(3), 2.0)
    state = flow_imh.init(jnp.arange(3.0), log_density, proposal)
    assert state.log_weight == -17.0 - proposal.log_prob(jnp.arange(3.0))


def test_a_draw_carries_the_terms_that_evaluating_it_gives():
    proposal = Normal(jnp.ones(3), 2.0)
    drawn = draw(jax.random.key(0), log_density, proposal)
    evaluated = flow_imh.init(drawn.position, log_density, proposal)
    assert drawn.logdensity == evaluated.logdensity
    assert drawn.proposal_log_prob == pytest.approx(float(evaluated.proposal_log_prob))


def test_functions_make_the_same_proposal_as_the_distribution_they_come_from():
    normal = Normal(jnp.ones(3), 2.0)
    functions = FunctionProposal(normal.log_prob, normal.sample_and_log_prob)
    expected = draw(jax.random.key(0), log_density, normal)
    got = draw(jax.random.key(0), log_density, functions)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), got, expected))


@pytest.mark.parametrize(
    ("logdensity", "proposal_log_prob"),
    [(jnp.nan, 0.0), (0.0, jnp.nan), (-jnp.inf, 0.0), (-jnp.inf, -jnp.inf)],
)
def test_a_point_of_no_mass_or_no_value_has_no_weight(logdensity, proposal_log_prob):
    assert WeightedState(0.0, logdensity, proposal_log_prob).log_weight == -jnp.inf
