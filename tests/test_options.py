"""Options are checked when they are made: every field, by its type and its range."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_type_hints

import numpy as np
import pytest

from flowebm import (
    Architecture,
    BalancedOptions,
    EBFlowArchitecture,
    EBFlowOptions,
    FlowEBM,
    SamplingOptions,
)
from flowebm.cli.arguments import parse
from flowebm.models.activations import ACTIVATIONS
from flowebm.options import Count, Positive, Range, RefusedOption, Share, check_options
from flowebm.refusal import Refused
from flowebm.training.joint_options import JointOptions

CLASSES = (
    Architecture,
    BalancedOptions,
    EBFlowArchitecture,
    JointOptions,
    SamplingOptions,
    EBFlowOptions,
)
FIELDS = [(options, field.name) for options in CLASSES for field in fields(options)]


@pytest.mark.parametrize(("options", "name"), FIELDS)
@pytest.mark.parametrize("junk", ["typo", -1, float("nan"), float("inf"), [3], object()])
def test_no_field_of_any_options_takes_what_it_cannot_be(options, name, junk):
    """Not even a number below zero: no option has one."""
    with pytest.raises(RefusedOption, match=rf"^{name} must be .*; got "):
        options(**{name: junk})


@pytest.mark.parametrize(("options", "name"), FIELDS)
def test_numbers_of_options_have_ranges(options, name):
    hint = get_type_hints(options, include_extras=True)[name]
    alternatives = getattr(hint, "__args__", ()) if not hasattr(hint, "__metadata__") else ()
    assert not {int, float} & {hint, *alternatives}


@dataclass(frozen=True)
class Choices:
    """Choices of every kind.

    Attributes:
        kind: One of three.
        rate: A rate.
        n_rows: A count, or never.
        part: A part.
        pair: Two counts.
        even: Yes or no.
    """

    kind: Literal["forward", "backward", "both"] = "both"
    rate: Positive = 1.0
    n_rows: Count | Literal["never"] | None = None
    part: Share = 0.5
    pair: tuple[Count, Count] | None = None
    even: bool = False
    bounded: Annotated[int, Range(least=2, most=9)] = 2

    def __post_init__(self):
        check_options(self)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "Forward"}, "kind must be 'forward', 'backward' or 'both'; got 'Forward'. Did "),
        ({"kind": "forwrad"}, "got 'forwrad'. Did you mean 'forward'?"),
        ({"kind": "xyz"}, "got 'xyz'."),
        ({"rate": 0}, "rate must be above 0; got 0."),
        ({"rate": "1"}, "rate must be a number; got '1'."),
        ({"rate": True}, "rate must be a number; got True."),
        ({"rate": np.nan}, "rate must be a finite number; got nan."),
        ({"n_rows": 0}, "n_rows must be 1 or more; got 0."),
        ({"n_rows": 2.0}, "n_rows must be a whole number, 'never' or None; got 2.0."),
        ({"n_rows": "Never"}, "got 'Never'. Did you mean 'never'?"),
        ({"part": 1.0}, "part must be between 0 and 1, both excluded; got 1.0."),
        ({"pair": (1, 0)}, "pair must be a tuple of 2 numbers or None; got (1, 0)."),
        ({"pair": (1, 2, 3)}, "pair must be a tuple of 2 numbers or None; got (1, 2, 3)."),
        ({"even": 1}, "even must be True or False; got 1."),
        ({"bounded": 10}, "bounded must be from 2 to 9; got 10."),
    ],
)
def test_messages_say_what_may_be_and_what_is_near(value, message):
    with pytest.raises(RefusedOption) as caught:
        Choices(**value)
    assert message in str(caught.value)


def test_what_fits_is_taken_as_it_is():
    options = Choices("forward", 3, np.int64(7), np.float32(0.25), (1, 2), True)
    assert options.n_rows == 7
    assert Choices(n_rows="never").n_rows == "never"
    assert Choices(kind=np.str_("both")).kind == "both"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "-1"), "--rate must be above 0; got -1.0."),
        (("--n-rows", "0"), "--n-rows must be 1 or more; got 0."),
        (("--part", "nan"), "--part must be a finite number; got nan."),
    ],
)
def test_the_command_line_names_options_as_they_are_typed(arguments, message):
    with pytest.raises(Refused) as caught:
        parse(Choices, "choose", arguments)
    assert str(caught.value) == message


def test_the_command_line_takes_what_python_takes():
    arguments = ("--rate", "2", "--n-rows", "never", "--pair", "3", "4", "--kind", "forward")
    assert parse(Choices, "choose", arguments) == Choices("forward", 2.0, "never", 0.5, (3, 4))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "jiont"}, "Did you mean 'joint'?"),
        ({"objective": "sms"}, "objective must be "),
        ({"max_steps": 0}, "max_steps must be 1 or more; got 0."),
        ({"time_budget": -1.0}, "time_budget must be above 0; got -1.0."),
        ({"patience": "nver"}, "patience must be "),
        ({"validation_fraction": 0}, "validation_fraction must be between 0 and 1"),
        ({"point_shape": 3}, "point_shape must be a tuple of numbers or None; got 3."),
        ({"pixel_levels": 1}, "pixel_levels must be 2 or more; got 1."),
        ({"architecture": "mlp"}, "architecture must be "),
    ],
)
def test_the_estimator_checks_its_parameters_when_it_is_fitted(choice, message):
    estimator = FlowEBM(**choice)
    with pytest.raises(RefusedOption) as caught:
        estimator.fit(np.zeros((100, 2)))
    assert message in str(caught.value)


def test_the_names_of_activations_are_those_that_there_are():
    hint = get_type_hints(Architecture)["activation"]
    assert set(hint.__args__) == set(ACTIVATIONS)
