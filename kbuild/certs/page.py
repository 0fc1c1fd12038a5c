"""An inventory as one HTML page that needs no network, no script and no other file.

Everything in it passes ``_element``, which escapes all text: names in certificates are hostile. The
policy in the page forbids the browser to load anything, should an escape ever be missing.
"""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files

from kbuild.base.printable import printable
from kbuild.base.values import day
from kbuild.base.words import shortened
from kbuild.certs.model import SEVERITIES, Certificate, Finding, Inventory, PrivateKey, Severity
from kbuild.certs.naming import without_copies, worst
from kbuild.certs.timeline import Scale, Tick, scale_of
from kbuild.certs.times import in_words, minute

MARK = b'<meta name="generator" content="kbuild certs">'
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_VOID = ("meta", "rect")
_MOST_NAMES, _MANY = 20, 500
_EXPIRED_BAR = "4px"
_HEADINGS = (
    *("Certificate", "Subject and issuer", "Names", "Key"),
    *("Valid from", "Valid until", "Chain", "File"),
)
_CHAINS = {
    "verified": "verified",
    "self-signed": "self-signed",
    "unknown-issuer": "issuer not found",
    "bad-signature": "bad signature",
}


class _Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def page(inventory: Inventory, host: str) -> bytes:
    """Return the page; ``host`` is the name of the machine on which the certificates were read."""
    title = f"Certificates on {host}"
    head = _element(
        "head",
        _element("meta", charset="utf-8"),
        _Html(MARK.decode()),
        _element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("meta", name="referrer", content="no-referrer"),
        _element("title", f"{title}, {day(inventory.read_at)}"),
        _element("style", _Html(_style(scale_of(inventory).ticks()))),
    )
    body = _element(
        "body",
        _header(title, inventory),
        _element("main", *_sections(inventory)),
        _element("footer", "Made by kbuild certs, which only read these files."),
    )
    return f"<!doctype html>\n{_element('html', head, body, lang='en')}\n".encode()


def _style(ticks: Iterable[Tick]) -> str:
    """Return the style sheet, with a line of the grid at each tick of the scale."""
    line = "linear-gradient(var(--line), var(--line))"
    grid = ", ".join(f"{line} {_percent(t.position)} 0 / 1px 100% no-repeat" for t in ticks)
    sheet = files("kbuild.certs").joinpath("page.css").read_text("utf-8")
    return f"\n{sheet}.bar {{ background: {grid}; }}\n"


def _header(title: str, inventory: Inventory) -> _Html:
    paths = ", ".join(inventory.paths)
    return _element(
        "header",
        _element("h1", title),
        _element("p", f"Read at {minute(inventory.read_at)}: ", _path(paths), class_="read"),
        _summary(inventory),
    )


def _summary(inventory: Inventory) -> _Html:
    now = inventory.read_at
    living = [c.not_after for c in inventory.certificates if c.not_after >= now]
    expired = len(inventory.certificates) - len(living)
    numbers = {s: sum(f.severity == s for f in inventory.findings) for s in SEVERITIES}
    facts = (
        ("Certificates", str(len(inventory.certificates)), None),
        ("Next to expire", day(min(living)) if living else "none", None),
        ("Expired", str(expired), "critical" if expired else None),
        (
            "Critical findings",
            str(numbers["critical"]),
            "critical" if numbers["critical"] else None,
        ),
        ("Warnings", str(numbers["warning"]), "warning" if numbers["warning"] else None),
    )
    return _element(
        "dl",
        *(
            _element("div", _element("dt", name), _element("dd", value), class_=kind)
            for name, value, kind in facts
        ),
        class_="summary",
    )


def _sections(inventory: Inventory) -> Iterator[_Html]:
    yield _element("h2", "Findings")
    if inventory.findings:
        yield _element("ul", *map(_finding, inventory.findings), class_="findings")
    else:
        yield _element("p", "Nothing is wrong with these certificates.")
    if not inventory.certificates:
        yield _element("p", "No certificate was found.")
        return
    yield _element("h2", "Time line")
    yield from _timeline(inventory)
    yield _element("h2", "Certificates", id="certificates")
    yield _element(
        "div",
        _table(inventory.certificates),
        class_="scroll long" if len(inventory.certificates) > _MANY else "scroll",
        role="region",
        aria_labelledby="certificates",
        tabindex="0",
    )


def _finding(finding: Finding) -> _Html:
    place = f", {finding.place}" if finding.place else ""
    return _element(
        "li",
        _element("span", _badge(finding.severity)),
        _element("p", finding.reason),
        _path(f"{finding.path}{place}"),
        _element("p", _element("code", finding.command), class_="command")
        if finding.command
        else _Html(),
    )


