"""The HTML page: complete, escaped, and closed to the network. tests/e2e opens it in a browser."""

import time
from html.parser import HTMLParser

import pytest

from kbuild.certs.model import Inventory
from kbuild.certs.page import MARK, page
from tests.support.inventories import (
    HOSTILE,
    certificate,
    control_plane,
    finding,
    hostile,
    inventory,
)

# What could load something or run something; the page needs none of them.
FORBIDDEN = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "video"}
VOID = {"meta", "wbr"}


class Read(HTMLParser):
    """Collects what a page is made of, and checks that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":  # one after each slash of a path
            self.tags.append(tag)
        self.attributes += ((tag, name, value) for name, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def read(found: Inventory, host: str = "node1") -> Read:
    content = page(found, host)
    assert MARK in content[:1024]
    return Read(content.decode())


def test_hostile_text_adds_no_element_and_no_attribute() -> None:
    usual = inventory(certificate(place="x"), findings=(finding(place="x"),))
    dangerous, harmless = read(hostile(), HOSTILE), read(usual)
    assert dangerous.tags == harmless.tags
    assert [a[:2] for a in dangerous.attributes] == [a[:2] for a in harmless.attributes]
    text = "".join(dangerous.texts)
    assert "<script>alert(1)</script>" in text
    assert r"\x1b[2J\u202ereversed\u2066\x00\r\nBEGIN:VEVENT" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_nothing_can_be_loaded_or_run() -> None:
    found = read(control_plane())
    assert FORBIDDEN.isdisjoint(found.tags)
    names = {name for _, name, _ in found.attributes}
    assert not {name for name in names if name.startswith("on")} | ({"src", "href"} & names)
    content = page(control_plane(), "node1").decode()
    assert "url(" not in content
    assert "@import" not in content
    policy = [v for t, n, v in found.attributes if t == "meta" and n == "content"]
    assert "default-src 'none'; style-src 'unsafe-inline'" in policy


def test_it_can_be_read_without_seeing_it() -> None:
    found = read(control_plane())
    assert ("html", "lang", "en") in found.attributes
    assert found.tags.count("title") == found.tags.count("h1") == 1
    assert ("th", "scope", "col") in found.attributes
    assert found.attributes.count(("th", "scope", "row")) == len(control_plane().certificates)
    # A bar says nothing that is not beside it in words.
    assert found.attributes.count(("svg", "aria-hidden", "true")) == found.tags.count("svg")
    assert "expired 12 days ago" in found.texts


def test_all_is_in_it() -> None:
    text = "".join(read(control_plane()).texts)
    for one in control_plane().certificates:
        assert one.path in text
        assert one.subject in text
        assert one.not_after.date().isoformat() in text
    for each in control_plane().findings:
        assert each.reason in text
        assert each.command in text


def test_without_certificates_it_says_so() -> None:
    text = "".join(read(inventory()).texts)
    assert "No certificate was found." in text


def test_the_same_inventory_gives_the_same_page() -> None:
    assert page(control_plane(), "node1") == page(control_plane(), "node1")


@pytest.mark.slow
def test_ten_thousand_certificates_are_written_within_seconds() -> None:
    many = inventory(*(certificate(f"/pki/{n}.crt", days=n % 4000) for n in range(10_000)))
    began = time.monotonic()
    content = page(many, "node1")
    assert time.monotonic() - began < 10
    assert len(content) < 25_000_000
