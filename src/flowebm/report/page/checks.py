"""Whether the numbers of a run are to be believed, in plain words."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from flowebm.evaluation.reliability import ESS_LIMIT
from flowebm.report.page.element import Content
from flowebm.report.page.numbers import count, khat, nats, share, written
from flowebm.report.page.record import Record, Sourced, Tree

#: How a check ends. A `note` is advice: it takes nothing away from the numbers.
Level = Literal["passed", "note", "care", "failed"]

#: The answer to "is this model to be trusted?".
Trust = Literal["yes", "with care", "no", "not yet"]

_ENOUGH_DRAWS = f"{ESS_LIMIT:.0f} or more"
#: Pareto shape above which importance weights of the usual 20,000 draws are not to be believed.
MOST_KHAT = 0.7
#: Standard error of log Z (nats) above which the density's level is rather a guess.
LOG_Z_ERROR_LIMIT = 0.1
#: Share of accepted flow proposals under which chains hardly change modes.
ACCEPTANCE_LIMIT = 0.02
#: Standard errors beyond which a difference is no accident.
SIGNIFICANT = 4.0
#: Total variation of mode weights (a probability) under which a difference does not matter.
SMALL_VARIATION = 0.02
#: Fall of the validation NLL (nats) over the last fifth of a run that is worth going on for.
STILL_FALLING = 0.01


@dataclass(frozen=True)
class Check:
    """One check of a run.

    Attributes:
        name: What is checked.
        level: How it ended.
        found: What was found, as the table of checks shows it.
        wanted: What it should be.
        sentence: What is wrong and what to do; empty where nothing is.
    """

    name: str
    level: Level
    found: Content = ""
    wanted: str = ""
    sentence: str = ""


def checks_of(record: Record) -> list[Check]:
    """All checks that apply to a run.

    Args:
        record: The run.

    Returns:
        The checks, in the order in which they are shown.
    """
    evaluation = record.evaluation
    found: list[Check] = []
    if evaluation.entries:
        found += _likelihood(evaluation)
        found += _log_partition(evaluation["log_partition"])
        found += _truth(evaluation, record.config["data"]["rows"].number)
    found += _training(record)
    found += _said(evaluation["warnings"].texts, found)
    found += [Check("files", "care", sentence=sentence) for sentence in record.unreadable]
    return found


def trust_in(record: Record, checks: list[Check]) -> Trust:
    """The answer that the checks together give.

    Args:
        record: The run.
        checks: Its checks.
    """
    levels = {check.level for check in checks}
    if record.state != "finished":
        return "not yet"
    if "failed" in levels:
        return "no"
    return "with care" if "care" in levels else "yes"


def _said(sentences: list[str], found: list[Check]) -> Iterator[Check]:
    """What the run itself warned of, but for what a failed check says better."""
    failed = " ".join(check.sentence for check in found if check.level == "failed")
    for sentence in dict.fromkeys(sentences):
        repeated = any(
            sentence.startswith(f"The estimate of {quantity} and its") and quantity in failed
            for quantity in ("log Z", "the mode weights")
        )
        if not repeated:
            yield Check("the run's own warning", "care", sentence=sentence)


def _likelihood(evaluation: Tree) -> Iterator[Check]:
    nll, stderr = evaluation["nll"]["value"].number, evaluation["nll"]["stderr"].number
    if nll is not None and stderr is not None:
        yield Check("held-out NLL", "passed", written(nll), "finite")
        return
    yield Check(
        "held-out NLL",
        "failed",
        "not finite",
        "finite",
        "The held-out NLL is not finite: the model excludes a held-out point or its log Z is "
        "unknown. Look for outliers in the data and lower --learning-rate.",
    )


def _log_partition(log_z: Tree) -> Iterator[Check]:
    value, stderr = log_z["value"].number, log_z["stderr"].number
    if value is None:
        if log_z.entries:
            yield Check(
                "log Z",
                "failed",
                "not finite",
                "finite",
                "log Z is not finite, so no log-density of this model is known.",
            )
        return
    if stderr is not None and stderr.value == 0:
        yield Check("log Z", "passed", "known exactly", "known")
        return
    weights = [
        *_importance_weights(log_z, "log Z", ", and with it every log-density and the NLL,"),
        *_effective_draws(log_z),
    ]
    # One cause, one sentence: the tail of the weights explains what follows from it.
    told = False
    for check in weights:
        yield replace(check, sentence="") if told else check
        told = told or check.level == "failed"
    yield _log_partition_error(stderr, told)


def _log_partition_error(stderr: Sourced | None, told: bool) -> Check:
    name, wanted = "error of log Z", f"{LOG_Z_ERROR_LIMIT} or less"
    if stderr is None:
        return Check(
            name,
            "care",
            "unknown",
            wanted,
            "The error of log Z is not known, and with it that of the NLL.",
        )
    if stderr.value <= LOG_Z_ERROR_LIMIT:
        return Check(name, "passed", written(stderr), wanted)
    sentence = (
        f"log Z is known only to ± {nats(stderr.value)} nats: differences between rows' "
        "log-densities are exact, their level is not. Train the flow longer (--max-steps)."
    )
    return Check(name, "care", written(stderr), wanted, "" if told else sentence)


def _importance_weights(estimate: Tree, quantity: str, consequence: str = "") -> Iterator[Check]:
    """The tail of the weights behind an estimate, where it has such weights."""
    if "khat" not in estimate:
        return
    name, wanted = f"k̂ of {quantity}", f"{MOST_KHAT} or less"
    shape = estimate["khat"].number
    if shape is None:
        yield Check(
            name,
            "care",
            "unknown",
            wanted,
            f"The tail of the importance weights for {quantity} could not be judged (no k̂): take "
            "its error with care.",
        )
    elif shape.value > MOST_KHAT:
        yield Check(
            name,
            "failed",
            written(shape, khat),
            wanted,
            f"The importance weights are heavy-tailed, k̂ = {khat(shape.value)} (should be "
            f"{wanted}): {quantity}{consequence} is not to be trusted. Train the flow longer "
            "(--max-steps), or give it more layers (--flow-layers).",
        )
    else:
        yield Check(name, "passed", written(shape, khat), wanted)


def _effective_draws(log_z: Tree) -> Iterator[Check]:
    ess = log_z["ess"].number
    if ess is None:
        return
    if ess.value >= ESS_LIMIT:
        yield Check("effective draws", "passed", written(ess, count), _ENOUGH_DRAWS)
        return
    draws = log_z["n"].number
    of = f" of {count(draws.value)}" if draws else ""
    yield Check(
        "effective draws",
        "failed",
        written(ess, count),
        _ENOUGH_DRAWS,
        f"Only {count(ess.value)}{of} draws of the flow are effective: log Z and its error are not "
        "to be trusted. Train the flow longer (--max-steps).",
    )


def _truth(evaluation: Tree, rows: Sourced | None) -> Iterator[Check]:
    """Against a known truth: a divergence that can be, weights that are right."""
    kl, error = evaluation["kl"]["value"].number, evaluation["kl"]["stderr"].number
    if kl is not None and error is not None:
        if kl.value + SIGNIFICANT * error.value < 0:
            yield Check(
                "KL from the truth",
                "failed",
                written(kl),
                "0 or more",
                f"The KL divergence is estimated as {nats(kl.value)}, which cannot be: log Z is "
                "too small, because the model has mass where the flow does not go. Train the flow "
                "longer.",
            )
        else:
            yield Check("KL from the truth", "passed", written(kl), "0 or more")
    weights = evaluation["mode_weights"]
    yield from _importance_weights(weights, "the mode weights")
    variation = weights["total_variation"].number
    if variation is None:
        return
    wanted = f"{SMALL_VARIATION} or less, or within their error"
    wrong = _wrong_modes(weights, rows)
    if wrong and variation.value > SMALL_VARIATION:
        modes = "mode " + wrong[0] if len(wrong) == 1 else "modes " + ", ".join(wrong)
        yield Check(
            "mode weights",
            "care",
            ["total variation ", written(variation)],
            wanted,
            f"The model has the wrong mass in {modes} (total variation {nats(variation.value)}), "
            "more than chance explains. Train longer (--max-steps).",
        )
    else:
        yield Check("mode weights", "passed", ["total variation ", written(variation)], wanted)


def _wrong_modes(weights: Tree, rows: Sourced | None) -> list[str]:
    """Numbers of the modes whose weight differs by more than its error and the data's."""
    wrong = []
    for index in range(weights["fitted"].length):
        true, fitted = weights["true"][index].number, weights["fitted"][index].number
        stderr = weights["stderr"][index].number
        if true is None or fitted is None:
            continue
        variance = true.value * (1 - true.value) / rows.value if rows and rows.value > 0 else 0.0
        error = math.hypot(math.sqrt(max(variance, 0.0)), stderr.value if stderr else 0.0)
        if abs(fitted.value - true.value) > SIGNIFICANT * error:
            wrong.append(str(index + 1))
    return wrong


