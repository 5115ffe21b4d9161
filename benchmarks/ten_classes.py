"""Ten classes of digits at unequal shares, fitted by the command line: shares, legibility, bits.

    python benchmarks/ten_classes.py --data-dir DIR              # one key: half an hour
    python benchmarks/ten_classes.py --table                     # what has been measured

DIR holds MNIST's test images, `t10k-images-idx3-ubyte.gz` and its labels. 8,000 of the 10,000
images, 28×28, are drawn at shares from 0.25 down to 0.02, with replacement where a class has fewer;
the other 2,000 train the classifier that judges samples, whose confusion on the 8,000 is corrected
for. `flowebm train --data FILE --pixel-levels 256` with defaults fits them, in at most an hour.
Beside it stands scikit-learn's mixture of 50 Gaussians on 30 principal components.

A sample is legible if the classifier is at least 0.9 sure of a class. It is a copy if it is nearer
to a training image than one in a hundred images of the test part is. The first hundred samples and
their nearest training images are kept as pictures beside the results.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "ten_classes.json"
DATA_DIR, BUDGET = "FLOWEBM_MNIST", "FLOWEBM_TEN_CLASSES_SECONDS"
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
SHARES = (0.25, 0.18, 0.14, 0.11, 0.09, 0.07, 0.06, 0.05, 0.03, 0.02)
N_ROWS, N_SAMPLES = 8_000, 10_000
NAMES = {"model": "flowebm", "mixture": "50 Gaussians"}


def drawn(labels, rng):
    """Numbers of the rows of a fit, and of the images that are left for the classifier."""
    import numpy as np

    order = rng.permutation(len(labels))
    pool, rest = np.split(order, [8_000])
    rows = []
    for digit, share in enumerate(SHARES):
        mine, n = rng.permutation(pool[labels[pool] == digit]), round(share * N_ROWS)
        rows.append(
            mine[:n] if n <= len(mine) else np.append(mine, rng.choice(mine, n - len(mine)))
        )
    return rng.permutation(np.concatenate(rows)), pool, rest


def judged(samples, judge) -> dict:
    """What the classifier says of samples, and how near to training images they are."""
    import numpy as np
    from image_classifier import corrected_shares, probabilities
    from sklearn.neighbors import NearestNeighbors

    network, of_pool, pool_labels, train, unseen = judge
    p = probabilities(network, samples.reshape(-1, 1, 28, 28) / 255.0)
    found, errors = corrected_shares(p, of_pool, pool_labels)
    nearest = NearestNeighbors(n_neighbors=1).fit(train)
    near = np.quantile(nearest.kneighbors(unseen)[0], 0.01)
    distances = nearest.kneighbors(samples[:2_000].reshape(-1, 784))[0]
    truth = np.asarray(SHARES)
    return {
        "shares": found.tolist(),
        "stderr": errors.tolist(),
        "largest_gap": float(np.abs(found - truth).max()),
        "largest_factor": float(np.exp(np.abs(np.log(found / truth)).max())),
        "legible": float((p.max(axis=1) >= 0.9).mean()),
        "copies": float((distances < near).mean()),
    }


def measure(model: str, key: str) -> dict:
    """One fit, judged."""
    import numpy as np
    from image_classifier import fit, probabilities

    from flowebm.data.idx import read_idx

    folder = Path(os.environ[DATA_DIR])
    images = read_idx(folder / IMAGES, 3).reshape(-1, 784)
    labels = read_idx(folder / LABELS, 1).astype(int)
    rows, pool, rest = drawn(labels, np.random.default_rng(int(key)))
    network = fit(images[rest].reshape(-1, 1, 28, 28) / 255.0, labels[rest], seed=int(key))
    of_pool = probabilities(network, images[pool].reshape(-1, 1, 28, 28) / 255.0)
    judge = network, of_pool, labels[pool], images[rows].astype(float), images[rest].astype(float)
    # Images that were not fitted, at the shares of those that were.
    weights = np.asarray(SHARES)[labels[rest]] / np.bincount(labels[rest])[labels[rest]]
    record = {
        "accuracy": float((of_pool.argmax(axis=1) == labels[pool]).mean()),
        "legible_digits": float((of_pool.max(axis=1) >= 0.9).mean()),
    }
    fitted = _mixture if model == "mixture" else _flowebm
    return record | fitted(images, rows, int(key), judge, weights)


def _mixture(images, rows, key: int, judge, weights) -> dict:
    """Fifty Gaussians on thirty principal components."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    started = time.perf_counter()
    components = PCA(30, random_state=key).fit(images[rows].astype(float))
    mixture = GaussianMixture(50, reg_covar=1.0, random_state=key)
    mixture.fit(components.transform(images[rows].astype(float)))
    seconds = time.perf_counter() - started
    samples = components.inverse_transform(mixture.sample(N_SAMPLES)[0])
    samples = np.clip(np.rint(samples), 0, 255)
    return {"seconds": seconds, "mixture": judged(samples, judge)}


