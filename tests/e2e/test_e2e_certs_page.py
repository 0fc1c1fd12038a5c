"""The page of kbuild certs in a real browser: what it shows, on which screen, and what it asks for.

To look at the pictures yourself: pytest tests/e2e/test_e2e_certs_page.py --basetemp=DIR
"""

import re
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kbuild.certs.model import Inventory
from kbuild.certs.page import page
from tests.e2e.browser import Browser, running_browser
from tests.support.inventories import (
    certificate,
    control_plane,
    hostile,
    inventory,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BARS = """[...document.querySelectorAll('.timeline rect')].map(bar => {
    const box = bar.getBoundingClientRect();
    return [box.left, box.right, box.height];
})"""
TICKS = """[...document.querySelectorAll('.ticks span')].map(tick => {
    const box = tick.getBoundingClientRect();
    return [tick.textContent.split('\\n').pop(), box.left, box.right, box.height];
})"""
TRACK = """(() => {
    const box = document.querySelector('.bar').getBoundingClientRect();
    return [box.left, box.right];
})()"""
# What sticks out of the window at the right; what is inside the scrolled table may.
TOO_WIDE = """[...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll table') && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))"""
# WCAG 2.2, section 1.4.3: the contrast of each text with the background behind it.
CONTRASTS = """(() => {
    const canvas = document.createElement('canvas').getContext('2d');
    const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(channel);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = e => {
        for (; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(color)) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = {};
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim()) continue;
        const pair = [getComputedStyle(e).color, behind(e)];
        const [low, high] = pair.map(light).sort((a, b) => a - b);
        found[pair.join(' on ')] = (high + 0.05) / (low + 0.05);
    }
    return found;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def written(folder: Path, found: Inventory, host: str = "node1") -> Path:
    file = folder / "page.html"
    file.write_bytes(page(found, host))
    return file


def asked_for(browser: Browser) -> list[str]:
    """Return the addresses that the browser has asked for since it opened the page."""
    return [told["request"]["url"] for told in browser.told("Network.requestWillBeSent")]


def named(browser: Browser, role: str) -> list[str]:
    """Return the names of what has this role for those who hear the page."""
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    browser.call("Accessibility.disable")  # it costs time whenever a page is opened
    found = [node for node in nodes if node.get("role", {}).get("value") == role]
    return [node.get("name", {}).get("value", "") for node in found]


@pytest.mark.parametrize("width", [1200, 400])
def test_bars_are_as_long_as_certificates_last(
    width: int, browser: Browser, tmp_path: Path
) -> None:
    browser.open(written(tmp_path, control_plane()), width=width)
    bars: list[Any] = browser.value(BARS)
    start, end = browser.value(TRACK)
    assert len(bars) == len(control_plane().certificates)
    assert all(left >= start - 1 and right <= end + 1 and high > 10 for left, right, high in bars)
    assert bars[0][1] - bars[0][0] == pytest.approx(4)  # it has expired
    lengths = [right - start for _, right, _ in bars]
    assert all(after > before - 0.1 for before, after in pairwise(lengths[1:]))
    assert lengths[-1] == pytest.approx(end - start, rel=0.01)  # a hundred years
    assert lengths[1] > 10  # a week
    # Each bar ends below the tick of its time: 30 days, 1 year, 10 years.
    ticks = {name: (left + right) / 2 for name, left, right, _ in browser.value(TICKS)}
    for name, bar in (("30d", bars[2]), ("1y", bars[4]), ("10y", bars[-2])):
        assert bar[1] == pytest.approx(ticks[name], abs=3), name
    (tmp_path / f"{width}.png").write_bytes(browser.picture())


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("is_hostile", [False, True])
def test_nothing_sticks_out_and_no_label_hides_another(
    width: int, is_hostile: bool, browser: Browser, tmp_path: Path
) -> None:
    browser.open(written(tmp_path, hostile() if is_hostile else control_plane()), width=width)
    assert browser.value(TOO_WIDE) == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    labels = [label for label in browser.value(TICKS) if label[2] > label[1]]  # not hidden
    assert len(labels) >= 3
    assert all(one[2] <= other[1] for one, other in pairwise(labels))
    assert all(high < 40 for *_, high in labels)  # two lines at most


@pytest.mark.parametrize("is_hostile", [False, True])
def test_the_page_asks_for_nothing_and_runs_nothing(
    is_hostile: bool, browser: Browser, tmp_path: Path
) -> None:
    file = written(tmp_path, hostile() if is_hostile else control_plane())
    browser.open(file)
    assert browser.value("document.querySelectorAll('script, img, link, iframe').length") == 0
    assert asked_for(browser) == [file.as_uri()]
    # Neither did the policy have to forbid something, nor was there a dialog or an error.
    for kind in ("Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
        assert browser.told(kind) == []


def test_the_policy_forbids_what_an_escape_might_let_through(
    browser: Browser, tmp_path: Path
) -> None:
    file = written(tmp_path, control_plane())
    evil = (
        b"<img src=https://x.test/a onerror='document.title = 1'><script>document.title=2</script>"
    )
    file.write_bytes(file.read_bytes().replace(b"<main>", b"<main>" + evil))
    browser.open(file)
    assert browser.value("document.title").startswith("Certificates on")
    blocked = [told.get("blockedReason") for told in browser.told("Network.loadingFailed")]
    assert blocked == ["csp"] * (len(asked_for(browser)) - 1)
    assert len(browser.told("Log.entryAdded")) >= 2  # the picture, and the two scripts


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_legible_in_light_and_dark(
    scheme: str, browser: Browser, tmp_path: Path
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.open(written(tmp_path, control_plane()))
    contrasts = browser.value(CONTRASTS)
    (tmp_path / f"{scheme}.png").write_bytes(browser.picture())
    browser.call("Emulation.setEmulatedMedia", features=[])
    assert len(contrasts) >= 5
    assert {pair: ratio for pair, ratio in contrasts.items() if ratio < 4.5} == {}
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert any("rgb(255, 255, 255)" in pair for pair in contrasts) is (scheme == "light")


def test_those_who_hear_the_page_get_all_of_it(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path, control_plane()))
    assert named(browser, "RootWebArea") == ["Certificates on node1, 2026-11-26"]
    assert named(browser, "heading") == [
        "Certificates on node1",
        "Findings",
        "Time line",
        "Certificates",
    ]
    assert named(browser, "columnheader")[:2] == ["Certificate", "Subject and issuer"]
    assert len(named(browser, "rowheader")) == len(control_plane().certificates)
    assert named(browser, "region") == ["Certificates"]
    assert not named(browser, "image")


def test_it_can_be_printed(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path, control_plane()))
    pdf = browser.printed()
    (tmp_path / "page.pdf").write_bytes(pdf)
    sheets = re.findall(rb"/MediaBox ?\[([\d. ]+)\]", pdf)
    assert 2 <= len(sheets) <= 5
    for sheet in sheets:
        _, _, wide, high = map(float, sheet.split())
        assert (wide, high) == pytest.approx((841.9, 595.3), abs=1)  # A4, landscape, in points


def test_it_prints_all_rows_and_on_paper_nothing_is_cut_off(
    browser: Browser, tmp_path: Path
) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=features)
    browser.open(written(tmp_path, control_plane()), width=1032)  # A4 without the margins
    wide = browser.value("document.querySelector('table').getBoundingClientRect().right")
    colours = browser.value(
        "['body', '.timeline rect'].map(s => getComputedStyle(document.querySelector(s)))"
        ".map(style => [style.backgroundColor, style.fill, style.printColorAdjust])"
    )
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert wide <= 1032
    assert colours[0][0] == "rgb(255, 255, 255)"  # whatever the screen has
    assert colours[1][2] == "exact"  # so the bars are printed


@pytest.mark.slow
def test_ten_thousand_certificates_open_within_seconds(browser: Browser, tmp_path: Path) -> None:
    many = inventory(*(certificate(f"/pki/{n}.crt", days=n % 4000) for n in range(10_000)))
    file = written(tmp_path, many)
    began = time.monotonic()
    browser.open(file)
    assert browser.value("document.querySelectorAll('tbody tr').length") == 10_000
    picture = browser.call("Page.captureScreenshot")["data"]
    assert time.monotonic() - began < 30
    assert len(picture) > 10_000


def test_pictures_have_the_width_of_the_window(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path, control_plane()), width=400)
    wide, high = struct.unpack(">II", browser.picture()[16:24])  # of PNG's header
    assert wide == 400
    assert high > 1500
