"""No secret of an address reaches a user or a document."""

import contextlib
import io
import json
import re
import string
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from kbuild.base.addresses import is_local, recorded, shown
from kbuild.base.errors import BadSetting, InternalError, KbuildError, SourceUnreachable
from kbuild.cli.console import Screen
from kbuild.kubeadm.model import Binary
from kbuild.kubeadm.source import tags
from kbuild.release.documents import build_document
from kbuild.release.provenance import provenance
from kbuild.release.sbom import sbom_text
from kbuild.release.writer import list_files
from kbuild.settings import Settings, read_settings
from tests.support.recorder import Recorder
from tests.support.releases import make_binaries, make_release, make_request
from tests.support.servers import free_port

# What RFC 3986 allows in user information, query and fragment; of user information `@` and `:` too,
# as people write them.
INSIDE = string.ascii_letters + string.digits + "-._~!$&*+;=%@:"
SECRETS = st.builds(
    "{}{}{}".format,
    st.sampled_from(string.ascii_letters + string.digits),
    # No character twice, for a run of zeros is in any document.
    st.permutations(INSIDE).map(lambda letters: "".join(letters[:30])),
    st.sampled_from(string.ascii_letters + string.digits),
)
ADDRESSES = (
    "https://user:{}@example.invalid/kubernetes.git",
    "https://{}@example.invalid/kubernetes.git",
    "https://{}:x-oauth-basic@example.invalid:8443/kubernetes.git",
    "https://user:ab/{}@example.invalid/kubernetes.git",
    "https://user:ab?{}@example.invalid/kubernetes.git",
    "https://user:ab#{}@example.invalid/kubernetes.git",
    "ssh://user:{}@[::1]:22/kubernetes.git",
    "https://example.invalid/kubernetes-src.tar.gz?token={}",
    "https://example.invalid/kubernetes-src.tar.gz?a=1&token={}#part",
    "https://example.invalid?next=a/b@{}",
    "https://example.invalid/kubernetes.git#{}",
    "user:{}@example.invalid:kubernetes.git",
    "{}@example.invalid:kubernetes.git",
    "user:{}@[::1]:kubernetes.git",
)
WORDS = (
    "{}",
    "fatal: unable to access '{}': The requested URL returned error: 403",
    "fatal: repository '{}/' not found",
    'Get "{}": dial tcp: lookup example.invalid: no such host',
    "remote: see <{}>.",
    "({}), of {}",
    "--source={}",
)

addresses = st.tuples(SECRETS, st.sampled_from(ADDRESSES)).map(lambda p: (p[0], p[1].format(p[0])))


def without(secret: str, text: str) -> bool:
    """Tell whether a text holds no part of a secret that is long enough to be no accident."""
    return not any(secret[at : at + 8] in text for at in range(len(secret) - 7))


@pytest.mark.slow
@given(addresses, st.sampled_from(WORDS))
def test_no_secret_of_an_address_is_in_an_error(made: tuple[str, str], words: str) -> None:
    secret, address = made
    said = words.format(*[address] * words.count("{}"))
    error = SourceUnreachable(source=address, details=said)
    fault = InternalError(exception="OSError", text=str(OSError(2, said, address)))
    for text in (error.happened, error.hint, error.details, str(error), str(fault), fault.hint):
        assert without(secret, text)