def _flowebm(images, rows, key: int, judge, weights) -> dict:
    """The command line's fit, and pictures."""
    import numpy as np

    from flowebm import FlowEBM

    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "digits.npy", Path(folder) / "run"
        np.save(data, images[rows].reshape(-1, 28, 28))
        command = [
            sys.executable,
            "-c",
            "import sys; from flowebm.cli import main; sys.exit(main())",
            "train",
        ]
        command += ["--data", data, "--out", run]
        command += ["--pixel-levels", "256", "--seed", str(key), "--quiet", "--json"]
        command += ["--time-budget", os.environ.get(BUDGET, "3300")]
        started = time.perf_counter()
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.perf_counter() - started
        evaluation = json.loads(done.stdout)
        # One for each pixel.
        evaluation.pop("columns", None)
        estimator = FlowEBM.load(run)
    samples = estimator.sample(N_SAMPLES, random_state=key)
    bits = -estimator.score_samples(judge[4]) / (784 * np.log(2))
    mean = float(weights @ bits)
    error = float(np.sqrt((weights**2 * (bits - mean) ** 2).sum()))
    _page(samples[:100], judge[3], RESULTS.with_name(f"ten_classes_{key}.png"))
    return {
        "seconds": seconds,
        "evaluation": evaluation,
        "bits": mean,
        "bits_stderr": error,
        "model": judged(samples, judge),
    }


def _page(samples, train, path: Path) -> None:
    """Samples, and to the right of each the training image that is nearest."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    nearest = train[NearestNeighbors(n_neighbors=1).fit(train).kneighbors(samples)[1][:, 0]]

    def page(images):
        return images.reshape(10, 10, 28, 28).transpose(0, 2, 1, 3).reshape(280, 280)

    both = np.concatenate([page(samples), np.full((280, 8), 128.0), page(nearest)], axis=1)
    plt.imsave(path, 255 - np.kron(both, np.ones((2, 2))), cmap="gray", vmin=0, vmax=255)


def table(results: dict) -> str:
    """A row a model: medians and worst over the keys."""
    lines = [
        "| | seconds | a share off by, points | by a factor | legible | copies | bits a pixel |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        records = results.get("mixture" if name == "mixture" else "flowebm", {}).values()
        if not records:
            continue

        def both(value, records=records):
            values = [value(record) for record in records]
            return f"{median(values):.3g} ({max(values):.3g})"

        bits = ""
        if name == "model":
            bits = both(lambda r: r["bits"])
        parts = [
            both(lambda r: r["seconds"]),
            both(lambda r, name=name: 100 * r[name]["largest_gap"]),
            both(lambda r, name=name: r[name]["largest_factor"]),
            both(lambda r, name=name: r[name]["legible"]),
            both(lambda r, name=name: r[name]["copies"]),
            bits,
        ]
        lines.append(f"| {words} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--data-dir", help="folder of MNIST's files")
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=["flowebm", "mixture"])
    arguments = parser.parse_args()
    wanted = [
        {"model": model, "key": str(key)}
        for key in range(arguments.keys)
        for model in arguments.models
    ]
    folder = Path(arguments.data_dir or ".")
    if arguments.cell is None and not arguments.table and not (folder / IMAGES).exists():
        print("Skipped, for want of MNIST's test images: give --data-dir.", file=sys.stderr)
        wanted = []
    cells.main(
        arguments,
        wanted,
        measure,
        table,
        packages=("flowebm", "jax", "scikit-learn"),
        environment=lambda cell: os.environ | {DATA_DIR: str(arguments.data_dir)},
    )


if __name__ == "__main__":
    main()