def _training(record: Record) -> Iterator[Check]:
    last = record.rows[-1] if record.rows else Tree(None, "")
    wanted_ess = record.config["options"]["full_ess"].number
    ess = last["ess"].number
    if ess is not None and wanted_ess is not None:
        wanted = f"{share(wanted_ess.value)} or more"
        if ess.value < wanted_ess.value:
            yield Check(
                "effective proposals",
                "care",
                written(ess, share),
                wanted,
                f"Only {share(ess.value)} of the flow's proposals are effective (should be "
                f"{wanted}): the flow does not follow the model. Give it more layers "
                "(--flow-layers) or more steps (a smaller --flow-interval).",
            )
        else:
            yield Check("effective proposals", "passed", written(ess, share), wanted)
    acceptance = last["global_acceptance"].number
    if acceptance is not None:
        wanted = f"{share(ACCEPTANCE_LIMIT)} or more"
        if acceptance.value < ACCEPTANCE_LIMIT and _has_global_moves(record):
            yield Check(
                "global acceptance",
                "care",
                written(acceptance, share),
                wanted,
                f"Only {share(acceptance.value)} of the global moves are accepted: chains hardly "
                "change modes, and modes' weights may be wrong. Train the flow longer.",
            )
        elif _has_global_moves(record):
            yield Check("global acceptance", "passed", written(acceptance, share), wanted)
    yield from _earlier_stage(record)
    fall = _last_fall(record)
    if record.state == "finished" and fall is not None and fall > STILL_FALLING:
        yield Check(
            "end of training",
            "note",
            f"fell by {nats(fall)} in the last fifth",
            f"by {STILL_FALLING} or less",
            f"The validation NLL was still falling when the run ended (by {nats(fall)} nats in its "
            "last fifth): a longer run (--max-steps) gives a better model.",
        )


