"""A hook of mkdocs: equations become MathML in the building, so that viewing needs no script.

pymdownx.arithmatex finds the equations in pages and docstrings, latex2mathml translates them.
"""

import html
import logging
import re

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.mathml")

_EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.S
)

#: Names such as log, and what stands before and behind them.
_FUNCTION = re.compile(
    r"(</m(?:i|n|su[bp]|subsup|over|frac)>)?<m[io][^>]*>([a-zA-Z]{2,})</m[io]>(<mo[ >])?"
)
_THIN_SPACE = '<mspace width="0.1667em"></mspace>'

#: Browsers ignore `mathvariant` but for "normal": letters of other kinds are characters.
_VARIANTS = {
    "double-struck": {"E": "𝔼", "R": "ℝ", "Z": "ℤ", "P": "ℙ"},
    "script": {"N": "𝒩", "L": "ℒ", "U": "𝒰"},
}

#: Operators that latex2mathml writes as letters, or lets grow or stand apart.
_OPERATORS = {
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
    "<mo>&#x02016;</mo>": '<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>',
    '<mo stretchy="false">&#x0007C;</mo>': '<mo stretchy="false" lspace="0" rspace="0">|</mo>',
}
_LETTER = re.compile(r'<mi mathvariant="([a-z-]+)">(\w)</mi>')


def on_page_content(content: str, *, page, **_) -> str:
    """The page with every equation as MathML."""

    def mathml(found: re.Match) -> str:
        latex = html.unescape(found["latex"]).strip()
        try:
            return to_mathml(latex, display=found["tag"] == "div")
        except Exception as error:  # latex2mathml has a class for each kind of mistake
            log.warning("%s: %s in the equation %s", page.file.src_uri, error, latex)
            return found[0]

    return _EQUATION.sub(mathml, content)


def to_mathml(latex: str, *, display: bool = False) -> str:
    """An equation in MathML, as browsers render it.

    Args:
        latex: The equation, without dollars.
        display: Whether it stands on a line of its own.

    Raises:
        ValueError: If a command or a letter has no translation.
    """
    written = convert(latex, display="block" if display else "inline")
    if unknown := re.search(r"\\[a-zA-Z]+", written):
        raise ValueError(f"{unknown[0]} is not translated")
    written = _FUNCTION.sub(_function, written)
    for kind, right in _OPERATORS.items():
        written = written.replace(kind, right)
    return _LETTER.sub(_letter, written)


def _function(found: re.Match) -> str:
    """Upright, a thin space away from factors before it and arguments without brackets."""
    before, name, bracket = found.groups(default="")
    spaced = f"{_THIN_SPACE if before else ''}<mi>{name}</mi>{'' if bracket else _THIN_SPACE}"
    return before + spaced + bracket


def _letter(found: re.Match) -> str:
    variant, letter = found.groups()
    if variant == "normal":
        return found[0]
    if letter not in _VARIANTS.get(variant, {}):
        raise ValueError(f"the letter {letter} of kind {variant} is not translated")
    return f"<mi>{_VARIANTS[variant][letter]}</mi>"
