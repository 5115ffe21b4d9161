"""The page of all benchmarks, from what they have measured.

    python benchmarks/report.py    # writes docs/benchmarks.md and its picture

Nothing is measured here: each table is its benchmark's own `--table`, of the file of results that
lies in the repository, or its `page` where it has several.
"""

import importlib
import json
from pathlib import Path
from statistics import median
from typing import Any

import cells
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PICTURE = PAGE.parent / "images" / "benchmark_density.png"

#: The benchmarks and what they answer, in the page's order.
BENCHMARKS = {
    "density": "Densities against the truth, beside other methods, at equal seconds",
    "tabular": "Tables of few rows, beside other methods",
    "balanced": "Balanced training against the truth",
    "ablations": "Other ways to make an iteration",
    "calibration": "Intervals against the truth",
    "class_balance": "Shares of classes among images",
    "sampling": "Effective draws of all modes",
    "sampling_known": "Densities whose truth is known, beside other samplers",
    "posteriors": "Posteriors of numpyro models, beside long runs of NUTS",
    "calibration_sampling": "The error that is stated of a log Z, over many keys",
    "ebflow_2d": "Objectives of energy-based flows in two dimensions",
    "ebflow_images": "Energy-based flows of MNIST",
    "ebflow_linear": "Kinds of linear layer",
    "ebflow_scaling": "A step's cost against dimension",
    "convolutions": "Ways to compute a convolution",
    "speed": "Steps beside other libraries",
    "accelerator": "Steps on an accelerator",
}

HEAD = """# Benchmarks

Written by `make bench-report`: what each script keeps in `benchmarks/results`, as its own `--table`
prints it. Every script goes on where it stopped; how it measures stands at its head. Where the code
has changed since so that other figures are to be expected, a note says so.
"""


def runs(results: Any) -> list[dict[str, Any]]:
    """Every record's `run`, wherever it lies."""
    if not isinstance(results, dict):
        return []
    found = [results["run"]] if isinstance(results.get("run"), dict) else []
    return found + [run for value in results.values() for run in runs(value)]


def section(name: str) -> str:
    """One benchmark's part of the page, or nothing if it has not measured anything."""
    module = importlib.import_module(name)
    results = cells.load(module.RESULTS)
    if not results:
        return ""
    lines = [f"## {BENCHMARKS[name]}", "", f"`python benchmarks/{name}.py`. "]
    records = runs(results)
    if records:
        days = sorted({run["date"] for run in records})
        versions = {f"{k} {v}" for run in records for k, v in run["versions"].items()}
        cores = "/".join(str(n) for n in sorted({run["cores"] for run in records}))
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        lines[-1] += f"{span}, {cores} cores; {', '.join(sorted(versions))}."
        if commits := sorted({run["commit"] for run in records if run.get("commit")}):
            lines[-1] += f" Commits {', '.join(commits)}."
    if note := json.loads(module.RESULTS.read_text()).get("note"):
        lines += ["", note]
    if name == "density" and draw_density(results):
        lines += ["", f"![KL of every method on every set](images/{PICTURE.name})"]
    return "\n".join([*lines, "", getattr(module, "page", module.table)(results).strip(), ""])


def draw_density(results: dict[str, Any]) -> bool:
    """KL of every method on every set, a point a key; whether there was anything to draw."""
    import density

    sets = [name for name in density.SETS if name in results]
    if not sets:
        return False
    figure, axes = plt.subplots(figsize=(8, 1 + 0.45 * len(sets)), layout="constrained")
    for number, method in enumerate(density.NAMES):
        rows = [(y, keys[method].values()) for y, keys in enumerate(results[s] for s in sets)
                if method in keys]  # fmt: skip
        shift = 0.6 * (number / (len(density.NAMES) - 1) - 0.5)
        # A KL below the noise of its estimate has no logarithm.
        points = [(max(c["kl"], 1e-4), y + shift) for y, found in rows for c in found]
        middle = [(max(median(c["kl"] for c in found), 1e-4), y + shift) for y, found in rows]
        if not points:
            continue
        style = {"color": f"C{number}", "marker": "osD^vP*Xdp"[number]}
        axes.scatter(*zip(*points, strict=True), s=12, alpha=0.4, **style)
        axes.scatter(*zip(*middle, strict=True), s=40, label=method, **style)
    axes.set(xscale="log", xlabel="KL from the truth (nats); large: the median over keys")
    axes.set_yticks(range(len(sets)), sets)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)
    return True


def main() -> None:
    parts = [HEAD, *filter(None, map(section, BENCHMARKS))]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(f"{PAGE}: {len(parts) - 1} benchmarks")


if __name__ == "__main__":
    main()