def _earlier_stage(record: Record) -> Iterator[Check]:
    """Whether what was fitted first, such as the flow, is better than what came of it."""
    best: dict[str, tuple[Sourced, Sourced | None]] = {}
    for row in record.rows:
        stage, nll = row["stage"].text, row["nll"].number
        if stage and nll and (stage not in best or nll.value < best[stage][0].value):
            best[stage] = nll, row["nll_stderr"].number
    if len(best) < 2 or record.state != "finished":
        return
    *earlier, last = best
    (own, own_error), rival = best[last], min(earlier, key=lambda stage: best[stage][0].value)
    nll, error = best[rival]
    name, wanted = f"NLL against stage {rival!r}", f"{nats(nll.value)} or less"
    # Errors of two fits on the same points: their difference has a smaller one than either.
    if own.value - nll.value > max(e.value if e else 0.0 for e in (own_error, error)):
        yield Check(
            name,
            "care",
            written(own),
            wanted,
            f"Stage {rival!r} alone describes the validation data better (NLL "
            f"{nats(nll.value)}) than the model itself ({nats(own.value)}): train the model longer "
            "(--max-steps).",
        )
    else:
        yield Check(name, "passed", written(own), wanted)


def _has_global_moves(record: Record) -> bool:
    return record.config["options"]["global_kernel"].value != "none"


def _last_fall(record: Record) -> float | None:
    """How far the validation NLL fell over the last fifth of the last stage (nats)."""
    stage = record.rows[-1]["stage"].value if record.rows else None
    rows = [row for row in record.rows if row["stage"].value == stage]
    nll = [row["nll"].number for row in rows]
    values = [number.value for number in nll if number is not None]
    if len(values) < 5 or min(values) < values[-1]:
        return None
    return values[-1 - max(1, len(values) // 5)] - values[-1]
