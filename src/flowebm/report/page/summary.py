"""The first screen: is the model to be trusted, and how good is it?"""

import re

from flowebm.report.page.checks import Check, Trust
from flowebm.report.page.element import Content, Markup, element
from flowebm.report.page.numbers import (
    count,
    khat,
    nats,
    seconds,
    share,
    with_error,
    written,
)
from flowebm.report.page.record import Record, Tree

#: What answers "is this model to be trusted?": a class for its colour, a sign, words.
_ANSWERS: dict[Trust, tuple[str, str, str]] = {
    "yes": ("good", "✓", "Yes"),
    "with care": ("care", "!", "With care"),
    "no": ("bad", "✕", "No"),
    "not yet": ("open", "…", "Not yet"),
}

#: How sentences begin, the gravest first.
_LEVELS = {"failed": "Failed:", "care": "Warning:", "note": "Advice:"}


def verdict(record: Record, trust: Trust, checks: list[Check]) -> Markup:
    """The answer, in letters that nobody misses.

    Args:
        record: The run.
        trust: The answer.
        checks: The checks that it rests on.
    """
    kind, sign, words = _ANSWERS[trust]
    return element(
        "section",
        element("p", "Is this model to be trusted?", class_="question"),
        element(
            "p",
            element("span", sign, class_="sign", aria_hidden="true"),
            element("strong", words),
            class_="answer",
        ),
        element("p", opening_sentence(record, trust, checks)),
        class_=f"verdict {kind}",
        aria_label="verdict",
    )


def reasons(checks: list[Check]) -> Markup | None:
    """What is wrong and what to do, the gravest first.

    Args:
        checks: The checks.
    """
    wrong = sorted((c for c in checks if c.sentence), key=lambda c: list(_LEVELS).index(c.level))
    items = [
        element("li", element("b", _LEVELS[check.level]), " ", _with_flags(check.sentence))
        for check in wrong
    ]
    return element("ul", items, class_="reasons") if items else None


def _with_flags(sentence: str) -> list[Content]:
    """A sentence in which options of the command line never break apart."""
    parts = re.split(r"(--[a-z][a-z-]*[a-z])", sentence)
    return [element("code", part) if part.startswith("--") else part for part in parts]


def opening_sentence(record: Record, trust: Trust, checks: list[Check]) -> str:
    """The answer in one sentence.

    Args:
        record: The run.
        trust: The answer.
        checks: The checks that it rests on.
    """
    if trust == "not yet":
        if record.state == "training":
            if record.model.entries:
                return "The training has ended; the model is being measured."
            return "The run is still going: these are its numbers so far."
        ended = "its model was measured" if record.model.entries else "its end"
        return f"The run was stopped before {ended}; the same command with --resume goes on."
    if trust == "no":
        return "Its likelihoods are not to be used as they are."
    if trust == "with care":
        return "Its numbers are usable if you have read what follows."
    passed = sum(check.level == "passed" for check in checks)
    return f"All {passed} checks of this run passed."


def likelihood(record: Record) -> Markup:
    """The likelihood with its error, in large letters.

    Args:
        record: The run.
    """
    if not record.evaluation.entries:
        return _likelihood_so_far(record)
    nll = record.evaluation["nll"]
    points = record.evaluation["test_points"].number
    fresh = record.evaluation["fresh_test_points"].value is True
    kind = "fresh points of the truth" if fresh else "held-out rows"
    lower, upper = nll["lower"].number, nll["upper"].number
    return _tile(
        "Held-out NLL",
        with_error(nll["value"].number, nll["stderr"].number),
        ["nats a point", [", on ", written(points, count), f" {kind}"] if points else ""],
        ["95%: ", written(lower), " to ", written(upper)] if lower and upper else None,
        class_="main",
    )


def key_numbers(record: Record) -> Markup | None:
    """What the likelihood rests on, and what else is known.

    Args:
        record: The run.
    """
    tiles = _final(record.evaluation) if record.evaluation.entries else _so_far(record)
    return element("section", tiles, class_="tiles", aria_label="key numbers") if tiles else None


