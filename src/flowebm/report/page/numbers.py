"""Numbers as the report writes them: rounded for the eye, whole for a program."""

from flowebm.report.page.element import Markup, element
from flowebm.report.page.record import Sourced

#: What stands where a number is missing or not finite.
MISSING = "–"


def nats(value: float) -> str:
    """A log-density or another number of free scale, to four decimals."""
    if value and not 5e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.4f}"


def share(value: float) -> str:
    """A number from 0 to 1, as per cent."""
    return f"{value:.1%}"


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def khat(value: float) -> str:
    """A Pareto shape."""
    return f"{value:.2f}"


def seconds(value: float) -> str:
    """A time, in seconds to one decimal; above two minutes also as a clock shows it."""
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return f"{value:,.0f} s ({clock})"


def written(number: Sourced | None, form=nats) -> Markup:
    """A number as an element that also holds its exact value and where it is from.

    Args:
        number: The number, or `None` where there is none.
        form: How it is written for the eye.
    """
    if number is None:
        return element("span", MISSING, class_="missing")
    return element("data", form(number.value), value=repr(number.value), data_source=number.source)


def with_error(number: Sourced | None, error: Sourced | None, form=nats) -> Markup:
    """A number and its standard error, which never break apart in a line.

    An error of exactly nothing belongs to a number that is known, not estimated.
    """
    if error is None or number is None:
        return element("span", written(number, form), class_="number")
    if error.value == 0:
        return element("span", written(number, form), " (exact)", class_="number")
    return element("span", written(number, form), " ± ", written(error, form), class_="number")
