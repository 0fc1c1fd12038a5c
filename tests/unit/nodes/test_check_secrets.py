"""No private key, token or password leaves a node, however its files are written."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kbuild.x509.api import read_content, read_kubeconfig
from tests.support.authority import CLIENT, issue, kubeconfig
from tests.support.node_tree import look, run_function, write_node

pytestmark = pytest.mark.slow  # it runs shells

CA = issue("kubernetes", ca=True)
ADMIN = issue("kubernetes-admin", CA, usages=(CLIENT,), organization="system:masters")
TEXT = kubeconfig("kubernetes-admin", ADMIN, CA)
BODY = ADMIN.key_pem.decode().splitlines()[1:-1]
SECRET = "5ec7e7"  # every piece of a secret begins with it
BETWEEN = (
    *("\n", "\nname: ", "\n  name: ", "\n- name: ", "\n  - name: ", "\n    client-certificate: "),
    *('"\nname: ', "'\nname: ", ": ", " # ", "\nusers:\n- name: ", "\\", '\\"\nname: ', "\t"),
    *(
        "\n---\nusers:\n- name: ",
        "\n    client-certificate-data: ",
        "\n-----BEGIN CERTIFICATE-----\n",
    ),
    *("{", "}", "[", "]", "''", '""', "&a ", "*a ", "!!str ", "| ", "> ", "? ", "\n\n", "\r\n"),
)
OPTIONS = st.fixed_dictionaries(
    {
        "default_style": st.sampled_from([None, "'", '"', "|", ">"]),
        "default_flow_style": st.sampled_from([False, None, True]),
        "indent": st.integers(2, 5),
        "width": st.sampled_from([20, 1000]),
        "sort_keys": st.booleans(),
        "explicit_start": st.booleans(),
    }
)
MANY = settings(max_examples=60, deadline=None)


@st.composite
def secrets(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(st.sampled_from(BETWEEN), max_size=4))
    return SECRET + "".join(f"{piece}{SECRET}" for piece in pieces)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Return a kubeconfig with secrets wherever a client keeps one."""
    user: dict[str, Any] = {}
    hidden = {
        "token": draw(secrets()),
        "password": draw(secrets()),
        "client-key-data": draw(secrets()),
        "tokenFile": draw(secrets()),
        "exec": {
            "args": [draw(secrets()), {"name": draw(secrets())}],
            "env": [{"name": "TOKEN", "value": draw(secrets())}],
            "command": draw(secrets()),
        },
        "auth-provider": {"name": "oidc", "config": {"refresh-token": draw(secrets())}},
        "as-user-extra": {"name": [draw(secrets())]},
        "groups": [{"name": draw(secrets())}, draw(secrets())],
        draw(st.sampled_from(["pass word", "name ", '"name"', "user", "x"])): draw(secrets()),
    }
    for name in draw(st.lists(st.sampled_from(sorted(hidden)), unique=True, min_size=1)):
        user[name] = hidden[name]
    if draw(st.booleans()):
        user["client-certificate-data"] = base64.b64encode(ADMIN.pem).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {"x": draw(secrets())},
        "extensions": [{"name": SECRET, "extension": {"name": draw(secrets())}}],
        "users": [{"name": "admin", "user": user}, {"name": "other", "user": {"token": SECRET}}],
    }


@pytest.mark.slow
@MANY
@given(documents(), OPTIONS)
def test_no_secret_of_a_kubeconfig_is_printed(
    document: dict[str, Any], options: dict[str, Any]
) -> None:
    text = yaml.safe_dump(document, **options)
    assert SECRET in text
    printed = run_function("kubeconfig", root=Path("/"), stdin=text.encode())
    assert SECRET not in printed


BLOCKS = (
    *(ADMIN.pem.decode(), CA.pem.decode()),
    *(ADMIN.key_pem.decode(), ADMIN.key_pem.decode().replace("PRIVATE", "RSA PRIVATE")),
    ADMIN.key_pem.decode().replace("PRIVATE KEY", "CERTIFICATE"),
    ADMIN.key_pem.decode().replace("PRIVATE KEY", "SECRET"),
    *("a line between\n", "# a comment\n", "\n", "Bag Attributes\n    friendlyName: x\n"),
)


@st.composite
def contents(draw: st.DrawFn) -> str:
    """Return blocks of PEM of which some have no first or no last line."""
    text = ""
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6)):
        lines = block.splitlines(keepends=True)
        how = draw(st.sampled_from(["whole", "whole", "no begin", "no end", "cut", "indented"]))
        if how == "no begin":
            lines = lines[1:]
        elif how == "no end":
            lines = lines[:-1]
        elif how == "cut":
            lines = [*lines[:-1], lines[-1][: draw(st.integers(0, 20))]]
        elif how == "indented":
            lines = [f"  {line}" for line in lines]
        text += "".join(lines)
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


