"""The guide builds without a warning, is complete, and needs nothing from elsewhere to be read."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mkdocstrings import Inventory

import flowebm

ROOT = Path(__file__).parents[2]


def report_browser():
    """The tests of the report in a browser, whose browser serves here too."""
    path = ROOT / "tests" / "report" / "test_html_browser.py"
    spec = importlib.util.spec_from_file_location("guide_browser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


in_browser = report_browser()
browser = in_browser.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page's HTML, by its path in the site."""
    return {
        path.relative_to(site).as_posix(): path.read_text(encoding="utf-8")
        for path in site.rglob("*.html")
    }


@pytest.mark.parametrize("room", ["flowebm", *(f"flowebm.{room}" for room in flowebm._SUBPACKAGES)])
def test_every_public_name_is_in_the_reference(site, room):
    with (site / "objects.inv").open("rb") as file:
        documented = set(Inventory.parse_sphinx(file))
    names = public_names(importlib.import_module(room))
    assert len(names) > 3
    missing = [
        name
        for name, value in names.items()
        # A function with the name of its module is documented there.
        if not {f"{room}.{name}", f"{getattr(value, '__module__', room)}.{name}"} & documented
    ]
    assert missing == []


def public_names(module):
    """What a room offers by name."""
    names = flowebm._ORIGINS
    if module is not flowebm:
        source = Path(module.__file__).read_text(encoding="utf-8")
        names = re.findall(r"^from \S+ import \(?\s*(\w+) as", source, re.M)
    return {name: getattr(module, name) for name in names}


def test_every_page_can_be_reached_from_the_menu(site, pages):
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    menu = set(re.findall(r'<a href="([^"#:]+\.html)" class="md-nav__link', pages["index.html"]))
    assert {path.with_suffix(".html").as_posix() for path in sources} <= menu | {"index.html"}


def test_equations_are_mathml_with_a_font_of_the_site(site, pages):
    assert pages["balanced.html"].count("<math ") > 20
    assert [name for name, text in pages.items() if 'class="arithmatex"' in text] == []
    assert (site / "assets" / "math.ttf").stat().st_size < 1_000_000


def test_nothing_is_fetched_from_elsewhere(pages):
    fetched = re.compile(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"')
    assert {name: found for name, text in pages.items() if (found := fetched.findall(text))} == {}


@in_browser.pytestmark
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_the_screen_and_shows_all_its_pictures_and_equations(
    browser, site, pages, width
):
    for name in pages.keys() - {"404.html"}:  # which only a server shows
        complaints = browser.open(site / name, width)
        # The search's index is a file that browsers let a server alone give.
        assert [c for c in complaints if "search" not in c["message"]] == [], name
        assert browser.run("document.documentElement.scrollWidth <= innerWidth"), name
        assert all(browser.run(in_browser.LOADED)), name
        flat = "m => m.getBoundingClientRect().height < 5"
        assert not browser.run(f"[...document.querySelectorAll('math')].some({flat})"), name
