"""Equations in MathML, as browsers render it."""

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "scripts" / "mathml.py"


@pytest.fixture(scope="module")
def mathml():
    spec = importlib.util.spec_from_file_location("mathml", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_function_stands_apart_from_its_argument_unless_that_is_in_brackets(mathml):
    space = '<mspace width="0.1667em"></mspace>'
    assert f"<mi>log</mi>{space}<mi>Z</mi>" in mathml.to_mathml(r"\log Z")
    assert f"<mi>D</mi>{space}<mi>ln</mi>{space}<mn>2</mn>" in mathml.to_mathml(r"D \ln 2")
    assert f"<mi>log</mi>{space}<mover" in mathml.to_mathml(r"\log \hat Z")
    assert space not in mathml.to_mathml(r"\log(x)")


def test_letters_of_other_kinds_are_characters(mathml):
    assert "<mi>𝔼</mi>" in mathml.to_mathml(r"\mathbb E")
    with pytest.raises(ValueError, match="letter Q of kind double-struck"):
        mathml.to_mathml(r"\mathbb Q")


def test_a_command_without_a_translation_is_refused(mathml):
    with pytest.raises(ValueError, match="nosuchcommand"):
        mathml.to_mathml(r"\nosuchcommand x")


def test_a_page_with_an_equation_that_cannot_be_translated_is_warned_of(mathml, caplog):
    content = r'<p><span class="arithmatex">\(\mathbb Q &lt; 1\)</span></p>'
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    with caplog.at_level(logging.WARNING):
        assert mathml.on_page_content(content, page=page) == content
    assert "page.md" in caplog.text


def test_equations_of_a_page_are_replaced(mathml):
    content = r'a <span class="arithmatex">\(x &lt; 1\)</span> <div class="arithmatex">\[y\]</div>'
    written = mathml.on_page_content(content, page=None)
    assert "arithmatex" not in written
    assert written.count("<math ") == 2
    assert written.count('display="block"') == 1
