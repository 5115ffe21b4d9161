"""Wheel and source distribution: each installs in an empty environment and trains there."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TINY = """
    --data mixture --n 400 --max-steps 50 --n-chains 64 --batch-size 64 --width 8 --depth 1
    --flow affine-coupling --flow-layers 1 --flow-width 8 --flow-depth 1 --flow-batch 64
    --n-evaluation 128 --quiet
"""

pytestmark = pytest.mark.slow


def run(*command, cwd):
    """Run a command without this checkout on its path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both distributions: the wheel is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The programs of an empty environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    return folder / "bin"


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_installed_trains_and_reports(built, environment, tmp_path, kind):
    (distribution,) = built.glob(kind)
    pip = (environment / "python", "-m", "pip", "install", "--quiet")
    # The second time all that it depends on is there.
    again = ["--force-reinstall", "--no-deps"] if (environment / "flowebm").exists() else []
    run(*pip, "--constraint", ROOT / "constraints.txt", *again, distribution, cwd=tmp_path)
    where = "import flowebm; print(flowebm.__file__)"
    installed = run(environment / "python", "-c", where, cwd=tmp_path)
    assert str(environment.parent) in installed

    flowebm = environment / "flowebm"
    run(flowebm, "train", "--out", "run", *TINY.split(), cwd=tmp_path)
    run(flowebm, "sample", "run", "-n", "20", "-o", "samples.csv", cwd=tmp_path)
    run(flowebm, "report", "run", cwd=tmp_path)
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 21
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    assert "device" in run(flowebm, "--version", cwd=tmp_path)


def test_the_wheel_holds_the_package_alone_and_the_source_its_tests(built):

    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flowebm"}
    assert "flowebm/py.typed" in names
    assert "flowebm/report/page/style.css" in names
    with tarfile.open(source) as archive:
        inside = {name.split("/", 1)[-1] for name in archive.getnames()}
    tracked = {"README.md", "LICENSE", "Makefile", "docs/balanced.md", "tests/test_cli.py"}
    assert tracked <= inside
