"""Every block of the guide runs as it is printed, and every link and picture is there."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))

#: Pages that take more than a few seconds: `make test-slow` runs them.
LONG = {"anomalies.md", "estimator.md", "imputation.md", "sampling.md"}

SLOW = pytest.mark.slow

#: What the pages quote of the scripts that draw their pictures.
FIGURES = {
    "score_matching_picture.py": ("0.511 nats", "0.0011", "0.998"),
    "log_partition_picture.py": ("truth 8/20, k̂ +0.99", "truth 16/20, k̂ +0.66"),
}


def named(pages, long=frozenset()):
    return [pytest.param(page, id=page.name, marks=[SLOW] * (page.name in long)) for page in pages]


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


@pytest.mark.parametrize(
    "script", ["score_matching_picture.py", pytest.param("log_partition_picture.py", marks=SLOW)]
)
def test_the_pictures_are_drawn_and_their_figures_are_those_of_the_page(
    script, tmp_path, monkeypatch, capsys
):
    spec = importlib.util.spec_from_file_location("picture", DOCS / "scripts" / script)
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "picture.png")
    try:
        picture.main()
    finally:
        jax.config.update("jax_enable_x64", False)
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    for figure in FIGURES[script]:
        assert figure in printed