def test_what_follows_a_certificate_that_lost_its_end_is_withheld() -> None:
    lines = [*ADMIN.pem.decode().splitlines()[:-1], *BODY, "-----END CERTIFICATE-----"]
    content = "\n".join([*lines, CA.pem.decode()])
    printed = run_function("without_keys", root=Path("/"), stdin=content.encode())
    assert [line for line in BODY if line in printed] == []
    assert read_content(printed.encode()).certificates == read_content(CA.pem).certificates
    longest = "\n".join([lines[0], "MIIAAAC", *["A" * 64] * 20_000, "-----END CERTIFICATE-----"])
    printed = run_function("without_keys", root=Path("/"), stdin=longest.encode())
    assert printed.strip() == lines[0]


@pytest.mark.slow
@MANY
@given(contents())
def test_no_line_of_a_private_key_is_printed(content: str) -> None:
    printed = run_function("without_keys", root=Path("/"), stdin=content.encode())
    assert [line for line in BODY if line in printed] == []


def test_what_kubectl_writes_is_printed_without_the_key() -> None:
    printed = run_function("kubeconfig", root=Path("/"), stdin=TEXT).encode()
    sent, whole = read_kubeconfig(printed), read_kubeconfig(TEXT)
    assert [user.certificate for user in sent.users] == [user.certificate for user in whole.users]
    assert [each.ca for each in sent.clusters] == [each.ca for each in whole.clusters]
    assert [each.name for each in sent.users] == ["kubernetes-admin"]
    assert [each.name for each in sent.clusters] == ["kubernetes"]
    key = read_content(sent.users[0].key.data).keys
    (whole_key,) = read_content(whole.users[0].key.data).keys
    assert key == [whole_key]


def test_certificates_and_the_place_of_a_key_are_printed() -> None:
    content = b"a text\n" + ADMIN.pem + ADMIN.key_pem + CA.pem
    printed = run_function("without_keys", root=Path("/"), stdin=content).encode()
    taken = read_content(printed)
    assert [each.der for each in taken.certificates] == [ADMIN.der, CA.der]
    assert len(taken.keys) == 1
    assert taken.problems == []


def test_a_truncated_certificate_is_told_without_its_content() -> None:
    for cut in (ADMIN.pem[:300], ADMIN.pem[:300] + b"\n" + CA.key_pem, ADMIN.pem[:300] + CA.pem):
        printed = run_function("without_keys", root=Path("/"), stdin=cut).encode()
        assert ADMIN.pem[100:150] not in printed
        assert any("truncated" in each for each in read_content(printed).problems), cut


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "Config", "users": [{"name": "a", "user": {"token": "5ec7e7"}}]}',
        "kind: Config\nusers:\n- {name: a, user: {token: 5ec7e7}}\n",
        'kind: Config\nusers:\n- name: a\n  user:\n    token: "5ec7e7\n\nname: 5ec7e7"\n',
        "kind: Config\nusers: [{name: a, user: {token: 5ec7e7}}]\n",
    ],
)
def test_a_kubeconfig_in_another_form_is_a_finding(tmp_path: Path, text: str) -> None:
    write_node(tmp_path)
    (tmp_path / "etc/kubernetes/other.conf").write_text(text)
    copies = {each.path: each for each in look(tmp_path).copies}
    assert "not written as kubectl" in copies["/etc/kubernetes/other.conf"].problem
    assert SECRET.encode() not in copies["/etc/kubernetes/other.conf"].content


def test_nothing_of_the_keys_of_a_node_is_printed(tmp_path: Path) -> None:
    write_node(tmp_path)
    (tmp_path / "etc/kubernetes/token.csv").write_text("5ec7e7,admin,1")
    printed = run_function("look /etc/kubernetes /var/lib/kubelet/pki", root=tmp_path)
    words = [base64.b64decode(w.removesuffix("-")) for w in printed.split() if _is_base64(w)]
    everything = printed.encode() + b"".join(words)
    keys = [path for path in tmp_path.rglob("*") if path.suffix in (".key", ".pem")]
    lines = {line for path in keys for line in _key_lines(path)}
    assert len(lines) > 20
    assert [line for line in lines if line in everything] == []
    assert SECRET.encode() not in everything


def _key_lines(path: Path) -> list[bytes]:
    text = path.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")[2]
    return [line for line in text.splitlines() if line and b"-----" not in line]


def _is_base64(word: str) -> bool:
    return len(word) > 40 and word.endswith("-")
