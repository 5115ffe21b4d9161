"""The report in headless Chromium: it opens without errors, fits the screen, runs nothing.

The browser is driven by ChromeDriver's HTTP interface (W3C WebDriver), which needs no package.
"""

import base64
import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from flowebm.report.page import write_html_report
from flowebm.report.plots import save_run_plots

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="Chromium or its driver is not on this machine"
)

SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


def _beside(name):
    """Another test module, whose runs are used here too."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


html_report = _beside("test_html_report")


class Browser:
    """One tab of a headless browser."""

    def __init__(self, port, profile):
        self._address = f"http://127.0.0.1:{port}/session"
        arguments = [f"--{switch}" for switch in SWITCHES] + [f"--user-data-dir={profile}"]
        wanted = {
            "goog:chromeOptions": {"args": arguments, "binary": BROWSER},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        started = self._post("", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/{started['sessionId']}"

    def open(self, path, width=1280, height=800):
        """Open a page on a screen of this size; what the browser complained of."""
        mobile = width < 500
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.devtools("Emulation.setDeviceMetricsOverride", screen)
        self._post("/url", {"url": path.as_uri()})
        return self._post("/se/log", {"type": "browser"})

    def run(self, script):
        """The value of a script in the page."""
        return self._post("/execute/sync", {"script": f"return {script}", "args": []})

    def print(self):
        """The page as PDF."""
        printed = self.devtools("Page.printToPDF", {"printBackground": False})
        return base64.b64decode(printed["data"])

    def close(self):
        """End the session."""
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(self._address, method="DELETE"))

    def devtools(self, command, parameters):
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _post(self, path, body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        port = None
        for line in driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                port = found.group(1)
                break
        tab = Browser(port, tmp_path_factory.mktemp("profile"))
        try:
            yield tab
        finally:
            tab.close()
            driver.terminate()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with real plots and column names that could be wide."""
    path = html_report.write_run(tmp_path_factory.mktemp("runs") / "run")
    names = ["a_column_with_a_long_name_of_one_word_and_more" * 3, "b (km/s)"]
    config, evaluation = html_report.config(), html_report.evaluation()
    config["data"]["name"] = "/data/" + "very-long-name-of-a-file" * 6 + ".csv"
    evaluation["log_partition"]["khat"] = 0.93
    html_report.write_run(
        path, config=config, evaluation=evaluation, model={"shape": [2], "columns": names}
    )
    points = np.random.default_rng(0).normal(size=(2, 400, 2))
    weights = evaluation["mode_weights"]
    save_run_plots(
        path,
        data=points[0],
        samples=points[1],
        history=html_report.metrics(),
        names=names,
        true_weights=weights["true"],
        fitted_weights=weights["fitted"],
    )
    return path


LOADED = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_opens_without_an_error_and_fits_the_screen(browser, run, width):
    complaints = browser.open(write_html_report(run).path, width)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert complaints == []
    assert browser.run(LOADED) == [True] * 3
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    wide = "[...document.body.querySelectorAll('*')].filter(e => e.scrollWidth > innerWidth)"
    assert browser.run(f"{wide}.length") == 0


@pytest.mark.parametrize(("width", "height"), [(360, 640), (1280, 720)])
def test_the_first_screen_answers_and_has_the_likelihood_with_its_error(
    browser, run, width, height
):
    browser.open(write_html_report(run).path, width, height)
    shown = browser.run(
        "[...document.querySelectorAll('.answer, .tile.main .value')]"
        ".map(e => [e.innerText, e.getBoundingClientRect().bottom])"
    )
    texts = [text.replace("\n", " ") for text, _ in shown]
    assert texts == ["✕ No", "2.6483 ± 0.0082"]
    assert all(bottom < height for _, bottom in shown)


def test_what_the_browser_shows_is_what_the_files_say(browser, run):
    browser.open(write_html_report(run).path)
    values = browser.run(
        "[...document.querySelectorAll('data')].map(e => [e.dataset.source, e.value])"
    )
    assert len(values) > 100
    for source, value in values:
        assert float(value) == html_report.resolve(run, source)


def test_nothing_of_a_file_runs(browser, tmp_path):
    report = write_html_report(html_report.hostile_run(tmp_path / "run"))
    complaints = browser.open(report.path)
    assert complaints == []
    assert browser.run("window.hacked === undefined")
    assert browser.run("document.title").startswith("<script>")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")


def test_text_has_contrast_enough_to_be_read(browser, run):
    """WCAG 2.2, criterion 1.4.3: a contrast of 4.5 at least, against the page and the verdict."""
    browser.open(write_html_report(run).path)
    colours = browser.run(
        "[...new Set([...document.body.querySelectorAll('*')].map(e => getComputedStyle(e).color))]"
    )
    backgrounds = browser.run(
        "[...new Set([...document.querySelectorAll('*')]"
        ".map(e => getComputedStyle(e).backgroundColor).filter(c => c.startsWith('rgb(')))]"
    )
    for colour in colours:
        for background in backgrounds:
            light, dark = sorted(map(luminance, (colour, background)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (colour, background)


def luminance(colour):
    channels = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_printed_page_has_the_numbers_that_the_screen_folds_away(browser, run):
    browser.open(write_html_report(run).path, 760)
    browser.devtools("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        height = browser.run(
            "document.querySelector('details table').getBoundingClientRect().height"
        )
        shown = browser.run(
            "document.querySelector('details table').checkVisibility("
            "{contentVisibilityAuto: true, opacityProperty: true, visibilityProperty: true})"
        )
    finally:
        browser.devtools("Emulation.setEmulatedMedia", {"media": ""})
    assert height > 100
    assert shown
    assert browser.print().startswith(b"%PDF")
