"""Recipes: models as plain values and arrays, and the way back, for trusted classes alone."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest

from flowebm.models import MLPTilt, make_flow
from flowebm.models.autoregressive import AutoregressiveMixture
from flowebm.models.bounded import BoundedTilt, NoTilt
from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.linear_change import LinearChange
from flowebm.models.marginals import fit_marginals
from flowebm.models.recipe import KINDS, build, describe, register
from flowebm.models.stack import Stack
from flowebm.models.subspace import SubspaceDensity, SubspaceTilt
from flowebm.models.tilted import EnergyModel
from flowebm.training.stages.network import behind


class Waves(eqx.Module):
    """A tilt of a user."""

    frequency: jax.Array
    phase: float
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, x):
        return jnp.sum(jnp.sin(self.frequency * x + self.phase))


@pytest.fixture
def registered():
    register(Waves)
    yield Waves
    del KINDS["Waves"]


def all_kinds():
    """A model of about everything that joint training makes."""
    mixture = gaussian_mixture_of([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.2 * np.eye(2)] * 2)
    change = LinearChange.of(2 * jnp.eye(4), jnp.arange(4.0), (4,))
    network = AutoregressiveMixture(
        np.array([1, 0, 3, 2]), width=8, blocks=1, components=2,
        circular=(False, True, False, False), key=jr.key(0),
    )  # fmt: skip
    marginals = fit_marginals(np.random.default_rng(0).normal(size=(100, 4)))
    flow = make_flow("affine-coupling", (4,), layers=2, width=4, depth=1, key=jr.key(1))
    parts = [SubspaceDensity(mixture, change), behind(network, marginals), flow]
    base = paramax.non_trainable(Stack(parts, jnp.log(jnp.array([0.2, 0.3, 0.5]))))
    tilt = MLPTilt((4,), width=8, depth=2, activation="tanh", residual=True, key=jr.key(2))
    return EnergyModel(BoundedTilt(SubspaceTilt.of(tilt, change, 2, key=jr.key(3)), 1.5), base)


def round_trip(tree):
    recipe, arrays = describe(tree)
    return build(json.loads(json.dumps(recipe, allow_nan=False)), arrays)


def same(one, other):
    leaves = [jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other)]
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*leaves, strict=True))


def test_a_model_of_all_kinds_comes_back():
    model = all_kinds()
    built = round_trip(model)
    assert same(built, model)
    x = jnp.array([0.1, -0.5, 2.0, 1.0])
    energy = eqx.filter_jit(lambda model, x: model.energy(x))
    assert energy(built, x) == energy(model, x)
    draw = eqx.filter_jit(lambda model: paramax.unwrap(model.base).sample(jr.key(0)))
    np.testing.assert_array_equal(draw(built), draw(model))
    # What was not trained is not.
    frozen = [
        sum(isinstance(leaf, paramax.NonTrainable) for leaf in jax.tree.leaves(
            tree, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)))
        for tree in (model, built)
    ]  # fmt: skip
    assert frozen[0] == frozen[1] > 0


def test_a_tilt_of_a_user_comes_back(registered):
    tilt = Waves(jnp.arange(3.0), 0.25, ("a", "b"))
    built = round_trip({"tilt": tilt})["tilt"]
    assert isinstance(built, Waves)
    assert (built.phase, built.names) == (0.25, ("a", "b"))
    np.testing.assert_array_equal(built.frequency, tilt.frequency)


def test_a_tilt_that_is_not_registered_is_refused_in_both_directions(registered):
    recipe, arrays = describe({"tilt": Waves(jnp.arange(3.0), 0.25, ())})
    del KINDS["Waves"]
    with pytest.raises(ValueError, match=r"tilt is a Waves.*register"):
        describe({"tilt": Waves(jnp.arange(3.0), 0.25, ())})
    with pytest.raises(ValueError, match="Waves"):
        build(recipe, arrays)
    KINDS["Waves"] = Waves
    with pytest.raises(ValueError, match="Another class named Waves"):
        register(type("Waves", (eqx.Module,), {}))


@pytest.mark.parametrize("value", [print, lambda x: x, {1, 2}, float("nan"), object()])
def test_what_no_file_can_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"no file can hold|not finite"):
        describe({"tilt": value})


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"kind": "Popen", "fields": {}}, "Popen"),
        ({"kind": "eval"}, "eval"),
        ({"kind": ["Linear"], "fields": {}}, "not one of a model"),
        ({"kind": "Linear", "fields": {"weight": {"array": "weight"}}}, "Linear has the fields"),
        ({"kind": "Linear"}, "not one of a model"),
        ({"activation": "__import__"}, "__import__"),
        ({"built": ["system", "ls"], "frozen": False}, "system"),
        ({"built": [], "frozen": False}, ""),
        ({"array": "x"}, "no array"),
        ({"kind": "Stack", "fields": {"components": "ab", "log_shares": 1}}, "not one of a model"),
    ],
)
def test_recipes_of_something_else_are_refused(recipe, words):
    with pytest.raises(ValueError, match=words):
        build({"model": recipe}, {})


def test_arrays_must_be_those_of_the_recipe():
    recipe, arrays = describe(eqx.nn.Linear(3, 2, key=jr.key(0)))
    with pytest.raises(ValueError, match="array more too many"):
        build(recipe, arrays | {"more": np.ones(1)})
    with pytest.raises(ValueError, match="no array bias"):
        build(recipe, {"weight": arrays["weight"]})
    for bad, words in [
        (np.full(2, np.nan, np.float32), "not finite"),
        (np.ones(2, np.float16), "of type float16"),
        (np.ones(2, bool), "of type bool"),
        (np.ones(2, np.float64), "double precision"),
    ]:
        with pytest.raises(ValueError, match=words):
            build(recipe, arrays | {"bias": bad})


def test_a_builder_is_given_no_number_beyond_its_arrays():
    flow = make_flow("affine-coupling", (2,), layers=1, width=4, depth=1, key=jr.key(1))
    recipe, arrays = describe(flow)
    assert same(build(recipe, arrays), flow)
    for place, value in enumerate(recipe["built"]):
        if type(value) is int:
            larger = [*recipe["built"]]
            larger[place] = 10**9
            with pytest.raises(ValueError, match="larger model than its arrays"):
                build(recipe | {"built": larger}, arrays)


def test_deep_nesting_is_refused():
    recipe = None
    for _ in range(100_000):
        recipe = [recipe]
    with pytest.raises(ValueError, match="not one of a model"):
        build(recipe, {})


def test_nothing_of_a_class_is_run_when_it_is_built():
    assert isinstance(round_trip(NoTilt()), NoTilt)


def test_a_process_that_only_reads_models_knows_all_classes():
    """`flowebm.load_model` of a run's model must not need what has fitted it."""
    code = """
import importlib, pkgutil
import flowebm.models as models
from flowebm.models.recipe import BUILDERS, KINDS
before = {*KINDS, *BUILDERS}
for module in pkgutil.iter_modules(models.__path__):
    importlib.import_module(f"flowebm.models.{module.name}")
print(*({*KINDS, *BUILDERS} - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
