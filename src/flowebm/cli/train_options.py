"""The options of `flowebm train`, and the numbers that they may have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from flowebm.models.architecture import Architecture
from flowebm.models.ebflow_architecture import EBFlowArchitecture
from flowebm.options import Count, Positive, Range, Seed, Share
from flowebm.refusal import Refused
from flowebm.training.balanced import BalancedOptions
from flowebm.training.fit_ebflow import EBFlowOptions
from flowebm.training.joint_options import JointOptions

#: Options that may change from a run to its resumption.
NOT_THE_RUNS = (
    "data",
    "data_dir",
    "download",
    "out",
    "resume",
    "accept_changed_data",
    "overwrite",
    "quiet",
    "json",
    "tensorboard",
    "devices",
    "distributed",
)


@dataclass(frozen=True)
class Train:
    """Fit an energy model to data and save it in a run directory.

    A run ends by measuring the model on points that it has not seen: held-out log-likelihood and
    log Z with their errors and, where the truth is known, mode weights and KL divergence. The
    options below are those of the method that --method names.

    Attributes:
        data: Name of a built-in data set; a .csv, .parquet, .npy or .npz file; or a folder of
            images.
        out: The run directory.
        data_dir: The folder of the files of mnist, fashion-mnist, kmnist or cifar-10.
        download: Fetch files that the folder lacks.
        method: How the model is fitted: "joint", mixtures of Gaussians and autoregressive networks,
            a stack of them, and a bounded tilt of the stack; "balanced", an energy model by
            flow-assisted maximum likelihood; "ebflow", an energy-based flow by score matching.
        max_steps: Iterations of any training at most; where no time budget is given 1000 for
            balanced and 3000 for ebflow.
        time_budget: Seconds at most, compilation included; a resumed run counts those that it
            had taken at the checkpoint.
        patience: Evaluations (one every 50 iterations) without a better validation NLL before
            the fit stops; "never" goes on until that NLL is clearly above the best. By default 20
            for ebflow, and "never" for the others.
        resume: Go on with the run in the directory from its last checkpoint.
        accept_changed_data: Go on with the run though the data have changed since it began.
        overwrite: Replace the run in the directory.
        seed: Seed of everything random.
        dim: Coordinates of a synthetic set (mixture and funnel).
        n: Points of a synthetic set.
        labels: The column of a file that says which class a row is of: left out of the fit; a run
            ends by comparing each class's share in the data and in the model.
        drop: A column of a file to leave out; may be given several times.
        columns: The columns of a file to fit, separated by commas, instead of all.
        column: What a column holds, as NAME=KIND: real; LOW:HIGH, for values between bounds, of
            which one may be left out; whole, or whole:LOW:HIGH; circular, or circular:PERIOD;
            arcsinh:COFACTOR, for intensities over many decades; levels, for a few values and no
            other. May be given several times; other columns' kinds are found.
        transform: A kind that all columns have which --column does not name, such as arcsinh:5 for
            mass cytometry and arcsinh:150 for fluorescence.
        missing: What becomes of missing entries: "refuse", or "marginalise", rows are fitted by
            what they have.
        dequantise: Make whole numbers, such as pixels, continuous by uniform noise.
        point_shape: Channels, height and width, where rows are flattened images.
        test_fraction: Share of the rows that the fitted model is measured with. Synthetic sets
            are measured with fresh points instead.
        validation_fraction: Share of the other rows that choose the best model.
        devices: Devices of this machine that share chains and batches; more than one pays for
            large models and many chains. Without an accelerator, cores of the processor.
        distributed: Be one of the processes of a job (SLURM, MPI, Kubernetes), which train
            together on all their devices.
        tensorboard: Write the metrics for TensorBoard too, in the run directory's `tensorboard`.
        quiet: Show no progress.
        json: Print one JSON object instead of a table.
    """

    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    data_dir: Path | None = None
    download: bool = False
    method: Literal["joint", "balanced", "ebflow"] = "joint"
    max_steps: Count | None = None
    time_budget: Positive | None = None
    patience: Count | Literal["never"] | None = None
    resume: bool = False
    accept_changed_data: bool = False
    overwrite: bool = False
    seed: Seed = 0
    dim: Count | None = None
    n: Count = 20_000
    labels: str | None = None
    drop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    columns: str | None = None
    column: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=KIND")
    ] = ()
    transform: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    missing: Literal["refuse", "marginalise"] = "refuse"
    dequantise: bool = False
    point_shape: tuple[Count, Count, Count] | None = None
    test_fraction: Share = 0.1
    validation_fraction: Share = 0.1
    devices: Count = 1
    distributed: bool = False
    tensorboard: bool = False
    quiet: bool = False
    json: bool = False


@dataclass(frozen=True)
class TrainJoint(Train):
    __doc__ = (
        (Train.__doc__ or "").rstrip()
        + """
        pixel_levels: Number of levels where the data are whole-number pixels; 256 for sets and
            folders of images.
        architecture: The tilt's network.
        training: The method.
    """
    )

    pixel_levels: Annotated[int, Range(least=2)] | None = None
    architecture: Architecture = field(default_factory=Architecture)
    training: JointOptions = field(default_factory=JointOptions)


@dataclass(frozen=True)
class TrainBalanced(Train):
    __doc__ = (
        (Train.__doc__ or "").rstrip()
        + """
        architecture: Networks, base and flow.
        training: The method.
    """
    )

    method: Literal["joint", "balanced", "ebflow"] = "balanced"
    architecture: Architecture = field(default_factory=Architecture)
    training: BalancedOptions = field(default_factory=BalancedOptions)


@dataclass(frozen=True)
class TrainEBFlow(Train):
    __doc__ = (
        (Train.__doc__ or "").rstrip()
        + """
        pixel_levels: Number of levels where the data are whole-number pixels; 256 for sets and
            folders of images.
        architecture: Layers of the flow.
        training: The method.
    """
    )

    method: Literal["joint", "balanced", "ebflow"] = "ebflow"
    pixel_levels: Annotated[int, Range(least=2)] | None = None
    architecture: EBFlowArchitecture = field(default_factory=EBFlowArchitecture)
    training: EBFlowOptions = field(default_factory=EBFlowOptions)


def options_of(
    arguments: Sequence[str],
) -> type[TrainJoint] | type[TrainBalanced] | type[TrainEBFlow]:
    """The options of the method that the arguments name."""
    method = "joint"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--method":
            method = following
        elif argument.startswith("--method="):
            method = argument.removeprefix("--method=")
    # A method that is not known is the parser's to refuse.
    return {"ebflow": TrainEBFlow, "balanced": TrainBalanced}.get(method, TrainJoint)


def check(command: TrainJoint | TrainBalanced | TrainEBFlow) -> None:
    """Refuse options that exclude each other.

    Args:
        command: The options.

    Raises:
        ValueError: If two of them do.
    """
    if command.accept_changed_data and not command.resume:
        raise Refused("--accept-changed-data goes with --resume: give both, or neither.")
    if command.distributed and command.devices != 1:
        raise Refused(
            "--devices is for one process; with --distributed a job uses all devices of its "
            "processes: leave --devices out."
        )
