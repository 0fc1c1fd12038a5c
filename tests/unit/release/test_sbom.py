"""The SBOM: NTIA's minimum elements, licenses, purls, and the same bytes for the same source."""

import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ntia_conformance_checker import NTIAChecker
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from kbuild.base.errors import NotKubernetes
from kbuild.release.licenses import license_id, license_of
from kbuild.release.sbom import sbom_text, staging_version, supplier_of
from tests.support.goelf import MODULES
from tests.support.licenses import APACHE, BSD_2, BSD_3, ISC, MIT, MPL
from tests.support.releases import NOON, make_binaries, make_release

CASED = "github.com/PuerkitoBio/purell"


def packages_of(path: Path) -> dict[str, dict[str, Any]]:
    return {package["name"]: package for package in json.loads(path.read_text())["packages"]}


def purl(package: dict[str, Any]) -> str:
    [reference] = package["externalRefs"]
    return str(reference["referenceLocator"])


def vendor(tree: Path, folder: str, *texts: str) -> None:
    (tree / folder).mkdir(parents=True, exist_ok=True)
    for name, text in zip(("LICENSE", "LICENSE.docs"), texts, strict=False):
        (tree / folder / name).write_text(text)


@pytest.fixture
def sbom(tmp_path: Path) -> Path:
    tree = tmp_path / "work"
    vendor(tree, ".", APACHE)
    vendor(tree, "vendor/github.com/spf13/cobra", APACHE)
    vendor(tree, f"vendor/{CASED}", BSD_3)
    vendor(tree, "staging/src/k8s.io/client-go", APACHE)
    return make_release(tree, tmp_path / "out") / "kubeadm-amd64.spdx.json"


def test_the_sbom_is_valid_and_has_ntias_minimum_elements(sbom: Path) -> None:
    assert validate_full_spdx_document(parse_file(str(sbom))) == []
    checker = NTIAChecker(str(sbom))
    assert checker.compliant, checker.ntia_minimum_elements_compliant
    for package in packages_of(sbom).values():
        assert package["supplier"].startswith("Organization: ")
        assert package["versionInfo"]
        assert purl(package)


def test_suppliers_are_the_owners_of_the_modules_paths(sbom: Path) -> None:
    found = {name: package["supplier"] for name, package in packages_of(sbom).items()}
    assert found == {
        "kubeadm": "Organization: kbuild",
        "stdlib": "Organization: The Go Authors",
        "github.com/spf13/cobra": "Organization: github.com/spf13",
        CASED: "Organization: github.com/PuerkitoBio",
        "k8s.io/client-go": "Organization: The Kubernetes Authors",
    }
    assert supplier_of("golang.org/x/net") == "The Go Authors"
    assert supplier_of("gopkg.in/yaml.v2") == "gopkg.in"
    assert supplier_of("sigs.k8s.io/yaml") == "The Kubernetes Authors"


def test_licenses_are_those_of_the_vendored_license_files(sbom: Path) -> None:
    found = {name: package["licenseDeclared"] for name, package in packages_of(sbom).items()}
    assert found == {
        "kubeadm": "Apache-2.0",
        "stdlib": "BSD-3-Clause",
        "github.com/spf13/cobra": "Apache-2.0",
        CASED: "BSD-3-Clause",
        "k8s.io/client-go": "Apache-2.0",
    }


def test_purls_are_what_scanners_look_for(sbom: Path) -> None:
    found = {name: purl(package) for name, package in packages_of(sbom).items()}
    assert found == {
        "kubeadm": "pkg:golang/k8s.io/kubernetes@v1.20.2#cmd/kubeadm",
        "stdlib": "pkg:golang/stdlib@1.15.15",
        "github.com/spf13/cobra": "pkg:golang/github.com/spf13/cobra@v1.1.1",
        CASED: "pkg:golang/github.com/puerkitobio/purell@v1.1.1",
        "k8s.io/client-go": "pkg:golang/k8s.io/client-go@v0.20.2",
    }
    assert all(PackageURL.from_string(each).to_string() == each for each in found.values())
    assert packages_of(sbom)["k8s.io/client-go"]["versionInfo"] == "v0.20.2"


@pytest.mark.parametrize("version", ["(devel)", "v0.0.0"])
def test_a_staging_module_of_a_workspace_has_its_published_version(
    version: str, tmp_path: Path
) -> None:
    modules = MODULES.partition("dep\tk8s.io/client-go")[0] + f"dep\tk8s.io/api\t{version}\t\n"
    vendor(tmp_path / "work", "staging/src/k8s.io/api", APACHE)
    folder = make_release(tmp_path / "work", tmp_path / "out", modules=modules)
    api = packages_of(folder / "kubeadm-amd64.spdx.json")["k8s.io/api"]
    assert purl(api) == "pkg:golang/k8s.io/api@v0.20.2"
    assert api["licenseDeclared"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v1.20.2", "v0.20.2"),
        ("v1.31.0-rc.1", "v0.31.0-rc.1"),
        ("v1.17.0", "v0.17.0"),
        ("v1.16.4", "kubernetes-1.16.4"),
    ],
)
def test_staging_modules_are_published_with_a_version_of_their_own(tag: str, version: str) -> None:
    assert staging_version(tag) == version


