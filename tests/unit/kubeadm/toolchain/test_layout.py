"""The parts of an image: only what its digest leads to, for the right machine."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base.errors import ImageNotFound
from kbuild.base.files import BROKEN
from kbuild.kubeadm.model import ImageLayout
from kbuild.kubeadm.toolchain import layout
from kbuild.kubeadm.toolchain.errors import ImageUnusable
from kbuild.kubeadm.toolchain.layout import Blob, archive_of, fetch_layout, read_layout
from tests.support.mutations import damaged, restructured
from tests.support.recorder import Recorder
from tests.support.registry import OCI, Image, descriptor, digest_of, make_image, registry_of

LAYER = b"the layer for amd64"


def read(image: Image, folder: Path, arch: str = "amd64") -> ImageLayout:
    def get(blob: Blob) -> Path:
        path = folder / blob.digest.removeprefix("sha256:")
        path.write_bytes(image.blobs[blob.digest])
        return path

    return read_layout(f"golang@{image.digest}", arch, get)


@pytest.mark.parametrize("index", [True, False])
def test_the_digest_leads_to_all_parts(index: bool, tmp_path: Path) -> None:
    arches = ("amd64", "arm64") if index else ("amd64",)
    image = make_image(*arches, index=index)
    found = read(image, tmp_path)
    assert (found.image, found.arch) == (f"golang@{image.digest}", "amd64")
    assert found.manifest == image.blob("amd64", "manifest")
    assert found.config == image.blob("amd64", "config")
    assert found.layers == (image.blob("amd64", "layer"),)
    assert set(found.blobs) == {image.digest, *image.parts["amd64"].values()}


@pytest.mark.parametrize(("arch", "variant"), [("arm", "v7"), ("arm64", "v8"), ("amd64", "")])
def test_the_usual_variant_is_taken(arch: str, variant: str, tmp_path: Path) -> None:
    assert read(make_image(arch, platform={"variant": variant}), tmp_path, arch).arch == arch


@pytest.mark.parametrize(("arch", "variant"), [("arm", "v5"), ("amd64", "v3")])
def test_another_variant_is_none(arch: str, variant: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no image for linux/{arch}"):
        read(make_image(arch, platform={"variant": variant}), tmp_path, arch)


def two_layers(kind: str = "layer.v1.tar+gzip", **more: Any) -> dict[str, Any]:
    return {"layers": [descriptor(LAYER, kind, **more)] * 2}


HOSTILE: dict[str, Callable[[], Image]] = {
    "no image for linux/amd64": lambda: make_image("s390x"),
    "it is not for linux/amd64": lambda: make_image("amd64", config={"architecture": "arm64"}),
    "is not for linux/amd64": lambda: make_image("amd64", config={"os": "windows"}, index=False),
    "its layers are not": lambda: make_image("amd64", manifest=two_layers()),
    "layers are not those": lambda: make_image(
        "amd64", manifest={"layers": []}, config={"rootfs": {"diff_ids": []}}
    ),
    "type 'application/vnd.oci.image.layer.nondistributable": lambda: make_image(
        "amd64", manifest=two_layers("layer.nondistributable.v1.tar")
    ),
    "type 'application/vnd.oci.image.config": lambda: make_image(
        "amd64", manifest=two_layers("config.v1+json")
    ),
    "'../../etc/passwd' is not a digest": lambda: make_image(
        "amd64", manifest=two_layers(digest="../../etc/passwd")
    ),
    "'sha512:aa' is not a digest": lambda: make_image(
        "amd64", manifest=two_layers(digest="sha512:aa")
    ),
    "has not the size": lambda: make_image(
        "amd64", manifest={"layers": [descriptor(LAYER, "layer.v1.tar", size=3)]}
    ),
    "is not a number": lambda: make_image("amd64", manifest=two_layers(size="19")),
    "its manifest is old": lambda: make_image("amd64", manifest={"schemaVersion": 1}),
    "manifest is old": lambda: make_image(
        "amd64", index=False, manifest={"mediaType": f"{OCI}.index.v1+json"}
    ),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_broken_image_is_refused(reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        read(HOSTILE[reason](), tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"manifests": 1}', b'{"manifests": [1]}'])
def test_what_is_no_manifest_is_refused(content: bytes, tmp_path: Path) -> None:
    image = Image(digest_of(content), {digest_of(content): content})
    with pytest.raises(BROKEN):
        read(image, tmp_path)


def test_a_document_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_DOCUMENT", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read(make_image("amd64"), tmp_path)


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_a_part_that_is_listed_as_too_large_is_not_fetched(part: str, tmp_path: Path) -> None:
    more = {"filler": "x" * layout.MAX_DOCUMENT}
    image = make_image("amd64", **{part: more})  # type: ignore[arg-type]
    digest = image.blob("amd64", part)
    with registry_of(image.blobs) as registry:
        name = f"{registry.address}/golang@{image.digest}"
        with pytest.raises(ImageUnusable, match=f"{digest} is larger than"):
            fetch_layout(name, "amd64", tmp_path / "blobs", Recorder())
        assert not any(digest in path for path in registry.asked)


@pytest.mark.parametrize("part", ["manifest", "index"])
def test_a_first_document_that_is_too_large_is_told(part: str, tmp_path: Path) -> None:
    image = make_image("amd64", manifest={"filler": "x" * layout.MAX_DOCUMENT}, index=False)
    if part == "index":
        content = json.dumps({"manifests": [], "filler": "x" * layout.MAX_DOCUMENT}).encode()
        image = Image(digest_of(content), {digest_of(content): content})
    with registry_of(image.blobs) as registry, pytest.raises(ImageUnusable, match="is larger than"):
        name = f"{registry.address}/golang@{image.digest}"
        fetch_layout(name, "amd64", tmp_path / "blobs", Recorder())


def test_only_the_parts_for_an_architecture_are_fetched(tmp_path: Path) -> None:
    image = make_image("amd64", "arm64")
    with registry_of(image.blobs) as registry:
        name = f"{registry.address}/golang:1.15.5@{image.digest}"
        found = fetch_layout(name, "arm64", tmp_path / "blobs", Recorder())
        parts = image.parts["arm64"]
        assert registry.asked == [
            "/v2/",
            f"/v2/golang/manifests/{image.digest}",
            f"/v2/golang/manifests/{parts['manifest']}",
            f"/v2/golang/blobs/{parts['config']}",
            f"/v2/golang/blobs/{parts['layer']}",
        ]
        again = fetch_layout(name, "arm64", tmp_path / "blobs", Recorder())
        assert len(registry.asked) == 5
    assert again == found
    assert found.image == name
    for digest, path in found.blobs.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest.removeprefix("sha256:")


def test_an_image_that_no_bundle_can_have_is_told(tmp_path: Path) -> None:
    image = make_image("amd64")
    with registry_of(image.blobs) as registry, pytest.raises(ImageUnusable, match="linux/s390x"):
        name = f"{registry.address}/golang@{image.digest}"
        fetch_layout(name, "s390x", tmp_path / "blobs", Recorder())


def test_a_layer_that_the_registry_has_changed_is_refused(tmp_path: Path) -> None:
    image = make_image("amd64")
    image.blobs[image.blob("amd64", "layer")] = b"evil"
    with registry_of(image.blobs) as registry, pytest.raises(ImageNotFound):
        name = f"{registry.address}/golang@{image.digest}"
        fetch_layout(name, "amd64", tmp_path / "blobs", Recorder())
    assert not (tmp_path / "blobs" / image.blob("amd64", "layer")[7:]).exists()


def test_the_archive_is_one_for_every_engine(tmp_path: Path) -> None:
    image = make_image("amd64", "arm64")
    found = read(image, tmp_path)
    archive = b"".join(archive_of(found))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert subprocess.run(("tar", "-t"), input=archive, capture_output=True, check=True).stdout
    blobs = {part: f"blobs/sha256/{digest[7:]}" for part, digest in image.parts["amd64"].items()}
    assert set(files) == {"oci-layout", "index.json", "manifest.json", *blobs.values()}
    for name in blobs.values():
        assert digest_of(files[name]) == f"sha256:{name[13:]}"
    assert json.loads(files["manifest.json"]) == [
        {"Config": blobs["config"], "RepoTags": None, "Layers": [blobs["layer"]]}
    ]
    [manifest] = json.loads(files["index.json"])["manifests"]
    assert manifest["digest"] == found.manifest
    assert manifest["size"] == len(files[blobs["manifest"]])
    assert manifest["mediaType"] == f"{OCI}.manifest.v1+json"


@pytest.mark.slow
@given(data=st.data(), part=st.sampled_from(["index", "manifest", "config"]))
def test_a_document_of_any_shape_is_read_or_refused(data: st.DataObject, part: str) -> None:
    image = make_image("amd64")
    digest = image.digest if part == "index" else image.blob("amd64", part)
    text = image.blobs[digest]
    changed = data.draw(st.one_of(restructured(text), damaged(text)))
    with tempfile.TemporaryDirectory() as folder:

        def get(blob: Blob) -> Path:
            path = Path(folder, blob.digest.removeprefix("sha256:"))
            path.write_bytes(changed if blob.digest == digest else image.blobs[blob.digest])
            return path

        try:
            found = read_layout(f"golang@{image.digest}", "amd64", get)
        except (OSError, *BROKEN):
            return
        assert found.config == image.blob("amd64", "config")
        assert found.layers == (image.blob("amd64", "layer"),)
