"""The whole report as one page that needs nothing but itself."""

from datetime import datetime
from importlib.resources import files

from flowebm.report.page.checks import Check, Trust
from flowebm.report.page.command import Options
from flowebm.report.page.element import Markup, element, fragment
from flowebm.report.page.images import saved_plots
from flowebm.report.page.record import Record
from flowebm.report.page.sections import (
    checks_section,
    classes_section,
    columns_section,
    comparison_section,
    course_section,
    fitted_section,
    modes_section,
    reproduce_section,
)
from flowebm.report.page.summary import key_numbers, likelihood, reasons, title_number, verdict

#: What tells a report from another file.
GENERATOR = "flowebm report"

#: Nothing is loaded and nothing runs, whatever a file of the run says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(
    record: Record,
    checks: list[Check],
    trust: Trust,
    *,
    options: Options,
    installed: str | None,
    now: datetime,
) -> str:
    """The report of a run.

    Args:
        record: The run.
        checks: Its checks.
        trust: The answer that they give.
        options: Its options.
        installed: This version of flowebm.
        now: When the report is written.

    Returns:
        HTML.
    """
    name = record.config["data"]["name"].text or record.path.resolve().name
    method = record.config["options"]["method"].text
    plots, missing = saved_plots(record) if record.state == "finished" else ({}, [])
    time = now.strftime("%Y-%m-%d %H:%M")
    title = " · ".join(part for part in (name, title_number(record), "flowebm") if part)
    style = Markup(files("flowebm.report.page").joinpath("style.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="generator", content=GENERATOR),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", style),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", name),
            element("p", f"Energy model, fitted by flowebm{f' ({method})' if method else ''}"),
        ),
        element(
            "main",
            verdict(record, trust, checks),
            likelihood(record),
            reasons(checks),
            key_numbers(record),
            comparison_section(plots, record),
            modes_section(record, plots.get("mode_weights")),
            classes_section(record, plots.get("class_shares")),
            course_section(record, plots.get("training")),
            checks_section(checks),
            columns_section(record),
            fitted_section(record, options),
            reproduce_section(record, options, installed),
        ),
        element(
            "footer",
            [element("p", sentence) for sentence in missing],
            element(
                "p",
                f"Written {time} by flowebm {installed or ''} from the files of the run: every "
                "number is one of theirs, rounded, and in full in this page's source.",
            ),
        ),
    )
    return fragment(Markup("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), "\n")
