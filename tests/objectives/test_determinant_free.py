"""A score-matching step computes no determinant and no factorisation."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from flowebm.models.ebflow_architectures import convolutional_ebflow, fully_connected_ebflow
from flowebm.objectives.denoising_score_matching import dsm
from flowebm.objectives.exact_likelihood import ml
from flowebm.objectives.exact_score_matching import exact
from flowebm.objectives.finite_difference_score_matching import fdssm
from flowebm.objectives.sampled_likelihood import sml
from flowebm.objectives.sliced_score_matching import ssm

SMALL_IMAGES = {"shape": (1, 4, 4), "n_blocks": 2, "convolutions_per_block": 1, "kernel_size": 3}
MODELS = {
    "fully connected": lambda: fully_connected_ebflow((4,)),
    "convolutional": lambda: convolutional_ebflow(**SMALL_IMAGES, method="direct"),
    "convolutional by rows": lambda: convolutional_ebflow(**SMALL_IMAGES, method="rows"),
    "convolutional by transforms": lambda: convolutional_ebflow(**SMALL_IMAGES, method="fourier"),
    "circular": lambda: convolutional_ebflow(**SMALL_IMAGES, padding="circular"),
}
FACTORISATION = re.compile(
    r"getrf|potrf|geqrf|gesdd|gesvd|syevd|heevd|geev|gehrd|sytrd|trsm|lu_|\blu\b|qr\b|svd|eigh"
    r"|cholesky|triangular.solve|householder|determinant|linear_solve",
    re.IGNORECASE,
)


def step_of(model, objective):
    """One step's loss and gradient as a function of the trainable arrays."""
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    x = jnp.ones((2, *model.shape))

    def step(parameters, x, key):
        return jax.value_and_grad(
            lambda parameters: objective(eqx.combine(parameters, static), x, key)
        )(parameters)

    return step, (parameters, x, jax.random.key(0))


def primitives(jaxpr):
    """The names of all primitives of a program, those of its inner programs included."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in jaxprs_in_params(equation.params):
            names |= primitives(inner)
    return names


@pytest.mark.parametrize(
    "objective",
    [ssm(), ssm(2), dsm(), fdssm(), exact()],
    ids=["ssm", "ssm2", "dsm", "fdssm", "exact"],
)
@pytest.mark.parametrize("name", MODELS)
def test_no_score_matching_step_traces_a_factorisation(name, objective):
    step, arguments = step_of(MODELS[name](), objective)
    names = primitives(jax.make_jaxpr(step)(*arguments).jaxpr)
    assert not [name for name in names if FACTORISATION.search(name)]


@pytest.mark.parametrize("name", ["fully connected", "convolutional"])
def test_no_compiled_score_matching_step_factorises(name):
    step, arguments = step_of(MODELS[name](), ssm())
    assert not FACTORISATION.search(operations(step, arguments))


@pytest.mark.parametrize("objective", [ml(), sml()], ids=["ml", "sml"])
def test_the_search_finds_the_factorisations_of_likelihoods(objective):
    """So that the tests above can fail."""
    step, arguments = step_of(MODELS["fully connected"](), objective)
    assert FACTORISATION.search(operations(step, arguments))
    names = primitives(jax.make_jaxpr(step)(*arguments).jaxpr)
    assert [name for name in names if FACTORISATION.search(name)]


def operations(step, arguments):
    """The compiled program's opcodes and the targets of its library calls, one a line."""
    text = jax.jit(step).lower(*arguments).compile().as_text()
    opcodes = re.findall(r" = \S+ ([\w-]+)\(", text)
    targets = re.findall(r'custom_call_target="([^"]+)"', text)
    return "\n".join([*opcodes, *targets])
