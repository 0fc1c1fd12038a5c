"""The edit that makes kubelet restart a static pod."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kbuild.nodes.renew.manifest import KEY, BadManifest, Manifest, edited, restart_edit

APISERVER = b"""\
# by hand: do not touch
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: 10.0.0.1:6443
  creationTimestamp: null
  name: kube-apiserver   # a comment
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=10.0.0.1
    - --secure-port=6443
    livenessProbe:
      httpGet:
        host: 10.0.0.1
        path: /livez
        port: 6443
        scheme: HTTPS
    name: kube-apiserver
status: {}
"""
SCHEDULER = b"apiVersion: v1\nmetadata:\n    name: kube-scheduler\nspec:\n    containers: [{}]"


def annotate(content: bytes, value: str = "20261126T190000Z") -> bytes:
    return edited(content, restart_edit(content, value))


@pytest.mark.parametrize("content", [APISERVER, SCHEDULER, APISERVER.replace(b"\n", b"\r\n")])
def test_one_line_is_added_or_replaced_and_nothing_else(content: bytes) -> None:
    once, twice = annotate(content, "first"), annotate(annotate(content, "first"), "second")
    assert once != content
    assert yaml.safe_load(twice)["metadata"]["annotations"][KEY] == "second"
    assert twice == once.replace(b'"first"', b'"second"')
    added = [line for line in once.splitlines() if line not in content.splitlines()]
    assert added[-1].strip() == f'{KEY}: "first"'.encode()
    assert len(added) <= 2
    for line in added:
        assert once.count(line) == 1
    without = b"".join(
        line for line in once.splitlines(keepends=True) if line.rstrip() not in added
    )
    assert without == content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(yaml.safe_load(APISERVER)).encode(), "block mapping"),
        (
            SCHEDULER.replace(b"metadata:\n    name: kube-scheduler", b"metadata: {name: a}"),
            "block",
        ),
        (APISERVER.replace(b"status: {}", b"a: &m {}\nb: *m"), "alias"),
        (APISERVER + b"---\n" + SCHEDULER, "not YAML|document"),
        (APISERVER + b"kind: Pod\n", "twice"),
        (APISERVER.replace(b"  name:", b"  annotations: {}\n  name:"), "twice"),
        (SCHEDULER.replace(b"    name", b"    annotations: {}\n    name"), "block"),
        (SCHEDULER.replace(b"    name", b"    annotations:\n    name"), "block"),
        (b"\xef\xbb\xbf" + APISERVER, "byte order mark"),
        (APISERVER.replace(b"by hand", b"by \xff"), "UTF-8"),
        (b"just text\n", "not a pod"),
        (b"", "not a pod"),
        (b"metadata:\n- a\n", "not a pod"),
        (b"a: [\n", "not YAML"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadManifest, match=reason):
        restart_edit(content, "now")


names = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=9)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
leaves = st.none() | st.booleans() | st.integers() | texts
values = st.recursive(
    leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(names, each, max_size=3)
)
pods = st.fixed_dictionaries(
    {"metadata": st.dictionaries(names, leaves, min_size=1, max_size=3), "spec": values},
    optional={"kind": texts},
)
annotations = st.none() | st.dictionaries(names, texts, min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    pod=pods,
    annotations=annotations,
    indent=st.integers(2, 5),
    is_sorted=st.booleans(),
    comment=st.sampled_from(["", "# a comment\n", "\n\n", "# \u2028 \x85\n"]),
    has_ours=st.booleans(),
)
def test_any_manifest_keeps_its_other_bytes(
    pod: dict[str, object],
    annotations: dict[str, str] | None,
    indent: int,
    is_sorted: bool,
    comment: str,
    has_ours: bool,
) -> None:
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    if annotations:
        metadata["annotations"] = {**annotations, **({KEY: "before"} if has_ours else {})}
    dumped = yaml.safe_dump(
        pod, indent=indent, sort_keys=is_sorted, allow_unicode=True, default_flow_style=False
    )
    content = (comment + dumped + comment).encode()
    try:
        after = annotate(content)
    except BadManifest:
        return
    before = yaml.safe_load(content)  # what PyYAML dumps is not always what it loads
    expected = dict(before["metadata"].get("annotations") or {}) | {KEY: "20261126T190000Z"}
    assert yaml.safe_load(after) == {
        **before,
        "metadata": {**before["metadata"], "annotations": expected},
    }
    assert after.count(KEY.encode()) == 1
    before_lines, after_lines = content.split(b"\n"), after.split(b"\n")
    kept = [line for line in after_lines if KEY.encode() not in line]
    if not annotations:
        kept.remove(next(line for line in kept if line.strip() == b"annotations:"))
    assert kept == [line for line in before_lines if KEY.encode() not in line]


def test_flags_and_probe() -> None:
    manifest = Manifest(content=APISERVER)
    assert manifest.flag("secure-port") == "6443"
    assert manifest.flag("secure") == ""
    probe = manifest.probe()
    assert probe is not None
    assert (probe.scheme, probe.host, probe.port, probe.path) == (
        "https",
        "10.0.0.1",
        6443,
        "/livez",
    )
    assert Manifest(content=SCHEDULER).probe() is None