def _final(evaluation: Tree) -> list[Markup | None]:
    log_z, bits, kl = (evaluation[n] for n in ("log_partition", "bits_per_dimension", "kl"))
    weights = evaluation["mode_weights"]
    shape, ess, draws = (log_z[name].number for name in ("khat", "ess", "n"))
    return [
        _tile(
            "Bits per dimension",
            with_error(bits["value"].number, bits["stderr"].number),
            "the same, for each pixel",
        )
        if bits.entries
        else None,
        _tile(
            "log Z",
            with_error(log_z["value"].number, log_z["stderr"].number),
            ["k̂ = ", written(shape, khat)] if shape else None,
            [written(ess, count), " of ", written(draws, count), " draws effective"]
            if ess and draws
            else None,
        )
        if log_z.entries
        else None,
        _tile("KL from the truth", with_error(kl["value"].number, kl["stderr"].number), "nats")
        if kl.entries
        else None,
        _tile(
            "Mode weights",
            written(weights["total_variation"].number),
            "total variation from the truth",
        )
        if weights.entries
        else None,
        *_chains(evaluation, "pool_ess"),
        _tile(
            "Training",
            written(evaluation["seconds"].number, seconds),
            [written(evaluation["iterations"].number, count), " iterations"],
            evaluation["stop_reason"].text,
        )
        if evaluation["seconds"].number
        else None,
    ]


def _likelihood_so_far(record: Record) -> Markup:
    evaluated = next((row for row in reversed(record.rows) if row["nll"].number), None)
    if evaluated is None:
        return _tile("Validation NLL", written(None), "no evaluation yet", class_="main")
    return _tile(
        "Validation NLL so far",
        with_error(evaluated["nll"].number, evaluated["nll_stderr"].number),
        "nats a point, in the units of the training",
        ["iteration ", written(evaluated["iteration"].number, count), _stage(evaluated)],
        class_="main",
    )


def _so_far(record: Record) -> list[Markup | None]:
    """What the last row of a run that has not ended says."""
    if not record.rows:
        return []
    last = record.rows[-1]
    log_z = last["log_partition"].number
    return [
        _tile("log Z", with_error(log_z, last["log_partition_stderr"].number), "so far")
        if log_z
        else None,
        *_chains(last, "ess"),
        _tile(
            "Training so far",
            written(last["seconds"].number, seconds),
            [written(last["iteration"].number, count), " iterations", _stage(last)],
        ),
    ]


def _chains(numbers: Tree, ess: str) -> list[Markup | None]:
    """Shares of effective proposals and of accepted moves, where there are chains."""
    effective = numbers[ess].number
    moves = [("global", "of the flow's"), ("local", "of the local")]
    shares = [(numbers[f"{kind}_acceptance"].number, words) for kind, words in moves]
    accepted = [(number, words) for number, words in shares if number]
    return [
        _tile("Effective proposals", written(effective, share), "of the flow, while training")
        if effective
        else None,
        _tile(
            "Accepted moves",
            written(accepted[0][0], share),
            f"{accepted[0][1]} moves",
            [[written(number, share), f" {words} moves"] for number, words in accepted[1:]],
        )
        if accepted
        else None,
    ]


def _stage(row: Tree) -> str:
    return f" of stage {row['stage'].text}" if row["stage"].text else ""


def _tile(name: str, number: Content, *below: Content, class_: str = "") -> Markup:
    return element(
        "div",
        element("p", name, class_="name"),
        element("p", number, class_="value"),
        [element("p", line, class_="below") for line in below if line],
        class_=f"tile {class_}".strip(),
    )


def title_number(record: Record) -> str:
    """The likelihood as a page's title shows it, or nothing."""
    nll, stderr = (record.evaluation["nll"][name].number for name in ("value", "stderr"))
    return f"NLL {nats(nll.value)} ± {nats(stderr.value)}" if nll and stderr else ""
