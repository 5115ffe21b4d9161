"""What follows the first screen: what was fitted, how it went, what came out, how to repeat it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flowebm.report.page.checks import Check
from flowebm.report.page.command import Options, flag, training_command
from flowebm.report.page.element import Content, Markup, element
from flowebm.report.page.images import Image, course_plot, picture
from flowebm.report.page.numbers import MISSING, count, nats, seconds, share, with_error, written
from flowebm.report.page.record import Record, Tree

#: Rows of the table of a run's course; of longer runs these many are shown.
COURSE_ROWS = 40
#: Names of columns that are listed.
NAMES = 40

_SIGNS = {"passed": "✓ passed", "note": "i advice", "care": "! warning", "failed": "✕ failed"}


def checks_section(checks: list[Check]) -> Markup | None:
    """All checks as a table, also those that passed."""
    rows = [
        [_SIGNS[check.level], check.name, check.found, check.wanted]
        for check in checks
        if check.found
    ]
    if not rows:
        return None
    weighted = any(check.name.startswith("k̂") for check in checks)
    remark = (
        "k̂ is the Pareto shape of the importance weights behind an estimate: above its limit a "
        "few draws make up the whole, and the error is not to be believed. No check sees mass "
        "that the model has where neither the data nor the flow's draws are."
    )
    return _section(
        "Checks",
        _table(["result", "check", "found", "should be"], rows, class_="checks"),
        element("p", remark, class_="remark") if weighted else None,
    )


def fitted_section(record: Record, options: Options) -> Markup:
    """What was fitted to what."""
    data, defaults = record.config["data"], options.defaults
    shape = record.model["shape"] if record.model["shape"].length > 1 else data["shape"]
    names = record.model["columns"].texts
    listed = ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" * (len(names) > NAMES))
    is_image = shape.length > 1
    terms: list[tuple[str, Content]] = [
        ("Data", data["name"].text or MISSING),
        (
            "Size",
            [
                written(data["rows"].number, count),
                " rows of ",
                written(data["columns"].number, count),
                " columns",
            ],
        ),
        ("Columns", listed if names and not is_image else None),
        ("Images of", " × ".join(map(_plain, shape.value)) if is_image else None),
        ("Method", record.config["options"]["method"].text),
        ("Run", str(record.path)),
    ]
    all_named = options.complete or not defaults
    caption = "Options" if all_named else "Options that are not the default"
    rows = [
        [
            element("code", flag(name)),
            _plain(value),
            _plain(defaults[name]) if name in defaults else MISSING,
        ]
        for name, value in options.values.items()
    ]
    return _section(
        "What was fitted",
        _terms(terms),
        _table(["option", "this run", "default"], rows, caption=caption)
        if rows
        else element("p", "All options were the defaults."),
    )


def course_section(record: Record, saved: Image | None) -> Markup:
    """Likelihood, effective sample size, acceptance and log Z over time."""
    plot = course_plot(record, saved)
    if not record.rows:
        return _section("Training", element("p", "No evaluation has been written yet."))
    best = _lowest(record)
    lowest: Content = None
    if best:
        lowest = [
            "Lowest: ",
            with_error(best["nll"].number, best["nll_stderr"].number),
            " at iteration ",
            written(best["iteration"].number, count),
            f" of stage {best['stage'].text or MISSING}.",
        ]
    return _section(
        "Training",
        picture(
            plot,
            alt=_course_alt(record, best),
            caption="Validation NLL (nats a point, in the units of the training, which for tables "
            "are standardised; the band is one standard error), and the quantities that tell why, "
            "over the iterations.",
        )
        if plot
        else None,
        element("p", lowest) if lowest else None,
        _course_table(record),
    )


def comparison_section(plots: Mapping[str, Image], record: Record) -> Markup | None:
    """Data against samples of the model."""
    name = record.config["data"]["name"].text or "the data"
    texts = {
        "density": (
            f"Three panels over the two columns of {name}: a histogram of the data, the model's "
            "density, and a histogram of its samples, on one colour scale.",
            "Data, the model's density and its samples, on one colour scale: the same colour is "
            "the same density.",
        ),
        "marginals": (
            f"Histograms of the columns of {name} and regions of their pairs; data as grey areas, "
            "samples of the model as blue lines.",
            "Each column, and the regions of 50% and 95% of the mass of each pair: data are grey "
            "areas, samples blue lines. Where the lines follow the areas' edges the model is "
            "right.",
        ),
        "data_images": (f"A page of images of {name}.", "Images of the data."),
        "sample_images": (
            "A page of images drawn from the model.",
            "Images drawn from the model, on the data's grey scale.",
        ),
    }
    shown = [
        picture(plots[key], alt=alt, caption=caption)
        for key, (alt, caption) in texts.items()
        if key in plots
    ]
    if not shown:
        if record.state == "finished":
            return None
        note = "Plots of data against samples are made when a run ends."
        return _section("Data against samples", element("p", note, class_="remark"))
    images = "data_images" in plots and "sample_images" in plots
    return _section("Data against samples", element("div", shown, class_="pair" if images else ""))


def modes_section(record: Record, plot: Image | None) -> Markup | None:
    """The model's weights of the modes, where the truth is known."""
    weights = record.evaluation["mode_weights"]
    rows = [
        [
            str(index + 1),
            written(weights["true"][index].number),
            with_error(weights["fitted"][index].number, weights["stderr"][index].number),
        ]
        for index in range(weights["fitted"].length)
    ]
    if not rows:
        return None
    alt = "; ".join(_mode_alt(weights, index) for index in range(len(rows)))
    caption = "True weights and the model's, with two standard errors."
    return _section(
        "Mode weights",
        picture(plot, alt=f"Bars of the weights of the modes. {alt}.", caption=caption)
        if plot
        else None,
        _table(["mode", "true", "model"], rows),
    )


