import re
import tomllib
from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from kbuild.kubeadm.patching.series import INDEX, patches_folder
from kbuild.kubeadm.source.closure import (
    LINK,
    gather,
    is_for_go,
    is_for_kbuild,
    is_license,
    shipped,
)

MAIN = b"""// Package main. import "not/this"
package main

import "fmt"
import app "k8s.io/kubernetes/cmd/kubeadm/app"
"""
APP = b"""package app

import (
\t"os" // a comment (with a bracket)
\t_ "k8s.io/client-go/util/cert"

\tcobra "github.com/spf13/cobra"
\t. "k8s.io/kubernetes/pkg/version"
\t"k8s.io/kubernetes/pkg/absent"
)

const text = `
"github.com/never/imported"
`
"""
TREE = {
    "cmd/kubeadm/kubeadm.go": MAIN,
    "cmd/kubeadm/app/app.go": APP,
    "cmd/kubeadm/app/app_test.go": b'package app\nimport "github.com/only/tests"\n',
    "cmd/kubeadm/app/app_windows.go": b'package app\nimport "github.com/only/windows"\n',
    "staging/src/k8s.io/client-go/util/cert/cert.go": b"package cert\n",
    "staging/src/k8s.io/client-go/go.mod": b"module k8s.io/client-go\n",
    "staging/src/k8s.io/client-go/rest/rest.go": b"package rest\n",
    "vendor/github.com/spf13/cobra/cobra.go": b'package cobra\nimport "github.com/spf13/pflag"\n',
    "vendor/github.com/spf13/cobra/asm_amd64.s": b"",
    "vendor/github.com/spf13/pflag/flag.go": b'package flag\nimport "github.com/spf13/cobra"\n',
    "vendor/github.com/only/tests/x.go": b"package tests\n",
    "vendor/github.com/only/windows/x.go": b"package windows\n",
    "vendor/github.com/never/imported/x.go": b"package imported\n",
    "vendor/modules.txt": b"",
    "pkg/version/version.go": b"package version\n//go:embed data\nvar x string\n",
    "pkg/version/data/deep/text": b"",
    "pkg/versionother/x.go": b"package versionother\n",
    "build/dependencies.yaml": b"",
    "vendor/github.com/spf13/pflag/README.md": b'import "github.com/never/imported"\n',
    "test/utils/pki_helpers.go": b"package utils\n",
    "go.mod": b"",
    "LICENSE": b"",
    "vendor/github.com/spf13/cobra/LICENSE.txt": b"",
    "vendor/github.com/spf13/pflag/COPYING": b"",
    "vendor/github.com/spf13/pflag/license.go": b"package flag\n",
    "vendor/github.com/spf13/LICENCE": b"",
    "staging/src/k8s.io/client-go/LICENSE": b"",
    "staging/src/k8s.io/api/LICENSE": b"",
    "vendor/github.com/never/imported/LICENSE": b"",
    "test/LICENSE": b"",
}
CLIENT_GO = "vendor/k8s.io/client-go"
MODES = {**dict.fromkeys(TREE, 0o100644), CLIENT_GO: LINK}


def read(names: Collection[str]) -> dict[str, bytes]:
    return {name: TREE.get(name, b"") for name in names}


class Steps:
    """A source that counts how often it is asked, and refuses to be asked twice for a file."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def __call__(self, names: Collection[str]) -> dict[str, bytes]:
        assert not any(step & set(names) for step in self.asked)
        self.asked.append(set(names))
        return read(names)


def test_what_kubeadm_imports_is_needed_and_nothing_else() -> None:
    needed = gather(MODES, read).contents
    assert set(TREE) - needed.keys() == {
        "cmd/kubeadm/app/app_test.go",
        "cmd/kubeadm/app/app_windows.go",
        "staging/src/k8s.io/client-go/rest/rest.go",
        "vendor/github.com/only/tests/x.go",
        "vendor/github.com/only/windows/x.go",
        "vendor/github.com/never/imported/x.go",
        "vendor/github.com/spf13/pflag/README.md",
        "pkg/versionother/x.go",
        "test/utils/pki_helpers.go",
        # licenses of what is not compiled in
        "staging/src/k8s.io/api/LICENSE",
        "vendor/github.com/never/imported/LICENSE",
        "test/LICENSE",
    }
    assert CLIENT_GO in needed


def test_the_licenses_come_with_the_first_request() -> None:
    steps = Steps()
    gather(MODES, steps)
    licenses = {name for name in TREE if is_license(name)}
    assert licenses == {name for name in TREE if "LICEN" in name or "COPYING" in name} - {
        "test/LICENSE"
    }
    assert licenses <= steps.asked[0]


def test_a_cycle_ends_and_each_step_goes_as_far_as_it_can() -> None:
    steps = Steps()
    gather(MODES, steps)
    # All of cmd/kubeadm at once, then what it imports, then what that imports or embeds.
    assert len(steps.asked) == 3


def test_what_is_likely_is_read_at_once_and_needed_only_if_it_is_imported() -> None:
    steps = Steps()
    found = gather(MODES, steps)
    again = Steps()
    guess = [*found.folders, "vendor/github.com/never/imported", "no/such/folder", ""]
    assert gather(MODES, again, guess) == found
    assert len(again.asked) == 2  # the second is for what is embedded
    assert "vendor/github.com/never/imported/x.go" in again.asked[0]


def test_what_the_patches_look_at_is_for_kbuild() -> None:
    index = tomllib.loads((patches_folder() / INDEX).read_text())
    looked_at = set(re.findall(r"[\w./-]+/\w+\.go", str(index)))
    assert looked_at
    assert all(is_for_kbuild(name, 0o100644) for name in looked_at)


def test_the_shipped_folders_are_folders() -> None:
    folders = shipped()
    assert "staging/src/k8s.io/client-go/rest" in folders
    assert all(re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*", folder) for folder in folders)


def test_names_follow_gos_rule() -> None:
    read_by_go = (
        *("a.go", "a_linux.go", "a_linux_arm64.go", "a_unix.go", "a_arm64.s", "windows.go"),
        *("a.c", "a.S", "386.go", "a_mips_x.go"),
    )
    not_read = (
        *("a_test.go", "a_windows.go", "a_windows_amd64.go", "a_darwin.go", "a_js_wasm.go"),
        *("a_386.s", "a_linux_mips64.go", "README.md", "go", "a.go.txt", "BUILD"),
    )
    assert all(is_for_go(f"x/{name}") for name in read_by_go)
    assert not any(is_for_go(f"x/{name}") for name in not_read)


@given(st.binary(max_size=300))
def test_no_content_breaks_the_reader(content: bytes) -> None:
    modes = {"cmd/kubeadm/kubeadm.go": 0o100644}
    gather(modes, lambda names: dict.fromkeys(names, content))