@pytest.mark.slow
@given(addresses, st.sampled_from(WORDS), st.booleans())
def test_no_secret_of_an_address_is_printed(
    made: tuple[str, str], words: str, as_json: bool
) -> None:
    secret, address = made
    said = words.format(*[address] * words.count("{}"))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        screen = Screen(verbose=True, quiet=False, as_json=as_json)
        screen.stage(said)
        screen.say(said)
        screen.detail(said)
        screen.follow("host", said, 1, 2)
        screen.result({"source": address, "all": [{"said": said}]}, [said])
        screen.error_document("Usage", 2, said, said, said)
    assert without(secret, out.getvalue())
    assert without(secret, err.getvalue())
    assert len(err.getvalue().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_secret_of_an_address_gets_into_any_file_of_a_release(
    address: str, tmp_path: Path
) -> None:
    secret = "hunter2!correct-horse"
    source = address.format(secret)
    folder = make_release(
        *(tmp_path / "work", tmp_path / "out"),
        origin=source,
        source=source,
        go_site=source,
        release_site=source,
    )
    for name in list_files(folder):
        assert without(secret, (folder / name).read_text(errors="replace")), name


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    return make_binaries(tmp_path_factory.mktemp("binary"))[0]


@pytest.mark.slow
@settings(max_examples=50)  # each asks for the versions of this machine
@given(made=addresses, is_archive=st.booleans())
def test_no_secret_of_an_address_is_in_a_document(
    made: tuple[str, str], is_archive: bool, binary: Binary
) -> None:
    secret, address = made
    fields = ("source", "go_site", "release_site", "golang_repository")
    request = make_request(**dict.fromkeys(fields, address))
    digest = "a" * 64 if is_archive else None
    source = replace(binary.tree.source, origin=address, sha256=digest)
    made_of = replace(binary, tree=replace(binary.tree, source=source))
    documents = [
        build_document((made_of,), request, {}),
        provenance((made_of,), request, {}, 0),
    ]
    assert without(secret, json.dumps(documents))
    assert without(secret, sbom_text(made_of))


def test_no_secret_is_in_what_requests_says() -> None:
    secret = "hunter2-correct-horse"
    url = f"http://user:{secret}@127.0.0.1:{free_port()}/kubernetes.tar.gz?token={secret}#{secret}"
    with pytest.raises(requests.ConnectionError) as caught:
        requests.get(url, timeout=5)
    assert secret in str(caught.value)  # else this tests nothing
    assert without(secret, SourceUnreachable(source=url, details=str(caught.value)).details)


def test_no_secret_is_in_what_git_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.base.network.FIRST_WAIT", 0.0)
    secret, recorder = "hunter2-correct-horse", Recorder()
    url = f"http://user:{secret}@127.0.0.1:{free_port()}/kubernetes.git?token={secret}"
    with pytest.raises(KbuildError) as caught:
        tags.list_tags(url, recorder)
    told = [caught.value.happened, caught.value.hint, caught.value.details, *recorder.said]
    assert caught.value.details
    assert without(secret, "\n".join(told))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git@github.com:org/repo.git", "git@github.com:org/repo.git"),
        ("`ssh -J ops@gate:22 root@n1`", "`ssh -J ops@gate:22 root@n1`"),
        ("ssh -J a@g1:22,b@[::1]:2222 n1", "ssh -J a@g1:22,b@[::1]:2222 n1"),
        ("`ssh -J '[::1]:4221,root@10.0.0.1:22' n1`", "`ssh -J '[::1]:4221,root@10.0.0.1:22' n1`"),
        ("ssh -J ssh://root@b,c@d n1", "ssh -J ssh://root@b,c@d n1"),
        ("ssh -J ssh://root:secret@b n1", "ssh -J ssh://b n1"),
        ("ssh -J ops:secret@gate:22 n1", "ssh -J gate:22 n1"),
        ("ssh -J https://u:p@h/x n1", "ssh -J https://h/x n1"),
        ("ssh -p 22 ops@gate:22", "ssh -p 22 gate:22"),
        ("@local: its clock differs", "@local: its clock differs"),
        ("secret@@local: x", "local: x"),
        ("ssh://git@github.com/org/repo.git", "ssh://git@github.com/org/repo.git"),
        ("https://u:p@mirror.example:8443/k.git", "https://mirror.example:8443/k.git"),
        ("'u:p@mirror.example:k.git'", "'mirror.example:k.git'"),
        ("see https://go.dev/dl/?mode=json.", "see https://go.dev/dl/."),
        ("golang:1.15@sha256:" + "0" * 64, "golang:1.15@sha256:" + "0" * 64),
        ("github.com/a/b@v1.2.3: no such module", "github.com/a/b@v1.2.3: no such module"),
        ("git+https://h/k.git@refs/tags/v1.20.2", "git+https://h/k.git@refs/tags/v1.20.2"),
        ("is it /etc/kubernetes?  no\n", "is it /etc/kubernetes?  no\n"),
        ("http://[::1]:80/k", "http://[::1]:80/k"),
        ("https://h/org/k//.gitlab-ci.yml@main", "https://h/org/k//.gitlab-ci.yml@main"),
        ("Failed to parse: '//u:p@h:1x/k'", "Failed to parse: '//h:1x/k'"),
    ],
)
def test_what_is_no_secret_stays_readable(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.slow
@pytest.mark.parametrize("text", ["@a:", "://", "a@", "//a:b", "?/", "'", "https://a:b@c?d#"])
def test_a_long_hostile_line_takes_no_time(text: str) -> None:
    began = time.process_time()
    shown(text * 200_000)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://u:p@h/k.git", "https://h/k.git"),
        ("git@github.com:org/k.git", "git@github.com:org/k.git"),
        ("/secret/place/kubernetes", "local:kubernetes"),
        ("../place/kubernetes-src.tar.gz", "local:kubernetes-src.tar.gz"),
        ("~/kubernetes", "local:kubernetes"),
        ("file:///secret/place/k.git?x", "local:k.git"),
    ],
)
def test_a_source_on_this_machine_is_recorded_by_its_name(source: str, expected: str) -> None:
    assert recorded(source) == recorded(expected) == expected
    assert is_local(expected) == expected.startswith("local:")


def test_a_folder_is_recorded_by_its_name_even_with_a_colon_or_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a:b").mkdir()
    assert recorded(str(tmp_path / "a:b")) == "local:a:b"
    monkeypatch.chdir(tmp_path)
    assert recorded(".") == f"local:{tmp_path.name}"
    assert re.fullmatch(r"local:[^/]+", recorded("a:b/."))
    assert json.dumps(recorded("a:b")) == '"local:a:b"'


@pytest.mark.parametrize(
    "address",
    [
        "https://u:12/SECRET@host.example/x",
        "u:SECRET@host.example/golang",
        "u:SECRET@[::1]/golang",
        "ssh://u:1/SECRET@host.example:22/x",
    ],
)
def test_a_password_that_looks_like_something_else_is_hidden(address: str) -> None:
    assert "SECRET" not in shown(address)


@pytest.mark.parametrize("name", ["source", "go_site", "release_site", "verify_against", "image"])
@pytest.mark.parametrize(
    "address", ["https://u:my SECRET@h/x", "https:\\\\u:SECRET@h://x", "u:my SECRET@h:x"]
)
def test_an_address_with_a_space_is_refused_and_not_shown(name: str, address: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings(Settings, {name: address}, {}, None)
    assert "SECRET" not in caught.value.happened
