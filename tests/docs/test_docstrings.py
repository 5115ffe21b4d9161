"""Every public function, class and method says what it takes, returns and refuses."""

import importlib
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

import equinox as eqx
import pytest

import flowebm

ROOMS = [importlib.import_module(f"flowebm.{room}") for room in flowebm._SUBPACKAGES]


def public_values(module):
    """What a room offers by name, as its `__init__` lists it."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    names = re.findall(r"^from \S+ import \(?\s*(\w+) as", source, re.M)
    return {f"{module.__name__}.{name}": getattr(module, name) for name in names}


def documented():
    """Every public class and function, methods apart, once."""
    values = {f"flowebm.{name}": getattr(flowebm, name) for name in flowebm._ORIGINS}
    for room in ROOMS:
        values |= public_values(room)
    for path, value in list(values.items()):
        if inspect.ismodule(value):  # a kernel, in blackjax's form
            del values[path]
            values |= {
                f"{path}.{name}": member
                for name, member in vars(value).items()
                if not name.startswith("_") and getattr(member, "__module__", "") == value.__name__
            }
    once = {id(value): (path, value) for path, value in reversed(values.items())}
    return dict(once.values())


CLASSES = {path: value for path, value in documented().items() if inspect.isclass(value)}
FUNCTIONS = {
    path: inspect.unwrap(value)  # from what compiles it
    for path, value in documented().items()
    if inspect.isfunction(inspect.unwrap(value))
}

#: Public functions and classes that no paper is behind, by what they are for.
NO_METHOD = {
    "data, files and their names": """
        load_dataset load_images load_model save_model data.available data.available_images
        data.check_table data.check_weights data.read_table data.split
        Refused training.Checkpoints training.MetricsFile training.read_metrics""",
    "running what is given": """
        use_compilation_cache use_devices samplers.run_chains training.drive
        training.progress_callback""",
    "other forms of the same": """
        LogDensity models.as_energy_model numpyro_density evaluation.as_log_partition
        evaluation.to_inference_data layers.LayerBijection samplers.impute_rows""",
    "parts, put together": """
        models.build models.build_ebflow models.build_flow models.build_model
        training.default_proposal samplers.draw""",
    "plain networks and what they hold": """
        models.ConvTilt models.MLPTilt models.partition_trainable""",
    "plain geometry": "NearestMode",
}


def methods(cls):
    """The public methods that a class defines itself, and whether each is a property."""
    for name, member in vars(cls).items():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        function = getattr(function, "method", function)  # Equinox wraps them
        if inspect.isfunction(function) and not name.startswith("_"):
            yield name, function, isinstance(member, property)


def complaints(path, function, doc, *, short):
    """What a docstring lacks.

    A `short` one, of a method with one argument at most, may say all in its sentences.
    """
    signature = inspect.signature(function)
    arguments = [name for name in signature.parameters if name not in ("self", "cls", "_")]
    if not doc:
        return [f"{path} has no docstring"]
    found = []
    if not re.match(r"\S[^\n]*[.:]\n|\S[^\n]*\.$", doc):
        found.append(f"{path} does not begin with one sentence on one line")
    if not (short and len(arguments) <= 1 and "Args:" not in doc):
        listed = section(doc, "Args")
        missing = [name for name in arguments if not re.search(rf"^ +\**{name}\b", listed, re.M)]
        found += [f"{path} does not say what {name} is" for name in missing]
        if returns(signature) and not (section(doc, "Returns") or section(doc, "Yields")):
            found.append(f"{path} does not say what it returns")
    raises = re.search(r"^\s+raise (ValueError|TypeError)", inspect.getsource(function), re.M)
    if raises and not section(doc, "Raises"):
        found.append(f"{path} does not say when it raises {raises[1]}")
    return found


def section(doc, name):
    """The indented lines of a section of a docstring."""
    return (re.search(rf"^{name}:\n((?: +\S.*\n?|\n)+)", doc, re.M) or ["", ""])[1]


def returns(signature):
    return signature.return_annotation not in (None, "None", inspect.Signature.empty)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_functions_say_what_they_take_return_and_refuse(path):
    function = FUNCTIONS[path]
    assert complaints(path, function, inspect.getdoc(function), short=False) == []


@pytest.mark.parametrize("path", CLASSES)
def test_classes_say_what_they_hold_and_what_their_methods_do(path):
    cls = CLASSES[path]
    doc = cls.__doc__ or ""
    found = [] if doc else [f"{path} has no docstring"]
    holds = is_dataclass(cls) or hasattr(cls, "_fields")
    names = inspect.signature(cls).parameters if holds else ()
    inherited = [base.__doc__ or "" for base in cls.__mro__[:-1]]
    listed = "".join(
        section(inspect.cleandoc(d), s) for d in inherited for s in ("Args", "Attributes")
    )
    found += [
        f"{path} does not say what {name} is"
        for name in names
        if not name.startswith("_") and not re.search(rf"\b{name}\b.*:", listed)
    ]
    for name, function, is_property in methods(cls):
        # What overrides a method is described with that method.
        said = inspect.getdoc(getattr(cls, name)) if not is_property else function.__doc__
        said = said or next((d for c in cls.__mro__ if (d := said_of(c, name))), None)
        overrides = any(name in vars(base) for base in cls.__mro__[1:])
        if is_property or overrides:
            found += [] if said else [f"{path}.{name} has no docstring"]
        else:
            found += complaints(f"{path}.{name}", function, said, short=True)
    assert found == []


def said_of(cls, name):
    """The docstring of a method or an attribute in the class that it is overridden from."""
    if name in section(inspect.cleandoc(cls.__doc__ or ""), "Attributes"):
        return cls.__doc__
    return getattr(vars(cls).get(name), "__doc__", None)


def needs_source(path, value):
    """Whether it computes by an equation, a method or an estimator that somebody published.

    Plots, options, results, warnings, interfaces and a kernel's first state do not.
    """
    if path.startswith("flowebm.report.") or path in no_method():
        return False
    if not inspect.isclass(value):
        return not path.endswith(".init")
    holds = hasattr(value, "_fields") or (is_dataclass(value) and not issubclass(value, eqx.Module))
    interface = inspect.isabstract(value) or getattr(value, "_is_protocol", False)
    return not (holds or interface or issubclass(value, Exception))


def no_method():
    return {f"flowebm.{name}" for names in NO_METHOD.values() for name in names.split()}


def has_source(value):
    """Whether the docstring names a work and its year, or the software that defines it."""
    source = re.search(r"^Source: (.+)", inspect.cleandoc(value.__doc__ or ""), re.M | re.S)
    return bool(source and re.search(r"\(\d{4}\)|scikit-learn", source[1]))


@pytest.mark.parametrize(
    "path", [p for p, v in (FUNCTIONS | CLASSES).items() if needs_source(p, v)]
)
def test_what_computes_says_where_it_is_from(path):
    assert has_source((FUNCTIONS | CLASSES)[path]), f"{path} names no source: add `Source: ...`"


def test_a_source_has_a_year():
    def sourceless():
        """Multiply (1984).

        Source: common knowledge.
        """

    def sourced():
        """Multiply.

        Source: Euclid (1908), *The elements*,
        book VII.
        """

    assert not has_source(sourceless)
    assert has_source(sourced)


def test_what_is_listed_without_a_method_is_public_and_names_no_source():
    public = FUNCTIONS | CLASSES
    assert sorted(no_method() - public.keys()) == []
    assert [path for path in no_method() if has_source(public[path])] == []


def test_every_public_value_is_a_class_a_function_or_a_type():
    others = documented().keys() - CLASSES.keys() - FUNCTIONS.keys()
    assert others == {"flowebm.objectives.Objective"}


def test_no_docstring_points_to_a_file_that_readers_do_not_have():
    sources = Path(flowebm.__file__).parent.rglob("*.py")
    assert [str(p) for p in sources if "methods.md" in p.read_text(encoding="utf-8")] == []


def test_what_is_missing_is_found():
    def lacking(first, second: int) -> int:
        """Add.

        Args:
            first: One number.
        """
        if second < 0:
            raise ValueError
        return first + second

    found = complaints("lacking", lacking, inspect.getdoc(lacking), short=True)
    assert found == [
        "lacking does not say what second is",
        "lacking does not say what it returns",
        "lacking does not say when it raises ValueError",
    ]
