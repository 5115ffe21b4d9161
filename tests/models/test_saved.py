"""Saved models: the same model back, or one sentence why not."""

import dataclasses
import hashlib
import json
import math
import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from safetensors.numpy import load, save

from flowebm.data import Standardise
from flowebm.models import EnergyModel
from flowebm.models.architecture import Architecture, build
from flowebm.models.autoregressive import AutoregressiveMixture
from flowebm.models.bounded import BoundedTilt
from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.marginals import fit_marginals
from flowebm.models.recipe import KINDS, register
from flowebm.models.saved import SavedModel, load_model, save_model
from flowebm.models.stack import Stack
from flowebm.refusal import Refused
from flowebm.training.stages.network import behind

ARCHITECTURE = Architecture(width=4, depth=1, flow_layers=1, flow_width=4, flow_depth=1)
READOUT = "model.tilt.readout.weight"


def make(architecture=ARCHITECTURE, shape=(3,)):
    model, proposal = build(architecture, shape, key=jax.random.key(1))
    weight = jnp.ones_like(model.tilt.readout.weight)
    model = eqx.tree_at(lambda m: m.tilt.readout.weight, model, weight)
    scaling = Standardise(np.arange(3.0).reshape(shape), np.full(shape, 2.0))
    return SavedModel(
        model,
        proposal,
        scaling,
        log_partition=-1.25,
        log_partition_stderr=0.1,
        architecture=architecture,
        columns=("a", "b", "Ω"),
        metadata={"method": "balanced", "rows": [1, None, True]},
    )


@pytest.fixture(scope="module")
def saved():
    return make()


@pytest.fixture(scope="module")
def files(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, saved)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def rewrite(folder, change_values=None, change_arrays=None):
    """Change either file and keep the two consistent, as an attacker would."""
    values = json.loads((folder / "model.json").read_bytes())
    content = (folder / "model.safetensors").read_bytes()
    if change_arrays is not None:
        arrays = dict(load(content))
        change_arrays(arrays)
        content = save(arrays)
        (folder / "model.safetensors").write_bytes(content)
        values["arrays_sha256"] = hashlib.sha256(content).hexdigest()
    if change_values is not None:
        change_values(values)
    (folder / "model.json").write_text(json.dumps(values))


def arrays_of(saved):
    trees = (saved.model, saved.proposal, saved.preprocessing)
    return eqx.filter(trees, eqx.is_array)


def fitted_by_stages():
    """What joint training returns: a bounded tilt of a stack, which is its own proposal."""
    rng = np.random.default_rng(0)
    mixture = gaussian_mixture_of([0.3, 0.7], rng.normal(size=(2, 3)), [np.eye(3)] * 2)
    network = AutoregressiveMixture(
        np.array([1, 0, 2]), width=4, blocks=1, components=2, key=jax.random.key(4)
    )
    marginals = fit_marginals(rng.normal(size=(100, 3)))
    parts = [mixture, behind(network, marginals)]
    base = paramax.non_trainable(Stack(parts, jnp.log(jnp.array([0.4, 0.6]))))
    model = EnergyModel(BoundedTilt(make().model.tilt, 1.0), base)
    return dataclasses.replace(make(), model=model, proposal=base)


def test_a_tilted_stack_comes_back_exactly_and_is_written_once(tmp_path):
    saved = fitted_by_stages()
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    assert eqx.tree_equal(arrays_of(loaded), arrays_of(saved))
    assert loaded.model.is_based_on(loaded.proposal)
    names = load((tmp_path / "model.safetensors").read_bytes())
    assert not any(name.startswith("proposal") for name in names)
    x = jax.random.normal(jax.random.key(3), (3,))
    energy = eqx.filter_jit(lambda model, x: model.energy(x))
    assert float(energy(loaded.model, x)) == float(energy(saved.model, x))


class Slope(eqx.Module):
    """A tilt of a user."""

    slope: jax.Array

    def __call__(self, x):
        return self.slope @ x


def test_a_tilt_of_a_user_is_saved_once_it_is_registered(saved, tmp_path):
    model = EnergyModel(Slope(jnp.arange(3.0)), saved.model.base)
    own = dataclasses.replace(saved, model=model)
    with pytest.raises(ValueError, match=r"tilt is a Slope.*register"):
        save_model(tmp_path / "new", own)
    assert not (tmp_path / "new").exists()
    register(Slope)
    try:
        save_model(tmp_path / "new", own)
        loaded = load_model(tmp_path / "new")
    finally:
        del KINDS["Slope"]
    np.testing.assert_array_equal(loaded.model.tilt.slope, jnp.arange(3.0))
    with pytest.raises(ValueError, match="Slope"):
        load_model(tmp_path / "new")


