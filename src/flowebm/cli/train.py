"""`flowebm train`: from data to a run directory."""

import json
import math
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from flowebm.atomic_write import CannotWrite
from flowebm.cli.arguments import flag, parse
from flowebm.cli.measure import measure
from flowebm.cli.points import Points, hold_out, names_of, read_points
from flowebm.cli.shares import shares
from flowebm.cli.stop_signals import Stopped, StopSignals, stop_signals
from flowebm.cli.table import print_measures
from flowebm.cli.train_options import (
    NOT_THE_RUNS,
    TrainBalanced,
    TrainEBFlow,
    TrainJoint,
    check,
    options_of,
)
from flowebm.data import Choice, check_table
from flowebm.data.columns import Columns
from flowebm.data.kinds import Kind, check_kind, kinds_of, parse_kind
from flowebm.estimator import MIN_ROWS, FlowEBM
from flowebm.evaluation.class_shares import label_names
from flowebm.progress import progress_callback, progress_counter
from flowebm.refusal import Refused
from flowebm.report.plots import save_run_plots
from flowebm.run import RunDirectory, first_difference, plain
from flowebm.training.checkpoints import Checkpoints
from flowebm.training.devices import use_devices
from flowebm.training.driver import Callbacks
from flowebm.training.metrics import MetricsFile
from flowebm.training.processes import all_or_none, is_first, of_every_process
from flowebm.training.tensorboard import tensorboard_observer

Command = TrainJoint | TrainBalanced | TrainEBFlow

#: Points and samples that plots show.
SHOWN = 4000

_CHANGED = (
    "The data have changed since the run began: rows that are held out now may be among those it "
    "was fitted to, and its likelihood of them is then too good."
)


def run(arguments: Sequence[str]) -> None:
    """Train by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm train`.

    Raises:
        ValueError: If an option, the data or the directory is refused.
        TrainingDiverged: If training diverges again and again.
        Stopped: If a signal stopped it; what it then says is how to go on.
        CannotWrite: If the disk did not take a file; likewise.
    """
    command: Command = parse(options_of(arguments), "train", arguments)
    check(command)
    directory = RunDirectory(command.out)
    try:
        n_devices = None if command.distributed else command.devices
        with stop_signals() as signals, use_devices(n_devices):
            _train(command, directory, signals)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        raise Stopped(f"Interrupted{_how_to_go_on(arguments, directory)}", number) from None
    except CannotWrite as error:
        sentence = f"{error} Stopped{_how_to_go_on(arguments, directory)}"
        raise CannotWrite(sentence, error.errno) from error
    finally:
        directory.release()


def _train(command: Command, directory: RunDirectory, signals: StopSignals) -> None:
    with all_or_none():
        points, config, console = _prepared(command, directory)
    if len({*of_every_process(int(config["data"]["sha256"][:7], 16))}) > 1:
        raise Refused(
            f"--data {command.data} has other values in other processes of the job: give a file "
            "that is the same for all."
        )
    train, test = hold_out(points, command.test_fraction, command.seed)

    with _observed(command, directory, config, console, signals) as callbacks:
        estimator = _fit(command, points, train, callbacks)
    if not is_first():
        return
    if not directory.metrics_path.exists():
        # What the EM algorithm has fitted was not told of block by block.
        for row in estimator.history_:
            MetricsFile(directory.metrics_path).append(row)
    estimator.save(directory.path)
    values, sentences = _measured(command, points, estimator, test)
    if "changed_from" in config["data"]:
        sentences.insert(0, _CHANGED)
    directory.write(directory.evaluation_path, {**values, "warnings": sentences})
    _plot(command, estimator, train, values, directory.path)
    if command.json:
        json.dump(plain({"run": command.out, **values, "warnings": sentences}), sys.stdout)
        print()
    else:
        print_measures(values, sentences, title=f"{points.dataset.name}: {command.out}")


def _prepared(command: Command, directory: RunDirectory) -> tuple[Points, dict[str, Any], Console]:
    """The points and the configuration, when all that can be refused has been looked at."""
    if is_first():
        directory.admit(resume=command.resume, overwrite=command.overwrite)
    points = read_points(
        command.data,
        dim=command.dim,
        n=command.n,
        seed=command.seed,
        folder=command.data_dir,
        download=command.download,
        choice=Choice(
            command.labels,
            command.drop,
            None if command.columns is None else names_of(command.columns),
        ),
        allow_missing=command.missing == "marginalise",
    )
    if command.dequantise or (points.pixel_levels and isinstance(command, TrainBalanced)):
        points = points.dequantised(command.seed)
    _check_points(command, points)
    config = _config(command, points)
    console = Console(stderr=True, quiet=command.quiet or not is_first())
    if command.resume and is_first():
        config = _continued(command, directory.read_whole_config(), config, console)
    return points, config, console


