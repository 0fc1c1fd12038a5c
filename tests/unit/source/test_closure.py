from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from kbuild.source.closure import is_for_linux, needed_files

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
    "test/utils/pki_helpers.go": b"package utils\n",
    "go.mod": b"",
}
LINK = "vendor/k8s.io/client-go"


def read(names: Collection[str]) -> dict[str, bytes]:
    return {name: TREE[name] for name in names}


def test_what_kubeadm_imports_is_needed_and_nothing_else() -> None:
    needed = needed_files([*TREE, LINK], [LINK], read)
    assert set(TREE) - needed == {
        "cmd/kubeadm/app/app_test.go",
        "cmd/kubeadm/app/app_windows.go",
        "staging/src/k8s.io/client-go/rest/rest.go",
        "vendor/github.com/only/tests/x.go",
        "vendor/github.com/only/windows/x.go",
        "vendor/github.com/never/imported/x.go",
        "pkg/versionother/x.go",
        "test/utils/pki_helpers.go",
    }
    assert LINK in needed


def test_a_cycle_ends_and_each_file_is_read_once() -> None:
    asked: list[str] = []

    def counting(names: Collection[str]) -> dict[str, bytes]:
        asked.extend(names)
        return read(names)

    needed_files(list(TREE), [], counting)
    assert len(asked) == len(set(asked))


def test_names_follow_gos_rule() -> None:
    read_by_go = ("a.go", "a_linux.go", "a_linux_arm64.go", "a_unix.go", "a_arm64.s", "windows.go")
    not_read = ("a_test.go", "a_windows.go", "a_windows_amd64.go", "a_darwin.go", "a_js_wasm.go")
    assert all(is_for_linux(f"x/{name}") for name in read_by_go)
    assert not any(is_for_linux(f"x/{name}") for name in not_read)


@given(st.binary(max_size=300))
def test_no_content_breaks_the_reader(content: bytes) -> None:
    needed_files(["cmd/kubeadm/kubeadm.go"], [], lambda names: dict.fromkeys(names, content))
