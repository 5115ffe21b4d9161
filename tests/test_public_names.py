"""The names that `import flowebm` offers: all of them resolve, and none of them before its use."""

import ast
import importlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import flowebm

HEAVY = (
    "arviz",
    "blackjax",
    "equinox",
    "jax",
    "matplotlib",
    "numpy",
    "orbax",
    "pandas",
    "PIL",
    "pyarrow",
    "rich",
    "scipy.stats",
    "sklearn",
    "tensorstore",
    "tyro",
)


def _imported_by(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has after a statement."""
    listed = f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    code = f"{statement}\nimport json, sys\n{listed}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_library_imports_nothing_heavy():
    assert _imported_by("import flowebm; flowebm.__version__; dir(flowebm)") == set()


def test_fitting_needs_no_table_or_plot_package():
    imported = _imported_by("from flowebm import EnergyModel, fit_balanced, log_partition")
    assert imported == {"equinox", "jax", "numpy"}


def test_the_estimator_imports_nothing_that_only_runs_plots_or_chains_need():
    """Beyond what scikit-learn imports itself, which with some versions is pandas."""
    imported = _imported_by("from flowebm import FlowEBM")
    of_sklearn = _imported_by("import jax, sklearn.base, sklearn.utils.validation")
    assert imported - of_sklearn == {"equinox"}


@pytest.mark.parametrize("command", ["score", "sample", "impute"])
def test_what_asks_a_fitted_model_imports_nothing_for_plots_or_checkpoints(command):
    imported = _imported_by(f"import flowebm.cli.{command}")
    assert imported == {"equinox", "jax", "numpy", "tyro"}


@pytest.mark.parametrize("name", flowebm.__all__)
def test_every_public_name_resolves_to_what_its_room_exports(name):
    value = getattr(flowebm, name)
    if name == "__version__":
        assert value == version("flowebm")
    else:
        assert value is getattr(importlib.import_module(flowebm._ORIGINS[name]), name)
        assert value.__doc__
        assert value.__name__ == name


def test_type_checkers_see_the_names_that_python_finds():
    tree = ast.parse(Path(flowebm.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.asname, node.module)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(flowebm._ORIGINS.items())
    assert set(flowebm.__all__) == {*flowebm._ORIGINS, "__version__"}


@pytest.mark.parametrize("room", flowebm._SUBPACKAGES)
def test_rooms_are_attributes(room):
    assert getattr(flowebm, room) is importlib.import_module(f"flowebm.{room}")


def test_dir_lists_what_is_not_imported_yet():
    assert {*flowebm.__all__, *flowebm._SUBPACKAGES} <= set(dir(flowebm))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'flowebm' has no attribute 'EnergyModell'"):
        _ = flowebm.EnergyModell


def test_all_refusals_are_of_one_class():
    """The command line tells them by it; another `ValueError` would be called a fault."""
    package = Path(flowebm.__file__).parent
    others = {
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ValueError"
    }
    assert not {other for other in others if "fit_joint" not in other}
