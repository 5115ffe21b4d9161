"""How a page of the guide is run: its blocks in order, in one folder, with little work."""

import functools
import importlib
import re
import shlex
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowebm.cli import main
from flowebm.cli.report import default_options
from flowebm.models import make_flow
from flowebm.training import BalancedOptions, fit_flow

#: Any fenced block: its language, and what is in it.
BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)

#: What makes a line of `flowebm train` take seconds, whatever it asks for.
SMALL_OPTIONS = {
    "max_steps": 20,
    "n_chains": 64,
    "batch_size": 64,
    "width": 8,
    "depth": 1,
    "flow": "affine-coupling",
    "flow_layers": 1,
    "flow_width": 8,
    "flow_depth": 1,
    "flow_batch": 64,
    "n_evaluation": 128,
    "least_steps": 20,
    "most_networks": 1,
    "network_width": 16,
    "tilt_steps": 20,
    "n_draws": 2048,
    "image_batch_pixels": 512,
    "n_blocks": 1,
    "conditioner_width": 8,
}


#: Pages whose words are of tables and not of what is fitted to them: mixtures alone, which
#: compile nothing. Others have networks and tilts.
OF_TABLES = {"columns.md", "shares.md", "tables.md"}
NO_NETWORKS = {"network_rows": 100_000}


@contextmanager
def little_work(small_architecture, joint_options):
    """Small networks and few steps where Python code names none; commands get options."""
    estimator = importlib.import_module("flowebm.estimator")
    fit = importlib.import_module("flowebm.training.fit_balanced")
    joint = importlib.import_module("flowebm.training.fit_joint")
    sampling = importlib.import_module("flowebm.training.sampling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimator, "Architecture", small_architecture)
        patch.setattr(estimator, "DEFAULT_STEPS", dict.fromkeys(estimator.DEFAULT_STEPS, 20))
        small_options = functools.partial(BalancedOptions, n_chains=128, flow_batch=128)
        patch.setattr(fit, "BalancedOptions", small_options)
        patch.setattr(fit, "fit_flow", functools.partial(fit_flow, max_steps=20))
        patch.setattr(joint, "JointOptions", joint_options)
        small_flow = functools.partial(make_flow, layers=2, width=8, depth=1)
        patch.setattr(sampling, "make_flow", small_flow)
        yield


@pytest.fixture
def run_page(small_architecture, small_joint_options, tmp_path, monkeypatch):
    """Run every block of a page in one folder; the names that its Python left."""
    monkeypatch.chdir(tmp_path)

    def run(page: Path):
        names = {"__name__": "__main__"}
        fewer = NO_NETWORKS if page.name in OF_TABLES else {}
        joint_options = functools.partial(small_joint_options, **fewer)
        for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                with little_work(small_architecture, joint_options):
                    exec(compile(code, page.name, "exec"), names)
            elif language == "sh":
                run_commands(code, SMALL_OPTIONS | fewer)
            elif language != "text":
                pytest.fail(f"{page.name}: a block of '{language}' is neither run nor text")
        return names

    return run


def run_commands(block: str, options: dict[str, object]) -> None:
    """Run the commands of a shell block, each of which must be one of flowebm's."""
    for line in block.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if not program:
            continue
        if program != "flowebm":
            pytest.fail(f"`{line}` is not run: call its block text")
        if {"--help", "--version"} & {*arguments}:
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
            assert stopped.value.code == 0
        else:
            assert main(smaller(arguments, options)) == 0, line


def smaller(arguments: list[str], options: dict[str, object]) -> list[str]:
    """The arguments of `flowebm train` with less work to do; of other commands as they are."""
    if arguments[0] != "train":
        return arguments
    methods = default_options()
    named = arguments[arguments.index("--method") + 1] if "--method" in arguments else None
    known = methods[named or next(iter(methods.values()))["method"]]
    arguments = list(arguments)
    for name, value in options.items():
        if (
            known["method"] == "joint"
            and name in importlib.import_module("flowebm.estimator")._OF_BALANCED
        ):
            continue
        is_image = known["method"] == "joint" and "--pixel-levels" in arguments
        if is_image and name in ("width", "depth"):
            # Of a tilt, which images have none of.
            continue
        option = "--" + name.replace("_", "-")
        if name not in known:
            continue
        if option in arguments:
            place = arguments.index(option)
            del arguments[place : place + 2]
        arguments += [option, str(value)]
    return arguments