def _check_points(command: Command, points: Points) -> None:
    """Refuse what cannot be fitted or measured, before anything is written."""
    values, names = points.dataset.values, points.dataset.names
    kept = 1.0 if points.dataset.target is not None else 1.0 - command.test_fraction
    check_table(
        values,
        names,
        min_rows=math.ceil(MIN_ROWS / kept),
        # Pixels at the border of an image are often constant, which noise mends.
        allow_constant=bool(_pixel_levels(command, points)),
        allow_missing=command.missing == "marginalise",
        where=command.data,
    )
    for i, kind in kinds_of(_kinds(command, names), names).items():
        check_kind(values[:, i], kind, names[i], command.data)
    if command.labels is not None and len(set(label_names(points.dataset.labels))) < 2:
        raise Refused(
            f"All rows of {command.data} have the same label in '{command.labels}': shares need "
            "two classes or more; leave --labels out."
        )
    if points.dataset.target is None and round(len(values) * command.test_fraction) < 2:
        raise Refused(
            f"--test-fraction {command.test_fraction} of {len(values)} rows is fewer than two rows "
            "to measure with: give a larger fraction."
        )


def _kinds(command: Command, names: tuple[str, ...]) -> dict[str | int, Kind]:
    """The kinds of columns that the command declares, by their names."""
    kinds: dict[str | int, Kind] = {}
    if command.transform is not None:
        kinds = dict.fromkeys(names, parse_kind(command.transform))
    for declared in command.column:
        name, equals, kind = declared.rpartition("=")
        if not equals or not name:
            raise Refused(f"--column takes NAME=KIND; got {declared!r}.")
        kinds[name.strip()] = parse_kind(kind.strip())
    return kinds


def _config(command: Command, points: Points) -> dict[str, Any]:
    """What `config.json` holds: all that determines the run."""
    options = {name: value for name, value in asdict(command).items() if name not in NOT_THE_RUNS}
    options |= options.pop("architecture") | options.pop("training")
    rows, columns = points.dataset.values.shape
    names = ("flowebm", "jax", "equinox", "optax", "flowjax")
    return plain(
        {
            "flowebm_run": 1,
            "data": {
                "name": command.data,
                "folder": command.data_dir,
                "sha256": points.sha256,
                "rows": rows,
                "columns": columns,
                "shape": command.point_shape or points.shape,
            },
            "options": options,
            "versions": {name: version(name) for name in names},
        }
    )


def _continued(
    command: Command, old: dict[str, Any], new: dict[str, Any], console: Console
) -> dict[str, Any]:
    """The configuration to go on with; refuses other options, and other data unless accepted."""
    where = f"when the run in {command.out} began"
    name = first_difference(old["options"], new["options"])
    if name is not None:
        before, now = old["options"].get(name), new["options"].get(name)
        raise Refused(
            f"{flag(name)} was {before} {where} and is {now} now: resume with the same options, or "
            "begin another run in another directory."
        )
    name = first_difference(old["versions"], new["versions"])
    if name is not None:
        console.print(
            f"Note: the run began with {name} {old['versions'].get(name)} and goes on with "
            f"{new['versions'].get(name)}; the result may differ in its last digits.",
            soft_wrap=True,
        )
    before, now = old["data"], new["data"]
    if before["sha256"] == now["sha256"]:
        return old
    if before["columns"] != now["columns"]:
        raise Refused(
            f"--data {command.data} has {now['columns']} columns, and had {before['columns']} "
            f"{where}: resume with the same data, or begin another run "
            "in another directory."
        )
    if not command.accept_changed_data:
        raise Refused(
            f"--data {command.data} has other values than {where}: resume with the same data, or "
            "begin another run in another directory, or go on with these by --accept-changed-data."
        )
    earlier = [*before.get("changed_from", []), before["sha256"]]
    return {**old, "data": {**now, "changed_from": earlier}}


def _pixel_levels(command: Command, points: Points) -> int | None:
    """Levels of whole-number pixels; `None` for other data, and where noise makes them real."""
    if isinstance(command, TrainBalanced):
        return None
    if command.dequantise and isinstance(command, TrainJoint):
        return None
    return command.pixel_levels or points.pixel_levels


def _fit(command: Command, points: Points, train: np.ndarray, callbacks: Callbacks) -> FlowEBM:
    estimator = FlowEBM(
        command.method,
        max_steps=command.max_steps,
        time_budget=command.time_budget,
        patience=command.patience,
        architecture=command.architecture,
        options=command.training,
        columns=_kinds(command, points.dataset.names) or "auto",
        missing=command.missing,
        point_shape=command.point_shape or points.shape,
        pixel_levels=_pixel_levels(command, points),
        validation_fraction=command.validation_fraction,
        callbacks=callbacks,
        random_state=command.seed,
    )
    return estimator.fit(pd.DataFrame(train, columns=list(points.dataset.names)))