def classes_section(record: Record, plot: Image | None) -> Markup | None:
    """Shares of classes in the data and in the model, where there are labels."""
    shares = record.evaluation["class_shares"]
    names = shares["classes"].texts
    rows: list[list[Content]] = [
        [
            name,
            with_error(shares["data"][i].number, shares["data_stderr"][i].number),
            with_error(shares["model"][i].number, shares["model_stderr"][i].number),
            written(shares["ratio"][i].number),
            "differs by more than 3 errors" if shares["differ"][i].value is True else "",
        ]
        for i, name in enumerate(names)
    ]
    if not rows:
        return None
    pairs = [shares["confused"][i].texts for i in range(shares["confused"].length)]
    remarks = [
        f"Rows of “{'” and “'.join(pair)}” are hardly told apart: add their shares up."
        for pair in pairs
    ]
    caption = "Shares of the classes in the data and in the model, with two standard errors."
    return _section(
        "Class shares",
        picture(plot, alt=f"Bars of the shares of {len(rows)} classes.", caption=caption)
        if plot
        else None,
        _table(["class", "data", "model", "ratio", ""], rows),
        [element("p", remark, class_="remark") for remark in remarks],
    )


def columns_section(record: Record) -> Markup | None:
    """What columns were taken for, where that is more than real numbers."""
    kinds = record.evaluation["columns"].entries
    rows: list[list[Content]] = [
        [name, kind] for name, kind in kinds.items() if isinstance(kind, str) and kind != "real"
    ]
    return _section("Columns", _table(["column", "kind"], rows)) if rows else None


def reproduce_section(record: Record, options: Options, installed: str | None) -> Markup:
    """The command that repeats the run, and what it needs to give the same."""
    config = record.config
    versions = config["versions"].entries
    sha256 = config["data"]["sha256"].text
    return _section(
        "Repeat this run",
        _commands(record, options)
        if options.defaults
        else element("p", "This version of flowebm does not know the run's options."),
        element(
            "p",
            f"The run is of flowebm {config['versions']['flowebm'].text or 'unknown version'}, "
            f"this report of {installed}: the command names every option, since the defaults may "
            "have been others.",
        )
        if options.complete
        else None,
        _terms(
            [(name, _plain(version)) for name, version in versions.items()]
            + [("SHA-256 of the data's values", element("code", sha256) if sha256 else None)]
        ),
    )