def test_a_model_comes_back_exactly(saved, folder):
    loaded = load_model(folder)
    assert eqx.tree_equal(arrays_of(loaded), arrays_of(saved))
    plain = [f.name for f in dataclasses.fields(SavedModel)][3:]
    assert plain[0] == "log_partition"
    assert [getattr(loaded, name) for name in plain] == [getattr(saved, name) for name in plain]
    assert loaded.shape == (3,)
    x = jnp.array([0.1, -0.5, 2.0])
    assert loaded.model.energy(x) == saved.model.energy(x)
    log_prob = eqx.filter_jit(lambda proposal, x: proposal.log_prob(x))
    assert log_prob(loaded.proposal, x) == log_prob(saved.proposal, x)


def test_saving_again_writes_the_same_bytes_and_leaves_nothing_else(saved, files, tmp_path):
    save_model(tmp_path / "new", saved)
    save_model(tmp_path / "new", saved)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == files
    assert set(files) == {"model.json", "model.safetensors"}


def test_an_unknown_error_and_missing_names_come_back(saved, tmp_path):
    changed = dataclasses.replace(saved, log_partition_stderr=math.nan, columns=None)
    save_model(tmp_path, changed)
    loaded = load_model(tmp_path)
    assert loaded.log_partition_stderr == math.inf
    assert loaded.columns is None


def test_precision_is_that_of_the_file(saved, folder, tmp_path):
    with jax.enable_x64(True):
        loaded = load_model(folder)
        assert loaded.model.tilt.readout.weight.dtype == jnp.float32
        assert eqx.tree_equal(arrays_of(loaded)[:1], arrays_of(saved)[:1])
        double = make()
        save_model(tmp_path / "double", double)
        assert eqx.tree_equal(arrays_of(load_model(tmp_path / "double")), arrays_of(double))
    with pytest.raises(ValueError, match="double precision: switch jax_enable_x64 on"):
        load_model(tmp_path / "double")


def test_a_choice_newer_than_the_file_has_its_default(folder):
    rewrite(folder, lambda values: values["architecture"].pop("residual"))
    assert load_model(folder).architecture == ARCHITECTURE


def test_what_could_not_be_read_again_is_not_written(saved, tmp_path):
    broken = eqx.tree_at(lambda m: m.tilt.readout.weight, saved.model, jnp.full((1, 4), jnp.nan))
    for change, words in [
        ({"model": broken}, f"values in {READOUT} that are not finite"),
        ({"log_partition": math.nan}, "log-partition must be finite"),
        ({"metadata": {"f": print}}, "plain JSON values"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_model(tmp_path / "new", dataclasses.replace(saved, **change))
    assert not (tmp_path / "new").exists()


def test_an_interrupted_save_leaves_the_model_before(saved, folder, monkeypatch):
    def fail(*arguments):
        raise OSError("power failure")

    monkeypatch.setattr("flowebm.atomic_write.os.replace", fail)
    newer = eqx.tree_at(lambda m: m.tilt.readout.weight, saved.model, jnp.zeros((1, 4)))
    with pytest.raises(OSError, match="power failure"):
        save_model(folder, dataclasses.replace(saved, model=newer, log_partition=7.0))
    loaded = load_model(folder)
    assert loaded.log_partition == -1.25
    np.testing.assert_array_equal(loaded.model.tilt.readout.weight, np.ones((1, 4)))


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*folder of a finished run"):
        load_model(folder)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_truncated_file_is_refused(folder, name, cut):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:cut])
    words = "is not JSON" if name == "model.json" else "damaged or from another run"
    with pytest.raises(ValueError, match=words):
        load_model(folder)


