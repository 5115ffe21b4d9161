"""What objectives ask of a model and a batch."""

import jax
import jax.numpy as jnp
import pytest

from flowebm.objectives.denoising_score_matching import dsm
from flowebm.objectives.exact_likelihood import ml
from flowebm.objectives.exact_score_matching import exact
from flowebm.objectives.finite_difference_score_matching import fdssm
from flowebm.objectives.sampled_likelihood import sml
from flowebm.objectives.sliced_score_matching import ssm

KEY = jax.random.key(0)
OBJECTIVES = {"ml": ml, "sml": sml, "exact": exact, "ssm": ssm, "dsm": dsm, "fdssm": fdssm}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_no_energy_model_is_refused(name, x):
    with pytest.raises(TypeError, match=f"{name} needs an energy model, but function is none"):
        OBJECTIVES[name]()(lambda x: -x @ x, x, KEY)


@pytest.mark.parametrize("name", ["ml", "sml"])
def test_likelihood_refuses_models_of_unknown_normaliser(name, gaussian, x):
    with pytest.raises(TypeError, match=f"{name} needs a model with exact log_prob and sample"):
        OBJECTIVES[name]()(gaussian, x, KEY)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_points_of_another_shape_are_refused(name, flow):
    with pytest.raises(ValueError, match=r"a batch of points of shape \(3,\); got an array of"):
        OBJECTIVES[name]()(flow, jnp.zeros((5, 2)), KEY)