def _commands(record: Record, options: Options) -> list[Content]:
    """The command, what it takes to give the same, and how to go on with a stopped run."""
    limited = record.config["options"]["time_budget"].number is not None
    same = (
        "In the folder in which it ran, with the same data and versions, and on the same kind of "
        "machine, it gives the same model"
    )
    but = ", but for the time limit: it makes as many iterations as it has time for"
    parts: list[Content] = [
        element("pre", element("code", training_command(record, options))),
        element("p", f"{same}{but if limited else ''}."),
    ]
    if record.state == "stopped":
        command = training_command(record, options, resume=True)
        parts += [element("p", "To go on with it:"), element("pre", element("code", command))]
    return parts


def _course_table(record: Record) -> Markup:
    """Rows of the metrics; of many, some at even distances, the first and the last."""
    rows = record.rows
    step = max(1, -(-len(rows) // COURSE_ROWS))
    shown = rows[(len(rows) - 1) % step :: step]
    columns: list[tuple[str, Any]] = [
        ("stage", lambda row: row["stage"].text or MISSING),
        ("iteration", lambda row: written(row["iteration"].number, count)),
        ("time", lambda row: written(row["seconds"].number, seconds)),
        ("NLL", lambda row: with_error(row["nll"].number, row["nll_stderr"].number)),
    ]
    for key, name in (
        ("ess", "ESS"),
        ("global_acceptance", "global"),
        ("local_acceptance", "local"),
    ):
        if any(row[key].number for row in shown):
            columns.append((name, lambda row, key=key: written(row[key].number, share)))
    if any(row["log_partition"].number for row in shown):
        columns.append(
            (
                "log Z",
                lambda row: with_error(
                    row["log_partition"].number, row["log_partition_stderr"].number
                ),
            )
        )
    body = [[cell(row) for _, cell in columns] for row in shown]
    which = f"{len(shown)} of {len(rows)} evaluations" if step > 1 else f"all {len(rows)}"
    return element(
        "details",
        element("summary", f"The numbers ({which})"),
        _table([name for name, _ in columns], body, class_="stacked"),
    )


def _lowest(record: Record) -> Tree | None:
    """The row with the lowest validation NLL of the last stage that has one."""
    rows = [row for row in record.rows if row["nll"].number]
    rows = [row for row in rows if row["stage"].value == rows[-1]["stage"].value]
    return min(rows, key=lambda row: row["nll"].number or 0.0, default=None)


def _course_alt(record: Record, best: Tree | None) -> str:
    first = next((n.value for row in record.rows if (n := row["nll"].number)), None)
    lowest = best["nll"].number if best else None
    if first is None or lowest is None:
        return "Curves of the run's metrics over the iterations."
    return (
        f"Curves over the iterations: the validation NLL begins at {nats(first)} nats and its "
        f"lowest value is {nats(lowest.value)}; below it effective sample size, acceptances and "
        "log Z where the run has them."
    )


def _mode_alt(weights: Tree, index: int) -> str:
    true, fitted = weights["true"][index].number, weights["fitted"][index].number
    values = [nats(number.value) if number else "unknown" for number in (true, fitted)]
    return f"mode {index + 1}: true {values[0]}, model {values[1]}"


def _section(title: str, *content: Content) -> Markup:
    return element("section", element("h2", title), *content)


def _terms(terms: Sequence[tuple[str, Content]]) -> Markup:
    shown = [
        element("div", element("dt", name), element("dd", value)) for name, value in terms if value
    ]
    return element("dl", shown)


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[Content]], *, caption: str = "", class_: str = ""
) -> Markup:
    """A table whose cells know their column's name, for screens too narrow for columns."""
    return element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", [element("th", head, scope="col") for head in heads])),
        element(
            "tbody",
            [
                element(
                    "tr",
                    [
                        element("td", cell, data_label=head)
                        for head, cell in zip(heads, row, strict=True)
                    ],
                )
                for row in rows
            ],
        ),
        class_=class_ or None,
    )


def _plain(value: Any) -> str:
    """A value of the configuration as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)
