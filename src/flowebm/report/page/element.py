"""HTML elements in which every text is escaped."""

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is HTML already; all other text is escaped where it enters an element."""

    __slots__ = ()


#: What an element may hold.
Content = str | None | Iterable["Content"]

_VOID = {"img", "link", "meta"}


def element(tag: str, *content: Content, **attributes: str | int | bool | None) -> Markup:
    """An HTML element.

    Args:
        tag: Its name.
        content: What is in it: texts, which are escaped, and other elements. `None` is nothing.
        attributes: Its attributes, `class_` for `class` and `data_x` for `data-x`. `None` and
            `False` are left out; `True` has no value.

    Returns:
        The element as text.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        parts.append(name if value is True else f'{name}="{escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if tag in _VOID else f"{opening}{fragment(*content)}</{tag}>")


def fragment(*content: Content) -> Markup:
    """Texts and elements one after another."""
    return Markup("".join(map(_html, content)))


def _html(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    return escape(content) if isinstance(content, str) else "".join(map(_html, content))