@contextmanager
def _observed(
    command: Command,
    directory: RunDirectory,
    config: dict[str, Any],
    console: Console,
    signals: StopSignals,
) -> Iterator[Callbacks]:
    """Callbacks that show and write the run.

    The directory is taken at the driver's first call, when the data have passed all checks.
    From then on a signal waits for the end of a block.
    """
    checkpoints = Checkpoints(directory.checkpoints_path, data=config["data"]["sha256"])
    metrics = MetricsFile(directory.metrics_path)

    def is_asked():
        # A signal may reach one process of a job first: all stop at the same block. One that
        # comes while they agree on it waits for the next.
        number = max(of_every_process(signals.asked or 0))
        signals.asked = number or signals.asked
        return number > 0

    def begin():
        directory.begin(config, resume=command.resume)
        if command.accept_changed_data:
            directory.write(directory.config_path, config)

    def restore(stage, state_like):
        if is_asked():
            signals.stop_if_asked()
        if not is_first():
            signals.waits = True
            return None
        if not directory.has_begun:
            begin()
            signals.waits = True
        restored = checkpoints.restore(stage, state_like) if command.resume else None
        metrics.truncate(restored[1] if restored else [], stage=stage)
        return restored

    def save(stage, state, history):
        stops = is_asked()
        if is_first():
            checkpoints.save(stage, state, history, now=stops)
        if stops:
            signals.stop_if_asked()

    def warn(sentence):
        console.print(f"Note: {sentence}", highlight=False, markup=False, soft_wrap=True)

    with ExitStack() as stack:
        on_block = [stack.enter_context(progress_callback(console, console.quiet))]
        if is_first():
            on_block.append(metrics.on_block)
        if command.tensorboard and is_first():
            on_block.append(stack.enter_context(tensorboard_observer(directory.tensorboard_path)))
        yield Callbacks(
            on_block=on_block,
            save=save,
            restore=restore,
            warn=warn,
        )
        if is_first() and not directory.has_begun:
            # Nothing was driven, as where mixtures are all that there is.
            begin()
    signals.waits = False
    if is_asked():
        signals.stop_if_asked()


def _measured(
    command: Command, points: Points, estimator: FlowEBM, test: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """All numbers of the final table, and what is to be said about them."""
    result = estimator.result_
    with progress_counter("evaluate", quiet=command.quiet) as on_progress:
        measures = measure(
            command.seed,
            estimator,
            test,
            log_z=result.log_partition,
            target=points.dataset.target,
            on_progress=on_progress,
        )
    measures.values["columns"] = estimator.columns_
    if command.labels is not None:
        measures.values["class_shares"] = shares(
            estimator, points.dataset, seed=command.seed, quiet=command.quiet
        )
    last = result.history[-1]
    values = {
        **measures.values,
        "fresh_test_points": points.dataset.target is not None,
        "hidden_mass": getattr(result, "hidden_mass", None),
        "log_partition_bound": getattr(result, "log_partition_bound", None),
        "pool_ess": last.get("ess"),
        "global_acceptance": last.get("global_acceptance"),
        "local_acceptance": last.get("local_acceptance"),
        "iterations": last["iteration"],
        "stop_reason": result.stop_reason,
        "seconds": last["seconds"],
    }
    return values, [*result.warnings, *measures.warnings]


def _plot(
    command: Command, estimator: FlowEBM, train: np.ndarray, values: dict[str, Any], path: Path
) -> None:
    shape = estimator.saved_.shape
    # Plots show complete rows.
    train = train[~np.isnan(train).any(axis=1)]
    weights = values.get("mode_weights", {})
    with warnings.catch_warnings():
        # A glyph that a font lacks is no news for who trains a model.
        warnings.simplefilter("ignore", UserWarning)
        save_run_plots(
            path,
            data=train[:SHOWN],
            samples=estimator.sample(min(SHOWN, len(train)), random_state=command.seed),
            history=estimator.history_,
            names=[str(name) for name in estimator.feature_names_in_],
            # A grid has values that bounded and whole columns do not take.
            log_prob=None
            if isinstance(estimator.saved_.preprocessing, Columns)
            else lambda rows: estimator.score_samples(np.asarray(rows)),
            shape=shape if len(shape) > 1 else None,
            true_weights=weights.get("true"),
            fitted_weights=weights.get("fitted"),
            fitted_weights_stderr=weights.get("stderr"),
            class_shares=values.get("class_shares"),
        )


def _how_to_go_on(arguments: Sequence[str], directory: RunDirectory) -> str:
    """The end of a sentence on a run that has stopped."""
    if not directory.has_begun:
        return " before the run began; nothing was written."
    again = [argument for argument in arguments if argument not in ("--resume", "--overwrite")]
    return (
        "; go on from the last checkpoint with "
        f"`flowebm {shlex.join(['train', *again, '--resume'])}`."
    )