def test_the_same_source_gives_the_same_sbom_from_any_path_mirror_cache_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    origins = {
        "first": "https://github.com/kubernetes/kubernetes.git",
        "second": str(tmp_path / "a mirror"),
        "third": "https://u:p@mirror.example/k.git?x",
    }
    for name, origin in origins.items():
        tree = tmp_path / name
        vendor(tree, "vendor/github.com/spf13/cobra", MIT)
        monkeypatch.setenv("TZ", {"first": "UTC"}.get(name, "Asia/Tokyo"))
        folder = make_release(
            *(tree, tmp_path / f"out-{name}"),
            origin=origin,
            source=origin,
            lock=tmp_path / name / "lock",
        )
        found.add((folder / "kubeadm-amd64.spdx.json").read_bytes())
    assert len(found) == 1


def test_the_build_date_is_the_only_clock_of_the_sbom(tmp_path: Path) -> None:
    binary = make_binaries(tmp_path)[0]
    first, second = (
        sbom_text(
            replace(binary, stamp=replace(binary.stamp, build_date=NOON + timedelta(hours=hours)))
        )
        for hours in (0, 1)
    )
    assert first.replace("T12:00:00Z", "T13:00:00Z") == second
    assert "with kubeadm.patch applied" in first
    stock = replace(binary, tree=replace(binary.tree, patches=()))
    assert "kubeadm.patch" not in sbom_text(stock)


def test_an_old_tree_names_its_packages_by_the_commits_of_godeps(tmp_path: Path) -> None:
    tree = tmp_path / "work"
    (tree / "Godeps").mkdir(parents=True)
    deps = [{"ImportPath": "github.com/spf13/cobra", "Rev": "c" * 40}]
    (tree / "Godeps/Godeps.json").write_text(json.dumps({"Deps": deps}))
    vendor(tree, "vendor/github.com/spf13", MIT)
    path = make_release(tree, tmp_path / "out", modules="") / "kubeadm-amd64.spdx.json"
    cobra = packages_of(path)["github.com/spf13/cobra"]
    assert purl(cobra) == f"pkg:golang/github.com/spf13/cobra@{'c' * 40}"
    assert cobra["licenseDeclared"] == "MIT"  # of the nearest folder above it
    (tree / "Godeps/Godeps.json").write_text('{"Deps": [1]}')
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(NotKubernetes, match="Godeps"):
        make_release(tree, tmp_path / "out", modules="")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (APACHE, "Apache-2.0"),
        (MIT, "MIT"),
        (MIT.upper().replace(" ", "\n\t"), "MIT"),
        (BSD_2, "BSD-2-Clause"),
        (BSD_3, "BSD-3-Clause"),
        (ISC, "ISC"),
        (MPL, "MPL-2.0"),
        (f"{MPL}\nGNU General Public License, Version 2.0", "MPL-2.0"),
        (f"{MIT}\n{APACHE}", None),
        (f"{MIT}\nor the GNU General Public License", None),
        (f"{APACHE}\nwith the Commons Clause", None),
        (f"{BSD_3}\nAll advertising materials mentioning features of this software", None),
        (MIT.replace("free of charge", "for a fee"), None),
        ("All rights reserved.", None),
        ("", None),
    ],
)
def test_a_license_is_told_only_where_it_is_certain(text: str, expected: str | None) -> None:
    assert license_id(text) == expected


@pytest.mark.parametrize("kind", ["two licenses", "link", "pipe", "huge", "folder", "none"])
def test_a_license_file_that_is_odd_gives_no_license(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "tree/vendor/x.example/module"
    folder.mkdir(parents=True)
    file = folder / "LICENSE"
    match kind:
        case "two licenses":
            vendor(tmp_path / "tree", "vendor/x.example/module", MIT, BSD_2)
        case "link":
            (tmp_path / "elsewhere").write_text(MIT)
            file.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(file)
        case "huge":
            file.write_text(MIT + " " * (1 << 20))
        case "folder":
            file.mkdir()
        case _:
            assert not file.exists()
    assert license_of(tmp_path / "tree", "vendor/x.example/module") is None
    vendor(tmp_path / "tree", "vendor/y.example/module", MIT, MIT)
    assert license_of(tmp_path / "tree", "vendor/y.example/module") == "MIT"
