"""Speed on one machine, a section a loop, every figure a ratio measured side by side.

    python benchmarks/speed.py                     # all sections
    python benchmarks/speed.py --only ebflow       # some sections
    python benchmarks/speed.py --table             # the tables of what has been measured

Each section is a module `speed_NAME` beside this one, which is imported in the cells' processes
and for its table. It has `CELLS`, a list of names; `PACKAGES`, whose versions belong to a record;
`measure(name)`, the record of a cell; and `table(results)`. What a section needs beyond flowebm
is in the extra `bench` (`pip install 'flowebm[bench]'`).
"""

from importlib import import_module
from pathlib import Path

import cells

RESULTS = Path(__file__).parent / "results" / "speed.json"

SECTIONS = (
    "ebflow",
    "balanced",
    "cores",
    "parts",
    "pool",
    "growth",
    "accuracy",
    "memory",
    "startup",
)


def section(name: str):
    """The module of a section."""
    return import_module(f"speed_{name}")


def measure(section_name: str, name: str) -> dict:
    """One cell of a section."""
    return section(section_name).measure(name)


def table(results: dict) -> str:
    """The tables of all sections that have been measured."""
    return "\n\n".join(
        f"{name}\n\n{section(name).table(results[name])}" for name in SECTIONS if name in results
    )


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    arguments = parser.parse_args()
    wanted = [
        {"section_name": name, "name": cell}
        for name in arguments.only
        for cell in section(name).CELLS
    ]
    packages = {package for name in SECTIONS for package in section(name).PACKAGES}
    cells.main(arguments, wanted, measure, table, packages=sorted(packages))


if __name__ == "__main__":
    main()