def _timeline(inventory: Inventory) -> Iterator[_Html]:
    scale, severities = scale_of(inventory), worst(inventory)
    yield _element(
        "p",
        "From now to the end of each certificate. The scale is logarithmic, in years of 365 days.",
        class_="quiet",
    )
    ticks = _element("div", *map(_tick, scale.ticks()), class_="ticks")
    yield _element("div", ticks, class_="scale", aria_hidden="true")
    shown = without_copies(inventory.certificates)
    bars = (_bar(c, scale, severities.get((c.path, c.place))) for c in shown)
    yield _element("ol", *bars, class_="timeline")
    if hidden := len(inventory.certificates) - len(shown):
        text = f"Without {hidden} copies of these CAs in kubeconfigs, which are in the table below."
        yield _element("p", text, class_="quiet")


def _tick(tick: Tick) -> _Html:
    label = tick.label if tick.year is None else f"{tick.year}\n{tick.label}"
    kind = "end" if tick.position == 1 else None
    text = _Html(escape(label))  # it has a line end, which the style sheet keeps
    return _element("span", text, style=f"left:{_percent(tick.position)}", class_=kind)


def _bar(certificate: Certificate, scale: Scale, severity: Severity | None) -> _Html:
    begin = scale.position(certificate.not_before)
    width = _percent(scale.position(certificate.not_after) - begin)
    if certificate.not_after < scale.now:
        width = _EXPIRED_BAR
    bar = _element("rect", x=_percent(begin), width=width, height="100%")
    return _element(
        "li",
        _element("div", _element("b", certificate.role), _place(certificate), class_="name"),
        _element("svg", bar, class_="bar", aria_hidden="true"),
        _element(
            "div",
            _element("b", in_words(certificate.time_left(scale.now))),
            _element("span", day(certificate.not_after), class_="quiet"),
            _badge(severity) if severity else _Html(),
            class_="left",
        ),
        class_=severity,
    )


def _table(certificates: Iterable[Certificate]) -> _Html:
    return _element(
        "table",
        _element("thead", _element("tr", *(_element("th", h, scope="col") for h in _HEADINGS))),
        _element("tbody", *map(_row, certificates)),
    )


def _row(certificate: Certificate) -> _Html:
    issuer = certificate.issued_by
    return _element(
        "tr",
        _element("th", _element("b", certificate.role), _place(certificate), scope="row"),
        _element(
            "td",
            _element("span", certificate.subject, class_="dn"),
            _element("span", f"by {certificate.issuer}", class_="dn quiet"),
        ),
        _element("td", shortened(certificate.names, _MOST_NAMES)),
        _element("td", certificate.key),
        _element("td", day(certificate.not_before), class_="date"),
        _element("td", day(certificate.not_after), class_="date"),
        _element("td", _CHAINS[certificate.chain], _path(issuer) if issuer else _Html()),
        _element("td", *_file(certificate)),
    )


def _file(certificate: Certificate) -> Iterator[_Html]:
    owner = certificate.owner
    yield _element("span", f"{owner.user}:{owner.group} {owner.mode:04o}")
    key = certificate.private_key
    yield _element("span", _key(key) if key else "no private key", class_="quiet")


def _key(key: PrivateKey) -> str:
    state = {True: "fits", False: "does not fit", None: "was not compared"}[key.fits]
    encrypted = ", encrypted" if key.encrypted else ""
    owner = key.owner
    return f"key {state}{encrypted}, {owner.user}:{owner.group} {owner.mode:04o}"


def _place(certificate: Certificate) -> _Html:
    place = f", {certificate.place}" if certificate.place else ""
    return _path(f"{certificate.path}{place}")


def _path(path: str) -> _Html:
    """Return a path that may be broken into lines after each slash."""
    parts = escape(printable(path)).split("/")
    return _element("span", _Html("/<wbr>".join(parts)), class_="path")


def _badge(severity: Severity) -> _Html:
    return _element("span", severity, class_=f"badge {severity}")


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def _element(name: str, /, *inside: str, **attributes: str | None) -> _Html:
    """Return an element. Text inside is escaped; of attributes, those that are None are left out.

    ``_`` in the name of an attribute is a hyphen, and none at its end.
    """
    given: Mapping[str, str] = {n: v for n, v in attributes.items() if v is not None}
    words = "".join(
        f' {n.rstrip("_").replace("_", "-")}="{escape(printable(v))}"' for n, v in given.items()
    )
    if name in _VOID:
        return _Html(f"<{name}{words}{'/' if name == 'rect' else ''}>")
    parts = (text if isinstance(text, _Html) else escape(printable(text)) for text in inside)
    return _Html(f"<{name}{words}>{''.join(parts)}</{name}>")
