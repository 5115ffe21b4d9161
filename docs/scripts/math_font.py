"""A hook of mkdocs: the site brings its own font for equations, reduced to what equations hold.

Fractions, roots and braces need a font with a table of mathematical measures, which not every
machine has. STIX Two Math (SIL Open Font License) comes with ziamath.
"""

from importlib.metadata import distribution
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

#: Letters, digits and signs of any equation: the mathematical alphabets' italics included.
CHARACTERS = [
    *range(0x20, 0x7F),
    *range(0xA0, 0x100),
    *range(0x370, 0x400),  # Greek
    *range(0x2000, 0x2070),  # spaces, primes, bars
    *range(0x2100, 0x2150),  # letters such as ℝ
    *range(0x2190, 0x21C0),  # arrows
    *range(0x2200, 0x2300),  # operators
    *range(0x23DC, 0x23E2),  # braces above and below
    *range(0x27E6, 0x27F0),  # brackets
    *range(0x1D400, 0x1D7FF),  # mathematical alphabets
]


def on_post_build(config, **_) -> None:
    """Write the font where extra.css looks for it."""
    font = TTFont(distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf"))
    subsetter = Subsetter(Options(hinting=False, layout_features=["ssty", "dtls"]))
    subsetter.populate(unicodes=CHARACTERS)
    subsetter.subset(font)
    font.save(Path(config["site_dir"]) / "assets" / "math.ttf")
