"""Saved models: the same model back, or one sentence why not."""

import dataclasses
import hashlib
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from safetensors.numpy import load, save

from flowebm.data import Standardise
from flowebm.models.architecture import Architecture, FoundArchitecture, build, build_flow
from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.relevant import in_front
from flowebm.models.saved import SavedModel, load_model, save_model

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


def test_a_flow_in_front_of_another_comes_back_exactly(tmp_path):
    """As `fit_joint` makes them; a model with such a flow could be fitted and not be saved."""
    flow = "affine-coupling"
    choices = dataclasses.asdict(ARCHITECTURE) | {"base": "flow", "base_flow": flow, "flow": flow}
    saved = make(FoundArchitecture(**choices, known=2))
    parts = dataclasses.replace(ARCHITECTURE, flow=flow)
    few = dataclasses.replace(parts, relevant=2)
    fitted = in_front(*(build_flow(a, flow, (3,), key=jax.random.key(4)) for a in (parts, few)))
    whole = eqx.tree_at(lambda m: m.base, saved.model, paramax.non_trainable(fitted))
    saved = dataclasses.replace(saved, model=whole)
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    assert loaded.architecture.known == 2
    assert eqx.tree_equal(arrays_of(loaded), arrays_of(saved))
    x = jax.random.normal(jax.random.key(3), (3,))
    assert float(loaded.model.energy(x)) == float(saved.model.energy(x))


@pytest.mark.parametrize("known", [None, 2])
def test_a_flow_beside_a_mixture_comes_back_exactly(tmp_path, known):
    flow = "affine-coupling"
    choices = dataclasses.asdict(ARCHITECTURE) | {"base": "flow", "base_flow": flow, "flow": flow}
    beside = {"mixture_components": 3, "mixture_fraction": 0.37}
    saved = make(FoundArchitecture(**choices, known=known, **beside))
    means = jax.random.normal(jax.random.key(5), (3, 3))
    mixture = gaussian_mixture_of(jnp.arange(1.0, 4.0), means, jnp.stack(3 * [jnp.eye(3)]), (3,))
    whole = eqx.tree_at(lambda m: m.base.wide, saved.model, paramax.non_trainable(mixture))
    saved = dataclasses.replace(saved, model=whole)
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    assert loaded.architecture == saved.architecture
    assert eqx.tree_equal(arrays_of(loaded), arrays_of(saved))
    x = jax.random.normal(jax.random.key(3), (3,))
    assert float(loaded.model.energy(x)) == float(saved.model.energy(x))


def test_a_model_of_relevant_directions_comes_back_exactly(tmp_path):
    saved = make(
        dataclasses.replace(
            ARCHITECTURE,
            base="flow",
            base_flow="affine-coupling",
            base_fraction=0.01,
            flow="affine-coupling",
            relevant=2,
        )
    )
    change = jax.random.normal(jax.random.key(2), (3, 3))
    model = eqx.tree_at(lambda m: m.tilt.layers[0].weight.matrix.tree, saved.model, change)
    saved = dataclasses.replace(saved, model=model)
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    assert loaded.architecture == saved.architecture
    assert eqx.tree_equal(arrays_of(loaded), arrays_of(saved))


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
    wide = dataclasses.replace(ARCHITECTURE, width=5)
    broken = eqx.tree_at(lambda m: m.tilt.readout.weight, saved.model, jnp.full((1, 4), jnp.nan))
    for change, words in [
        ({"architecture": wide}, r"in shape \(4,\) where its architecture needs \(5,\)"),
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
        (b'{"format_version": 1}', "format version 1, and this flowebm reads 2"),
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
        ("width", 5, r"where its architecture needs \(5,"),
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
        (lambda a: a.update({READOUT: np.ones((2, 4), "f4")}), r"in shape \(2, 4\)"),
        (lambda a: a.update({READOUT: np.ones((1, 4), "i4")}), "in type int32"),
        (lambda a: a.update({READOUT: np.ones((1, 4), "f2")}), "in type float16"),
        (lambda a: a.update({READOUT: np.full((1, 4), np.inf, "f4")}), "are not finite"),
        (lambda a: a.update({"preprocessing.sd.tree": np.zeros(3, "f4")}), "sd must be positive"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, change, words):
    rewrite(folder, change_arrays=change)
    with pytest.raises(ValueError, match=words):
        load_model(folder)
