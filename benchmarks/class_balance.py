"""Shares of classes among samples of images, against those of the data.

    python benchmarks/class_balance.py --data-dir DIR            # two keys
    python benchmarks/class_balance.py --table                   # what has been measured

MNIST's test images of 0, 1 and 7, 1,200 to fit and 300 to choose the best model, both at shares of
.6, .3 and .1. To fit in minutes on two cores they are framed and halved to 16×16 pixels, and get
normal noise of 0.15 of the range from paper to ink: what is learned and classified is the density
of noised digits.

A Glow is fitted by maximum likelihood; then a convolutional tilt of it by balanced training, whose
proposal starts as the same Glow. Beside it, the same tilt of the same Glow by persistent
contrastive divergence: local moves alone, from the data, three in each of as many iterations as
cost about as much. Shares are those of the models: draws of the Glow, or of the proposal with their
importance weights, which say as well how far they can be believed.

Draws are counted by a classifier of the three digits, fitted here to noised images; its accuracy on
images that it was not fitted to is stated, and nothing is corrected for it. As it must call every
draw one of the three, a second one of all ten digits tells how many look like another.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "class_balance.json"
DATA_DIR = "FLOWEBM_MNIST"

#: The classes with their shares, the rows of a fit, and how many of them choose the model.
SHARES = {0: 0.6, 1: 0.3, 7: 0.1}
N_TRAIN, N_VALIDATION = 1_200, 300

SHAPE = (1, 16, 16)
NOISE = 0.15
#: Standardisation, the same for all pixels: of the range from paper to ink.
MEAN, SD = 0.15, 0.3
#: Copies of every training image, each with noise of its own.
N_COPIES = 8

GLOW_STEPS, BALANCED_STEPS, PCD_STEPS = 1_500, 600, 1_000

#: Draws that a model's shares are measured by, and how many of them are counted, drawn in
#: proportion to their weights: to classify a draw takes longer than to make it.
N_DRAWS = {"glow": 65_536, "balanced": 524_288, "pcd": 131_072}
N_COUNTED = 65_536


def halved(pixels):
    """Images of 28×28 in 0..255 as 16×16 in [0, 1], framed by two pixels and averaged by fours."""
    import numpy as np

    framed = np.pad(np.asarray(pixels, float).reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    return framed.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)) / 255


def noised(images, rng, copies: int = 1):
    """Standardised points: copies of the images, each with noise of its own."""
    import numpy as np

    many = np.concatenate([images] * copies)
    points = (many + NOISE * rng.normal(size=many.shape) - MEAN) / SD
    return points.reshape(-1, *SHAPE).astype(np.float32)


def rows_at_shares(labels, rng):
    """Numbers of training and of validation images, each at the shares and in random order."""
    import numpy as np

    parts = ([], [])
    for digit, share in SHARES.items():
        sizes = round(share * N_TRAIN), round(share * N_VALIDATION)
        mine = rng.permutation(np.flatnonzero(labels == digit))[: sum(sizes)]
        for part, rows in zip(parts, np.split(mine, [sizes[0]]), strict=True):
            part.append(rows)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def classifier(images, labels, digits, rng):
    """A classifier of noised points, and what it is worth on images that it was not fitted to."""
    import numpy as np
    from sklearn.svm import SVC

    order = rng.permutation(np.flatnonzero(np.isin(labels, digits)))
    fitted, held_out = np.split(order, [int(0.75 * len(order))])
    machine = SVC(C=10.0)
    machine.fit(noised(images[fitted], rng, 2).reshape(-1, 256), np.tile(labels[fitted], 2))

    def predict(points):
        return machine.predict(np.asarray(points).reshape(-1, 256))

    predicted, truth = predict(noised(images[held_out], rng)), labels[held_out]
    # Held-out images of the three classes, weighted to their shares.
    weights = sum((truth == d) * s / (truth == d).sum() for d, s in SHARES.items())
    return predict, {
        "accuracy": float((predicted == truth).mean()),
        "shares_at_the_truth": {d: float((weights * (predicted == d)).sum()) for d in SHARES},
    }


def counted(classifiers, points, counts, weights) -> dict:
    """Shares of the classes among draws, with their errors, and the largest error of all.

    Args:
        classifiers: Of the three digits and of all ten.
        points: The draws that were picked, one a row.
        counts: How often each was picked.
        weights: Their shares of the weight of all draws, in proportion to which they were picked
            systematically.
    """
    import numpy as np

    three, ten = (predict(points) for predict in classifiers)
    frequencies = counts / counts.sum()
    shares = {d: float(frequencies @ (three == d)) for d in SHARES}
    # A draw of weight w adds w² by itself, and systematic picking of N makes that w / N where it
    # need not pick the draw.
    variances = frequencies * np.maximum(weights, 1 / counts.sum())
    spreads = [(variances @ ((three == d) - shares[d]) ** 2) ** 0.5 for d in SHARES]
    return {
        "shares": shares,
        "stderr": float(max(spreads)),
        "worst_share_error": max(abs(shares[d] - s) for d, s in SHARES.items()),
        "like_another_digit": float(frequencies @ ~np.isin(ten, list(SHARES))),
    }


def measure(key: str) -> dict:
    """A Glow, the tilt of it by balanced training, and the tilt by persistent chains."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np
    import paramax
    from blackjax.smc.resampling import systematic

    from flowebm.data import load_images
    from flowebm.evaluation import importance_sample, pareto_khat
    from flowebm.models import EnergyModel, glow_ebflow
    from flowebm.models.bases import gaussian_base
    from flowebm.models.defensive import DefensiveMixture
    from flowebm.models.tilts import ConvTilt
    from flowebm.training import EBFlowOptions, fit_ebflow
    from flowebm.training.balanced import BalancedOptions
    from flowebm.training.driver import Callbacks, StoppingCriteria
    from flowebm.training.fit_balanced import PERSISTENT, balance, fit_persistent

    rng = np.random.default_rng(int(key))
    keys = jax.random.split(jax.random.key(int(key)), 8)
    mnist = load_images("mnist", os.environ[DATA_DIR], part="test")
    images, labels = halved(mnist.pixels), np.asarray(mnist.labels)
    three, three_worth = classifier(images, labels, list(SHARES), rng)
    ten, ten_worth = classifier(images, labels, range(10), rng)
    train, validation = (images[rows] for rows in rows_at_shares(labels, rng))
    train, validation = (
        jnp.asarray(noised(train, rng, N_COPIES)),
        jnp.asarray(noised(validation, rng)),
    )
    record = {"classifier": three_worth, "classifier_of_ten": ten_worth}

    def show(stage, row, total):
        words = [f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float | int)]
        print(stage, ", ".join(words), file=sys.stderr, flush=True)

    def shares(name, model, proposal, seconds, history):
        """Of a model, by weighted draws of a proposal; of a flow, by its own."""
        draws, log_weights = importance_sample(
            keys[2], model, proposal, n=N_DRAWS[name], batch_size=512
        )
        weights = np.asarray(jax.nn.softmax(log_weights), np.float64)
        picked = systematic(keys[4], jnp.asarray(weights / weights.sum()), N_COUNTED)
        rows, counts = np.unique(np.asarray(picked), return_counts=True)
        last = {k: history[-1].get(k) for k in ("iteration", "nll", "nll_stderr", "ess")}
        record[name] = (
            counted((three, ten), draws[rows], counts, weights[rows])
            | last
            | {
                "seconds": seconds,
                "khat": float(pareto_khat(log_weights)),
                "effective_share": float(1 / (weights**2).sum() / N_DRAWS[name]),
            }
        )
        print(name, record[name], file=sys.stderr, flush=True)

    callbacks = Callbacks(on_block=[show])
    started = time.perf_counter()
    glow = fit_ebflow(
        keys[0],
        glow_ebflow(keys[1], SHAPE, n_steps=4, width=32),
        train,
        validation=validation,
        options=EBFlowOptions(
            objective="ml", batch_size=64, learning_rate=2e-3, average_decay=0.99
        ),
        max_steps=GLOW_STEPS,
        block_length=100,
        callbacks=callbacks,
    )
    flow = glow.model
    shares("glow", flow, flow, time.perf_counter() - started, glow.history)

    tilted = EnergyModel(ConvTilt(SHAPE, channels=16, key=keys[3]), paramax.non_trainable(flow))
    wide = paramax.non_trainable(gaussian_base(train[:N_TRAIN], inflation=1.5))
    options = BalancedOptions(
        learning_rate=2e-3,
        n_chains=128,
        batch_size=128,
        n_local=1,
        flow_batch=64,
        flow_interval=1,
        n_evaluation=1024,
    )
    started = time.perf_counter()
    balanced = balance(
        (keys[5], keys[6]),
        tilted,
        DefensiveMixture(flow, wide, 0.01),
        train,
        validation,
        weights=None,
        options=options,
        limits=StoppingCriteria(BALANCED_STEPS, block_length=25),
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - started
    shares("balanced", balanced.model, balanced.flow, seconds, balanced.history)

    started = time.perf_counter()
    persistent = fit_persistent(
        keys[5],
        tilted,
        train,
        options=replace(PERSISTENT, n_chains=128, batch_size=128, n_local=3),
        max_steps=PCD_STEPS,
        block_length=25,
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - started
    shares("pcd", persistent.model, DefensiveMixture(flow, wide, 0.01), seconds, persistent.history)
    chains = persistent.chains
    alike = np.ones(len(chains))
    record["pcd"]["chains"] = counted((three, ten), chains, alike, alike / len(chains))
    return record


def table(results: dict) -> str:
    """A row a model: shares, errors and what draws look like, over the keys."""
    fits = [results[key] for key in sorted(results)]
    titles = {
        "glow": "Glow, maximum likelihood",
        "balanced": "convolutional tilt of it, balanced",
        "pcd": "the same tilt, PCD",
    }
    lines = [
        f"| model | keys | {' | '.join(f'share of {d} ({s})' for d, s in SHARES.items())} | "
        "largest error of a share: median, worst | its standard error | taken for another of ten "
        "digits | validation NLL (nats) | k̂, effective share of draws | seconds |",
        "|---" * (len(SHARES) + 8) + "|",
    ]
    for name, title in titles.items():
        some = [fit[name] for fit in fits]

        def middle(column, form, some=some):
            return format(median(record[column] for record in some), form)

        shares = " | ".join(
            f"{median(record['shares'][str(d)] for record in some):.3f}" for d in SHARES
        )
        nll = middle("nll", ".1f") if some[0]["nll"] is not None else "unknown"
        lines.append(
            f"| {title} | {len(some)} | {shares} | {middle('worst_share_error', '.3f')}, "
            f"{max(record['worst_share_error'] for record in some):.3f} | "
            f"{middle('stderr', '.3f')} | {middle('like_another_digit', '.0%')} | {nll} | "
            f"{middle('khat', '.2f')}, {middle('effective_share', '.0%')} | "
            f"{middle('seconds', '.0f')} |"
        )
    chains = [fit["pcd"]["chains"] for fit in fits]
    worth = [fit["classifier"] for fit in fits]
    at_truth, on_chains = (
        ", ".join(f"{median(record[name][str(d)] for record in some):.3f}" for d in SHARES)
        for name, some in (("shares_at_the_truth", worth), ("shares", chains))
    )
    of_ten = [fit["classifier_of_ten"] for fit in fits]
    lines += [
        "",
        f"PCD's chains show {on_chains}. On held-out images the classifier is right in "
        f"{median(w['accuracy'] for w in worth):.1%}, and finds {at_truth} where the shares are "
        f"the true ones; that of ten is right in {median(w['accuracy'] for w in of_ten):.1%}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--keys", type=int, default=2)
    parser.add_argument("--data-dir", help="folder of MNIST's files")
    arguments = parser.parse_args()
    wanted = [{"key": str(key)} for key in range(arguments.keys)]
    if arguments.cell is None and not arguments.table:
        from flowebm.data import load_images

        try:
            load_images("mnist", arguments.data_dir, part="test")
        except ValueError as error:
            print(f"Skipped, for want of MNIST's test images: {error}", file=sys.stderr)
            wanted = []
    packages = ("flowebm", "jax", "flowjax", "scikit-learn")
    cells.main(
        arguments,
        wanted,
        measure,
        table,
        packages=packages,
        environment=lambda cell: os.environ | {DATA_DIR: str(arguments.data_dir)},
    )


if __name__ == "__main__":
    main()
