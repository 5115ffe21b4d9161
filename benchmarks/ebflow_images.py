"""EBFlows on MNIST: every objective at equal epochs, fully connected and convolutional.

    python benchmarks/ebflow_images.py --data-dir DIR            # everything
    python benchmarks/ebflow_images.py --data-dir DIR --only fc  # one architecture
    python benchmarks/ebflow_images.py --table                   # the table of what was measured

DIR holds a file of at least 10,000 MNIST images, of which 8,000 train, 1,000 choose the model and
1,000 measure it. Pixels are made continuous anew in every iteration, scaled, and taken to the
line by a logit of smoothness 0.5 (fc) or 0.75 (cnn); NLLs are those of the whole numbers, bits per
dimension NLL / (784 ln 2). The flows stand behind a whitening and start near a Gaussian; batches
of 100, Adam with cosine decay, parameters averaged. With MaP (match after preprocessing) the
objective sees whitened points alone; without, logit and whitening are in the energy and the noise
of dsm is in pixels.

Each fit is a process of its own. Seconds are those of the training blocks without compilation,
beside whatever the machine does, so that only ratios taken in one run mean anything. Results are
kept as they come, and what is there already is not measured again (unless --again).
"""

import os
import tempfile
from pathlib import Path

import cells

RESULTS = Path(__file__).parent / "results" / "ebflow_images.json"

SHAPE = (1, 28, 28)
SPLIT = (8_000, 1_000, 1_000)
BATCH_SIZE = 100

#: Smoothness of the logit, and epochs.
ARCHITECTURES = {"fc": (0.5, 10), "cnn": (0.75, 3)}

#: Learning rates: the noisier the objective, the smaller.
LEARNING_RATES = {
    "fc": {"ml": 2e-4, "sml": 2e-4, "ssm": 1e-4, "fdssm": 2e-5, "dsm": 6e-5},
    "cnn": {"ml": 1e-4, "sml": 1e-4, "ssm": 3e-5, "fdssm": 5e-6, "dsm": 2e-5},
}

#: Noise of dsm and length of finite differences: of whitened points, and in pixels.
SIGMA = {True: 0.4, False: 16.0}
STEP = {True: 0.3, False: 16.0}


def wanted(architectures, folder) -> list[dict[str, str]]:
    """What is measured; without MaP likelihoods are the same, so that it is not repeated."""
    listed = []
    for architecture in architectures:
        scores = ("ssm", "fdssm", "dsm")
        listed += [(architecture, objective, "MaP") for objective in ("ml", *scores)]
        listed += [(architecture, objective, "plain") for objective in scores]
    listed += [(architecture, "sml", "MaP") for architecture in architectures]
    names = ("architecture", "objective", "matching", "folder")
    return [dict(zip(names, (*cell, folder), strict=True)) for cell in listed]


def place(cell) -> tuple[str]:
    """Where a cell's record lies; the folder of the data is not part of its name."""
    return (f"{cell['architecture']} {cell['objective']} {cell['matching']}",)


def fit(architecture: str, objective: str, after: bool, folder: str) -> dict:
    """One fit and its test NLL."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flowebm.data import LogitPixels, dequantise, load_images
    from flowebm.models import convolutional_ebflow, fully_connected_ebflow
    from flowebm.training import EBFlowOptions, fit_ebflow

    smoothness, epochs = ARCHITECTURES[architecture]
    images = load_images("mnist", folder, part="all").pixels
    order = np.random.default_rng(0).permutation(len(images))[: sum(SPLIT)]
    train, validation, test = np.split(images[order], np.cumsum(SPLIT)[:-1])
    build = {"fc": fully_connected_ebflow, "cnn": convolutional_ebflow}[architecture]
    logit = LogitPixels(SHAPE, smoothness=smoothness)
    steps_per_epoch = len(train) // BATCH_SIZE
    result = fit_ebflow(
        jax.random.key(0),
        build(SHAPE, whiten=True),
        train,
        validation=validation,
        preprocessing=logit,
        noise=True,
        options=EBFlowOptions(
            objective=objective,
            sigma=SIGMA[after],
            finite_difference=STEP[after],
            learning_rate=LEARNING_RATES[architecture][objective],
            batch_size=BATCH_SIZE,
            match_after_preprocessing=after,
        ),
        max_steps=epochs * steps_per_epoch,
        block_length=steps_per_epoch // 2,
    )
    noisy = jnp.asarray(dequantise(1, test), float)
    z, log_det = jax.vmap(logit.transform_and_log_det)(noisy)
    energies = jax.lax.map(result.model.energy, z, batch_size=100)
    nll = np.asarray(energies - log_det, np.float64) + result.log_partition.value
    rows = result.history
    # The first block holds the compilation.
    seconds = (rows[-1]["seconds"] - rows[1]["seconds"]) / (epochs - 0.5)
    return {
        "test_nll": float(nll.mean()),
        "test_nll_stderr": float(nll.std() / np.sqrt(len(nll))),
        "bits_per_dimension": float(nll.mean() / (np.prod(SHAPE) * np.log(2))),
        "seconds_per_epoch": seconds,
        "epochs": [row["iteration"] / steps_per_epoch for row in rows],
        "validation_nll": [row["nll"] for row in rows],
        "warnings": list(result.warnings),
    }


def measure(architecture: str, objective: str, matching: str, folder: str) -> dict:
    """One fit, or that it diverged."""
    from flowebm import TrainingDiverged

    try:
        return fit(architecture, objective, matching == "MaP", folder)
    except TrainingDiverged:
        return {"failed": "training diverged"}


def environment(cell) -> dict[str, str]:
    """The variables of a cell's process."""
    cache = str(Path(tempfile.gettempdir()) / "flowebm-benchmark-cache")
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}


def table(results: dict) -> str:
    """A row a fit, as markdown; beside each score matching what ml needed."""
    lines = [
        "| model | objective | MaP | test NLL (nats) | bits/dim | seconds an epoch | of ml's | "
        "epochs to ml's final validation NLL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, found in results.items():
        architecture, objective, after = cell.split()
        if "failed" in found:
            lines.append(f"| {architecture} | {objective} | {after} | {found['failed']} ||||")
            continue
        ml = results.get(f"{architecture} ml MaP", {})
        ratio, reached = "–", "–"
        if "failed" not in ml and ml:
            ratio = f"1/{ml['seconds_per_epoch'] / found['seconds_per_epoch']:.1f}"
            pairs = zip(found["epochs"], found["validation_nll"], strict=True)
            epochs = [epoch for epoch, nll in pairs if nll <= ml["validation_nll"][-1]]
            reached = f"{epochs[0]:g}" if epochs else "not reached"
        lines.append(
            f"| {architecture} | {objective} | {'yes' if after == 'MaP' else 'no'} | "
            f"{found['test_nll']:.1f} ± {found['test_nll_stderr']:.1f} | "
            f"{found['bits_per_dimension']:.3f} | {found['seconds_per_epoch']:.1f} | {ratio} | "
            f"{reached} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--data-dir", help="folder of MNIST's files")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    if not (arguments.table or arguments.cell or arguments.data_dir):
        parser.error("--data-dir is missing: name the folder of MNIST's files")
    cells.main(
        arguments,
        wanted(arguments.only, arguments.data_dir),
        measure,
        table,
        packages=("flowebm", "jax", "flowjax", "optax"),
        place=place,
        environment=environment,
    )


if __name__ == "__main__":
    main()