def test_one_flipped_bit_is_refused(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="damaged or from another run"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"\x80\x04cos\nsystem\n", b"", b"\xff" * 64])
def test_arrays_that_are_not_safetensors_are_refused(folder, content):
    """The first is how a pickle that runs a command begins."""
    (folder / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda values: values.update(arrays_sha256=digest))
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "is not a JSON object"),
        (b"\xff\xfe{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format_version": NaN}', "is not JSON"),
        (b"{}", "format version None"),
        (b'{"format_version": 1}', "format version 1, and this flowebm reads 5"),
    ],
)
def test_values_that_are_not_ours_are_refused(folder, content, words):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arrays_sha256", None),
        ("architecture", []),
        ("shape", []),
        ("shape", [True]),
        ("shape", [-3]),
        ("shape", "3"),
        ("columns", "abc"),
        ("columns", [1]),
        ("log_partition", "1"),
        ("log_partition", True),
        ("log_partition", None),
        ("log_partition_stderr", "0"),
        ("metadata", None),
    ],
)
def test_values_of_the_wrong_kind_are_refused(folder, name, value):
    rewrite(folder, lambda values: values.update({name: value}))
    with pytest.raises(ValueError, match=f"has no valid '{name}'"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("colour", 1, "architecture field 'colour', which this flowebm does not know"),
        ("tilt", "lambda", "tilt must be 'mlp' or 'conv'; got 'lambda'"),
        ("width", "4", "width must be a whole number; got '4'"),
        ("width", True, "width must be a whole number; got True"),
        ("depth", 10**12, "1000000000000 for the architecture field 'depth'"),
        ("residual", 1, "residual must be True or False; got 1"),
        ("defensive_fraction", "x", "defensive_fraction must be a number; got 'x'"),
        ("defensive_fraction", 2.0, "must be between 0 and 1"),
        ("activation", "__import__", "activation must be .*; got '__import__'"),
        ("flow", "glow", "flow must be .*; got 'glow'"),
        ("tilt", [], "tilt must be"),
    ],
)
def test_unknown_architectures_are_refused(folder, name, value, words):
    rewrite(folder, lambda values: values["architecture"].update({name: value}))
    with pytest.raises(ValueError, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop(READOUT), f"has no array {READOUT}"),
        (lambda a: a.update(more=np.ones(1)), "has an array more too many"),
        (lambda a: a.update({READOUT: np.ones((2, 4), "f4")}), "is refused"),
        (lambda a: a.update({READOUT: np.ones((1, 4), "f2")}), "of type float16"),
        (lambda a: a.update({READOUT: np.full((1, 4), np.inf, "f4")}), "are not finite"),
        (lambda a: a.update({"preprocessing.sd.tree": np.zeros(3, "f4")}), "sd must be positive"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, change, words):
    rewrite(folder, change_arrays=change)
    with pytest.raises(ValueError, match=words):
        load_model(folder)


def recipe_of(path, value):
    """A change of one place of the recipe."""

    def change(values):
        place = values["recipe"]
        for name in path[:-1]:
            place = place[name]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


TILT = ("model", "fields", "tilt")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model",), 3),
        (("model",), "base"),
        (("model",), None),
        (("proposal",), 3),
        (("proposal",), "elsewhere"),
        (("proposal",), {"kind": "NoTilt", "fields": {}}),
        (TILT, 1.0),
        (TILT, "sin"),
        (TILT, {"activation": "tanh"}),
        (TILT, {"activation": "__import__"}),
        (TILT, {"kind": "Popen", "fields": {}}),
        (TILT, {"built": ["system", "ls"], "frozen": False}),
        ((*TILT, "fields", "layers"), 3),
        ((*TILT, "fields", "layers"), []),
        ((*TILT, "fields"), {}),
        ((*TILT, "fields", "readout"), None),
        ((*TILT, "fields", "readout", "fields", "weight"), 1.0),
        ((*TILT, "kind"), "Stack"),
        (("model", "fields", "base"), 3),
        (("model", "fields", "base"), {"kind": "NoTilt", "fields": {}}),
        (("model", "kind"), "SubspaceDensity"),
        (("model", "kind"), ["EnergyModel"]),
    ],
)
def test_a_recipe_of_something_else_is_refused(folder, path, value):
    rewrite(folder, recipe_of(path, value))
    with pytest.raises(Refused):
        load_model(folder)


def test_every_place_of_a_recipe_may_be_junk(folder):
    """One after another, by what breaks the reading of files most often: the model is refused or,
    where the place means nothing, the same."""
    whole = json.loads((folder / "model.json").read_bytes())
    expected = load_model(folder)
    places = []

    def walk(node, path):
        if path:
            places.append(path)
        if isinstance(node, dict | list):
            for name in node if isinstance(node, dict) else range(len(node)):
                walk(node[name], (*path, name))

    walk(whole["recipe"], ())
    draw = random.Random(0)
    for path in draw.sample(places, 12):
        for junk in ([], {}, "x", -1, 10**12, [[1]]):
            (folder / "model.json").write_text(json.dumps(whole))
            rewrite(folder, recipe_of(path, junk))
            try:
                loaded = load_model(folder)
            except Refused:
                continue
            found, same = (jax.tree.leaves(arrays_of(m)) for m in (loaded, expected))
            assert all(map(np.array_equal, found, same)), (path, junk)


@pytest.mark.parametrize("number", [10**9, 10**12])
def test_a_flow_of_millions_of_layers_is_refused_before_it_is_built(folder, number):
    def change(values):
        built = values["recipe"]["proposal"]["fields"]["flow"]["built"]
        place = next(i for i, value in enumerate(built) if type(value) is int)
        built[place] = number

    rewrite(folder, change)
    with pytest.raises(Refused, match="larger model than its arrays"):
        load_model(folder)
