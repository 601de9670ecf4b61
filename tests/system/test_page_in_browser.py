"""Opens the page of a run in headless Chromium, over the DevTools protocol."""

import itertools
import json
import shutil
import subprocess
import time

import pytest
from synthetic_run import write_synthetic_run
from synthetic_study import write_synthetic_study

from fairforget.report import write_report

pytestmark = pytest.mark.browser

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
DEADLINE = 20.0


COUNT_MARKS = """
[...document.querySelectorAll('[data-chart]')]
.map(holder => holder.querySelectorAll('svg .mark-symbol path[aria-roledescription]').length)
"""
INJECT = """
(() => { const script = document.createElement('script'); script.textContent = 'window.injected = 1'; document.body.append(script); })()
"""
COLOURS = """
[document.body, document.querySelector('[data-chart] svg .role-axis-label text'),
 document.querySelector('[data-chart] svg .mark-symbol path')]
.map((element, place) => getComputedStyle(element)[place ? 'fill' : 'backgroundColor'])
"""


class Browser:
    """One tab: commands go out, events are kept."""

    def __init__(self, address):
        import websocket

        self.socket = websocket.create_connection(address, timeout=DEADLINE, suppress_origin=True)
        self.numbers, self.events = itertools.count(1), []

    def command(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression):
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, page):
        self.events.clear()
        self.command("Page.navigate", url=page.as_uri())
        end = time.monotonic() + DEADLINE
        while self.evaluate("location.href.startsWith('file:') && document.documentElement?.dataset.charts || ''") != "drawn":
            assert time.monotonic() < end, f"the charts were not drawn: {self.said()}"
            time.sleep(0.05)

    def said(self):
        saying = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event["method"] in saying]

    def requests(self):
        return [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: the page cannot be opened")
    pytest.importorskip("websocket", reason="websocket-client is not installed: the browser cannot be driven")
    profile = tmp_path_factory.mktemp("profile")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Browser(_tab_address(process, profile / "DevToolsActivePort"))
    finally:
        process.terminate()
        process.wait(timeout=DEADLINE)


def _tab_address(process, port_file):
    import urllib.request

    end = time.monotonic() + DEADLINE
    while not (port_file.is_file() and port_file.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    port = port_file.read_text().splitlines()[0]
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        if tabs:
            return tabs[0]["webSocketDebuggerUrl"]
        assert time.monotonic() < end, "Chromium opened no tab"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):
    """The tab with the page of a debias run whose item texts attack it."""
    for domain in ("Page", "Runtime", "Network", "Log"):
        browser.command(f"{domain}.enable")
    browser.page = write_report(write_synthetic_run(tmp_path_factory.mktemp("run")))
    browser.open(browser.page)
    return browser


def test_every_chart_draws_its_marks(tab):
    marks = tab.evaluate(COUNT_MARKS)
    assert len(marks) >= 8 and min(marks) >= 1
    assert not tab.evaluate("document.querySelectorAll('[data-error]').length")
    widths = tab.evaluate("[...document.querySelectorAll('[data-chart] svg')].map(svg => svg.getBoundingClientRect().width)")
    assert min(widths) > 200


def test_nothing_is_fetched_and_nothing_is_refused(tab):
    assert [url for url in tab.requests() if not url.startswith("data:")] == [tab.page.as_uri()]
    assert tab.said() == []


def test_markup_in_a_text_stays_text(tab):
    assert "pwned" not in tab.evaluate("document.title")
    assert tab.evaluate("document.querySelectorAll('main script, main img, main b').length") == 0
    quotes = tab.evaluate("[...document.querySelectorAll('details.items blockquote')].map(quote => quote.textContent)")
    assert any("<script>document.title='pwned'</script>" in quote for quote in quotes)
    assert tab.evaluate("[...document.querySelectorAll('details.items')].some(details => details.open)") is False


def test_an_injected_script_would_not_run(tab):
    tab.evaluate(INJECT)
    assert tab.evaluate("window.injected ?? null") is None
    tab.events.clear()


def test_charts_follow_the_colour_scheme(tab):
    colours = {}
    for scheme in ("light", "dark"):
        tab.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colours[scheme] = tab.evaluate(COLOURS)
    tab.command("Emulation.setEmulatedMedia", features=[])
    assert all(light != dark for light, dark in zip(colours["light"], colours["dark"], strict=True))


def test_a_telephone_shows_the_page_without_sideways_scrolling(tab):
    tab.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    width = tab.evaluate("new Promise(done => setTimeout(() => done(document.documentElement.scrollWidth), 300))")
    tab.command("Emulation.clearDeviceMetricsOverride")
    assert width <= 360


def test_the_keyboard_reaches_the_verdict_first_and_opens_the_items(tab):
    tab.evaluate("document.activeElement.blur(), window.scrollTo(0, 0)")
    for kind in ("rawKeyDown", "keyUp"):
        tab.command("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert tab.evaluate("document.activeElement.getAttribute('href')") == "#verdict"
    tab.evaluate("document.querySelector('details.items summary').focus()")
    for kind in ("keyDown", "keyUp"):
        tab.command("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert tab.evaluate("document.querySelector('details.items').open") is True


@pytest.mark.parametrize("kind", ["audit", "compare"])
def test_pages_of_other_kinds_draw_too(tab, tmp_path, kind):
    page = write_report(write_synthetic_run(tmp_path, kind, items=80))
    tab.open(page)
    marks = tab.evaluate(COUNT_MARKS)
    assert len(marks) >= 4 and min(marks) >= 1 and tab.said() == []


def test_the_page_of_a_study_draws_too(tab, tmp_path):
    tab.open(write_report(write_synthetic_study(tmp_path)))
    marks = tab.evaluate(COUNT_MARKS)
    assert len(marks) == 12 and min(marks) >= 2 and tab.said() == []
    assert "pwned" not in tab.evaluate("document.title")
