"""A hook of mkdocs: `::: flowebm.ROOM.*` on a page becomes an entry for every name of the room."""

import re
from pathlib import Path

_ROOM = re.compile(r"^::: flowebm\.(\w+)\.\*$", re.M)
_EXPORT = re.compile(r"^ *from (\S+) import \(?\s*(\w+) as", re.M)


def on_page_markdown(markdown: str, *, config, **_) -> str:
    """The page with the entries that mkdocstrings fills."""
    source = Path(config["config_file_path"]).parent / "src" / "flowebm"
    return _ROOM.sub(lambda found: "\n\n".join(entries(source / found[1])), markdown)


def entries(room: Path) -> list[str]:
    """An entry for every public name of a room, in the order of its `__init__`.

    Names that the library offers from inside of the room, past its `__init__`, come last.

    Args:
        room: The room's folder.

    Returns:
        Lines that begin with `:::`. Modules of a room are documented whole, and what they hold
        has no entry of its own.
    """
    exports = _EXPORT.findall((room / "__init__.py").read_text(encoding="utf-8"))
    modules = {f"{origin}.{name}" for origin, name in exports if origin == f"flowebm.{room.name}"}
    paths = []
    for origin, name in exports:
        if origin in modules:
            continue
        # Where a module has the name of its function, the name alone would be the module.
        is_clash = f"{origin}.{name}" not in modules and (room / f"{name}.py").exists()
        paths.append(f"{origin}.{name}" if is_clash else f"flowebm.{room.name}.{name}")
    library = _EXPORT.findall((room.parent / "__init__.py").read_text(encoding="utf-8"))
    inside = f"flowebm.{room.name}."
    paths += [f"{origin}.{name}" for origin, name in library if origin.startswith(inside)]
    return [f"::: {path}" for path in paths]
