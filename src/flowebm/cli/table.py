"""The table of measures that a person reads."""

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text


def print_measures(values: dict[str, Any], warnings: list[str], *, title: str) -> None:
    """Print measures as a table on standard output, warnings below it.

    Args:
        values: The measures by name, as `evaluation.json` has them.
        warnings: One sentence each.
        title: What the table is of.
    """
    console = Console(highlight=False)
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for label, value in _rows(values):
        table.add_row(label, value)
    parts: list[RenderableType] = [table]
    if "mode_weights" in values:
        parts.append(_weights(values["mode_weights"]))
    if "class_shares" in values:
        parts.append(shares_table(values["class_shares"]))
    parts += [Text(f"Warning: {sentence}", style="yellow") for sentence in warnings]
    console.print(Group(*parts))


def shares_table(shares: dict[str, Any]) -> RenderableType:
    """Shares of classes in the data and in the model as a table, with what they do not tell.

    Args:
        shares: The shares, as `evaluation.json` has them.
    """
    table = Table(title="shares of the classes", title_justify="left")
    table.add_column("class", no_wrap=True)
    for name in ("data", "model", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    columns = ("classes", "data", "data_stderr", "model", "model_stderr", "ratio", "differ")
    for name, data, error, model, model_error, ratio, differs in zip(
        *(shares[column] for column in columns), strict=True
    ):
        table.add_row(
            Text(str(name)),
            f"{data:.4f} ± {error:.4f}",
            f"{model:.4f} ± {model_error:.4f}",
            f"{ratio:.2f}",
            "differs by more than 3 errors" if differs else "",
        )
    parts: list[RenderableType] = [table, f"total variation {shares['total_variation']:.4f}"]
    parts += [
        Text(f"Rows of '{one}' and '{other}' are hardly told apart: add their shares up.")
        for one, other in shares["confused"]
    ]
    return Group(*parts)


def _rows(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    held_out = f"held-out NLL ({values['test_points']:,} points)"
    yield held_out, f"{_interval(values['nll'])} nats, in the data's units"
    if "nll_standardised" in values:
        yield "", f"{_interval(values['nll_standardised'])} nats, standardised"
    if "bits_per_dimension" in values:
        yield "", f"{_interval(values['bits_per_dimension'])} bits a dimension"
    log_z = values["log_partition"]
    if log_z["n"] == 0:
        yield "log Z", f"{_number(log_z['value'])} nats, exact"
    else:
        yield "log Z", f"{_number(log_z['value'])} ± {_number(log_z['stderr'])} nats"
        effective = f"{log_z['ess']:,.0f} of {log_z['n']:,} draws effective"
        yield "", f"Pareto k̂ {log_z['khat']:.2f}, {effective}"
    if values.get("log_partition_bound"):
        yield "", f"off by {_number(values['log_partition_bound'])} at most, with 95% confidence"
    if values.get("hidden_mass"):
        yield "mass where no draw fell", f"{values['hidden_mass']:.2%} at most"
    if "kl" in values:
        kl = values["kl"]
        yield "KL from the truth", f"{_number(kl['value'])} ± {_number(kl['stderr'])} nats"
    if "mode_weights" in values:
        yield "total variation of weights", _number(values["mode_weights"]["total_variation"])
    shares = {
        "pool_ess": "proposals effective",
        "global_acceptance": "global acceptance",
        "local_acceptance": "local acceptance",
    }
    for name, label in shares.items():
        if values.get(name) is not None:
            yield label, f"{values[name]:.1%}"
    for name, kind in values.get("columns", {}).items():
        if kind != "real":
            yield f"column '{name}'", kind
    if "iterations" in values:
        yield "iterations", f"{values['iterations']:,} ({values['stop_reason']})"
        yield "training time", f"{values['seconds']:.1f} s"


def _weights(weights: dict[str, Any]) -> Table:
    table = Table(title="weights of the modes", title_justify="left")
    for name in ("mode", "true", "fitted"):
        table.add_column(name, justify="right")
    rows = zip(weights["true"], weights["fitted"], weights["stderr"], strict=True)
    for number, (true, fitted, stderr) in enumerate(rows, start=1):
        table.add_row(str(number), f"{true:.4f}", f"{fitted:.4f} ± {stderr:.4f}")
    return table


def _interval(estimate: dict[str, float]) -> str:
    value, stderr = _number(estimate["value"]), _number(estimate["stderr"])
    lower, upper = _number(estimate["lower"]), _number(estimate["upper"])
    return f"{value} ± {stderr} (95%: {lower} to {upper})"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else str(value)
