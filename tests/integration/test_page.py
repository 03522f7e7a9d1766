"""The page, in a real browser: both color schemes, on a phone and on a desk."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import records
from tests.integration.account import until
from tests.integration.browser import Browser
from tests.integration.site import Site
from tests.integration.test_metrics import tell_of_gateway

# Texts and their grounds, as the browser paints them; WCAG 2.2 wants 4.5 to 1.
_CONTRASTS = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => {
  for (let at = element; at; at = at.parentElement) {
    const color = parse(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
};
return [...document.querySelectorAll("main *")]
  .filter(each => [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()))
  .map(each => {
    const [one, two] = [parse(getComputedStyle(each).color), ground(each)].map(light).sort((a, b) => b - a);
    return [each.textContent.slice(0, 40), (one + 0.05) / (two + 0.05)];
  });
"""

_FULL_DISK = """
const disk = { used_ratio: 0.999, inodes_used_ratio: 0, free_bytes: 1023.9 * 2 ** 30 };
disks({ disks: { checkpoints: disk, data: { ...disk, used_ratio: 0.85 } }, thresholds: { warn: 0.8, fence: 0.95 },
  history: { checkpoints: [0.1, 0.9], data: [0.2, 0.3] }, disk: { full_in: 3600 } });
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site with something to tell: a backup, a drill, a fence, a name that would like to be HTML."""
    made = Site()
    made.configure({"gateway.socket": str(made.run / "gateway.sock")})
    records.fill(made.serve().client(), "some", 150, sync_threshold=100)
    made.backup()
    assert made.chromactl("verify").code == 0
    # Records are counted at the start, and then once in a while.
    made.daemon.stop()
    assert made.serve().status()["records"] == 150
    said = f"since={int(time.time())} certificate={int(time.time()) + 5 * 86400} expiring=2 401=12345 429=7"
    assert tell_of_gateway(made, said) == "-"
    assert made.chromactl("fence", "--reason", "<img src=x onerror=document.title='broken'>").code == 0
    yield made
    made.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page(site: Site, browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    directory = Path(os.environ.get("CHROMAD_SCREENSHOTS", tmp_path))
    browser.view(width, scheme)
    browser.open(f"http://127.0.0.1:{site.metrics_port}/")
    until(lambda: browser.run("return document.getElementById('log').textContent").endswith("B"), "the figures")
    browser.screenshot(directory / f"page-{scheme}-{width}.png")
    text = browser.run("return document.body.innerText")
    for part in (
        "serving",
        "150",
        "1 collection",
        "data",
        "checkpoints",
        "backups",
        "proven: ",
        "✓",
        "chromad ",
        "The gateway's certificate ends in 4 d",
        "2 tokens expire soon",
        "12,345 with 401, 7 with 429",
    ):
        assert part in text
    assert "<img src=x" in text
    assert browser.run("return document.title") == "ChromaDB"
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return document.querySelectorAll('#taken span, #drills span').length") == 2
    assert not [pair for pair in browser.run(_CONTRASTS) if pair[1] < 4.5]
    # Curves come with the second sample, after a minute.
    draw = "for (const svg of document.querySelectorAll('svg')) curve(svg, [3, 1, 4, 1, 5], 0)"
    browser.run(f"{draw}; window.scrollTo(0, 0)")
    browser.screenshot(directory / f"curves-{scheme}-{width}.png")
    drawn = browser.run("return [...document.querySelectorAll('svg:has(path)')].map(each => each.id)")
    assert drawn == ["records-curve", "data-curve", "checkpoints-curve", "backups-curve", "log-curve"]
    # The longest texts of a disk stay on one line, inside.
    browser.run(_FULL_DISK)
    browser.screenshot(directory / f"full-{scheme}-{width}.png")
    rows = browser.run(
        "return [...document.querySelectorAll('.row')].map(row => [row.innerText, row.scrollWidth - row.clientWidth, row.offsetHeight])"
    )
    assert [row for row in rows if row[1] > 0 or row[2] > 30] == []
    assert "full" in rows[0][0]
    assert not [pair for pair in browser.run(_CONTRASTS) if pair[1] < 4.5]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.errors() == []


def test_what_stays_the_same_is_not_said_again(site: Site, browser: Browser) -> None:
    browser.open(f"http://127.0.0.1:{site.metrics_port}/")
    until(lambda: browser.run("return document.querySelector('#notes p') !== null"), "the fence")
    before = browser.run(
        "note = document.querySelector('#notes p'); return document.getElementById('updated').innerText"
    )
    until(lambda: browser.run("return document.getElementById('updated').innerText") != before, "the next figures")
    assert browser.run("return note === document.querySelector('#notes p')")
    assert site.chromactl("fence", "--reason", "another reason").code == 0
    until(lambda: "another reason" in browser.run("return document.getElementById('notes').innerText"), "the new one")


def test_service_that_hangs(browser: Browser) -> None:
    made = Site()
    try:
        daemon = made.serve()
        browser.open(f"http://127.0.0.1:{made.metrics_port}/")
        until(lambda: browser.run("return document.getElementById('state').textContent") == "serving", "serving")
        daemon.process.send_signal(signal.SIGSTOP)
        until(lambda: browser.run("return document.getElementById('state').textContent") == "no answer", "no answer")
        daemon.process.send_signal(signal.SIGCONT)
        until(lambda: browser.run("return document.getElementById('state').textContent") == "serving", "serving again")
    finally:
        made.remove()
        browser.errors()


def test_service_that_goes_away(browser: Browser) -> None:
    made = Site()
    try:
        made.serve()
        browser.open(f"http://127.0.0.1:{made.metrics_port}/")
        until(lambda: browser.run("return document.getElementById('state').textContent") == "serving", "serving")
        made.daemon.stop()
        until(lambda: browser.run("return document.getElementById('state').textContent") == "no answer", "no answer")
    finally:
        made.remove()
        browser.errors()
