"""Every block of the guide runs as it is printed, and every link and picture is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))

#: Pages that take more than a few seconds: `make test-slow` runs them.
LONG = {"anomalies.md", "estimator.md", "imputation.md"}


def named(pages, long=frozenset()):
    return [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in long))
        for page in pages
    ]


@pytest.mark.parametrize("page", named(PAGES, LONG))
def test_the_blocks_of_a_page_run(page, run_page):
    run_page(page)


@pytest.mark.parametrize("page", named([ROOT / "README.md", *PAGES]))
def test_links_and_pictures_are_there(page):
    links = re.findall(r"\]\((?!https:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("picture", named(sorted((DOCS / "images").iterdir())))
def test_pictures_are_small_enough_to_load_at_once(picture):
    assert picture.stat().st_size < 300_000


def test_every_picture_is_shown():
    shown = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *PAGES])
    pictures = {picture.name for picture in (DOCS / "images").iterdir()}
    assert pictures == {Path(name).name for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", shown)}
