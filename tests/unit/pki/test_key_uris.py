"""PKCS#11 URIs, which name the key of a CA (RFC 7512)."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.pki.errors import BadKeyUri
from kbuild.pki.key_uris import TOKEN_PARTS, KeyUri, key_uri

ROOT = Path(__file__).parents[3]
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def parsed(text: str) -> KeyUri:
    return key_uri(text, "the test")


def refused(text: str) -> BadKeyUri:
    with pytest.raises(BadKeyUri) as caught:
        parsed(text)
    return caught.value


def outcome(text: str) -> KeyUri | BadKeyUri:
    try:
        return parsed(text)
    except BadKeyUri as error:
        return error


@given(
    token=st.dictionaries(st.sampled_from(TOKEN_PARTS), WORDS),
    label=WORDS,
    id_=st.binary(min_size=1),
    order=st.randoms(use_true_random=False),
)
def test_what_is_encoded_is_read(
    token: dict[str, str], label: str, id_: bytes, order: object
) -> None:
    parts = [f"{name}={quote(value, safe='')}" for name, value in token.items()]
    parts += [f"object={quote(label, safe='')}", f"id={quote(id_, safe='')}", "type=private"]
    order.shuffle(parts)  # type: ignore[attr-defined]  # random.Random
    found = parsed(f"pkcs11:{';'.join(parts)}")
    assert (dict(found.token), found.label, found.id) == (token, label, id_)
    assert (found.module, found.pin_source) == (None, None)


@given(st.text())
def test_any_text_is_read_or_refused_and_never_shown(text: str) -> None:
    for prefix in ("", "pkcs11:", "pkcs11:token=a?"):
        found = outcome(prefix + text)
        if isinstance(found, KeyUri):
            assert found.text == prefix + text
        else:
            assert len(text) < 8 or text not in found.happened


def test_a_module_and_the_source_of_a_pin_are_files() -> None:
    uri = parsed("pkcs11:object=ca?module-path=/usr/lib/a.so&pin-source=file:/etc/my%20pin")
    assert (uri.module, uri.pin_source) == (Path("/usr/lib/a.so"), Path("/etc/my pin"))
    for text in ("file:///etc/pin", "file://localhost/etc/pin", "/etc/pin"):
        assert parsed(f"pkcs11:?pin-source={text}").pin_source == Path("/etc/pin"), text


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("ca-key.pem", "does not begin with pkcs11:", "pkcs11:token=NAME"),
        ("pkcs11:tokne=a", "unknown attribute after pkcs11:", "did you mean token?"),
        ("pkcs11:token=a?module-pth=/b", "unknown attribute after ?", "did you mean module-path?"),
        ("pkcs11:token=a;token=b", "token is there twice", "once"),
        ("pkcs11:token=", "token has no value", "with its value"),
        ("pkcs11:token=my token", "character that cannot stand there", "%20"),
        ("pkcs11:token=%zz", "character that cannot stand there", "%20"),
        ("pkcs11:token=%ff", "token is not UTF-8", "correct"),
        ("pkcs11:token=%00", "NUL", "remove"),
        ("pkcs11:type=public", "its type is not private", "leave out type"),
        ("pkcs11:?module-name=softhsm2", "no module by its name", "module-path="),
        ("pkcs11:?module-path=lib.so", "module-path is not an absolute path", "module-path=/"),
        ("pkcs11:?pin-source=pin", "pin-source is not an absolute path", "pin-source=/"),
        ("pkcs11:?pin-source=|cat%20pin", "runs no program", "file:"),
        ("pkcs11:?pin-source=file://host/pin", "on another machine", "file:"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(text: str, reason: str, hint: str) -> None:
    error = refused(text)
    assert reason in error.happened
    assert hint in error.hint


def test_a_pin_in_a_uri_is_refused_and_not_shown() -> None:
    error = refused("pkcs11:token=a?pin-value=s3cret")
    assert "it holds a PIN" in error.happened
    assert "s3cret" not in error.happened + error.hint
    # A half of one, because the user has not encoded it.
    error = refused("pkcs11:token=a?pin-value=s3cret&r3st")
    assert "r3st" not in error.happened + error.hint


def test_each_example_of_the_documentation_names_a_module() -> None:
    text = (ROOT / "docs/pki.md").read_text().replace("\\\n", " ")
    examples = re.findall(r"--new-ca-key +'ca=(pkcs11:[^']*)'", text)
    assert len(examples) == 1
    assert key_uri(examples[0], "docs/pki.md").module is not None
