"""The command line as a user meets it, in a home of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kbuild.base.workspace import open_workspace
from tests.support.command import Done, run_here
from tests.support.failures import outcome
from tests.support.fake_go import write_go_root
from tests.support.hostile_servers import hostile_server, silence
from tests.support.http import served
from tests.support.releases import make_release
from tests.support.repositories import git, make_repository
from tests.support.servers import free_port
from tests.support.trees import content_of

KBUILD = Path(sys.executable).with_name("kbuild")
YEARS = ("--ca-years", "100", "--leaf-years", "10")
Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    home = tmp_path / "home"
    home.mkdir()

    def kbuild(*words: str, **environment: str) -> Done:
        return run_here(*words, cwd=home, **{"HOME": str(home), **environment})

    return kbuild


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    return folder, make_repository(folder, ("v1.20.2", "v1.30.0", "v1.31.0-alpha.1", "v1.31.0"))


@pytest.mark.parametrize(
    ("words", "kind", "what"),
    [
        (("--ca-years", "293", "--leaf-years", "1"), "bad-setting", "ca-years cannot be '293'"),
        (("--ca-years", "0", "--leaf-years", "1"), "bad-setting", "ca-years cannot be '0'"),
        (("--ca-years", "-1", "--leaf-years", "1"), "bad-setting", "ca-years cannot be '-1'"),
        (("--ca-years", "1.5", "--leaf-years", "1"), "bad-setting", "ca-years cannot be '1.5'"),
        (("--ca-years", "10", "--leaf-years", "20"), "leaf-outlives-ca", "would outlive their CA"),
        (("--ca-years", "10"), "missing-setting", "missing: --leaf-years"),
        (
            (*YEARS, "--version", "nonsense"),
            "bad-version",
            "'nonsense' is not a Kubernetes version",
        ),
        ((*YEARS, "--version", "v1.12.0"), "unsupported-version", "v1.12.0 is older than v1.13.0"),
        ((*YEARS, "--arch", "riscv64"), "bad-setting", "arch cannot be 'riscv64'"),
        ((*YEARS, "--builder", "podman"), "bad-setting", "builder cannot be 'podman'"),
        ((*YEARS, "--build-date", "soon"), "bad-setting", "build-date cannot be 'soon'"),
        ((*YEARS, "--config", "absent.toml"), "bad-settings-file", "absent.toml cannot be read"),
    ],
)
def test_bad_input_is_told_in_a_line_with_a_hint(
    words: tuple[str, ...], kind: str, what: str, run: Run
) -> None:
    done = run("kubeadm", "--version", "v1.20.2", *words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    first, second = done.stderr.splitlines()[:2]
    assert first.startswith(f"error[{kind}]: ")
    assert what in first
    assert second.startswith("hint: ")
    assert "Traceback" not in done.stderr


def test_an_unknown_variable_is_an_error(run: Run) -> None:
    done = run("versions", KBUILD_SOURC="x")
    assert outcome(done) == (2, "unknown-setting")
    assert "did you mean KBUILD_SOURCE?" in done.stderr


def test_an_unknown_flag_is_a_usage_error(run: Run) -> None:
    done = run("kubeadm", "--yeras", "3", "--json")
    assert outcome(done) == (2, "usage")
    assert "error[usage]: No such option: --yeras" in done.stderr
    assert "hint: see `kbuild kubeadm --help`" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["todo"]) == ("usage", "see `kbuild kubeadm --help`")


def test_an_unknown_flag_of_kbuild_itself_is_a_usage_error(run: Run) -> None:
    done = run("--yeras", "--json")
    assert outcome(done) == (2, "usage")
    assert "hint: see `kbuild --help`" in done.stderr


@pytest.mark.slow
def test_a_missing_tag_is_told_with_the_nearest(
    run: Run, repository: tuple[Path, dict[str, str]]
) -> None:
    missing = run("kubeadm", *YEARS, "--version", "v1.20.3", "--source", str(repository[0]))
    assert outcome(missing) == (20, "tag-not-found")
    assert "the nearest is v1.20.2" in missing.stderr


def test_a_failure_with_json_is_one_document(run: Run) -> None:
    done = run("kubeadm", *YEARS, "--version", "nonsense", "--json")
    assert json.loads(done.stdout)["error"] == {
        "kind": "bad-version",
        "exit_code": 2,
        "what": "'nonsense' is not a Kubernetes version",
        "todo": "give a tag such as v1.23.0, 1.23.0, v1.31.0-rc.1, a minor such as 1.23, stable"
        " or latest",
        "details": "",
    }


def test_a_failure_with_json_from_the_environment_is_one_document_too(run: Run) -> None:
    done = run("kubeadm", *YEARS, "--version", "nonsense", KBUILD_JSON="1")
    assert json.loads(done.stdout)["error"]["kind"] == "bad-version"


@pytest.mark.slow
def test_versions_may_begin_somewhere_and_be_the_newest_only(
    run: Run, repository: tuple[Path, dict[str, str]]
) -> None:
    def listed(*words: str) -> list[str]:
        done = run("versions", "--source", str(repository[0]), "--pre-releases", "--json", *words)
        assert done.returncode == 0, done.stderr
        return [each["tag"] for each in json.loads(done.stdout)["versions"]]

    every = listed()
    assert len(every) > 2
    assert listed("--since", every[1]) == every[1:]
    minor = ".".join(every[-1].split(".")[:2])
    assert listed("--since", minor) == [tag for tag in every if tag.startswith(f"{minor}.")]
    newest = listed("--newest")
    assert len(newest) == len({tag.split(".")[1] for tag in every})
    assert newest[-1] == every[-1]
    assert outcome(run("versions", "--since", "1.24.x")) == (2, "bad-version")
    assert outcome(run("versions", "--since", "1.2")) == (2, "unsupported-version")


def test_versions_lists_the_tags_and_how_each_is_patched(
    run: Run, repository: tuple[Path, dict[str, str]]
) -> None:
    folder, commits = repository
    listed = json.loads(run("versions", "--source", str(folder), "--json").stdout)
    assert [(v["tag"], v["series"]) for v in listed["versions"]] == [
        ("v1.20.2", ["1.15"]),
        ("v1.30.0", ["1.15"]),
        ("v1.31.0", ["1.31"]),
    ]
    assert listed["versions"][0]["commit"] == commits["v1.20.2"]
    text = run("versions", "--source", str(folder), "--pre-releases").stdout
    assert "v1.31.0-alpha.1" in text
    assert "1.15 or 1.31" in text


def test_a_dry_run_tells_and_does_nothing(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, commits = repository
    words = ("kubeadm", *YEARS, "--version", "1.20", "--source", str(folder), "--builder", "local")
    done = run(*words, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "dry_run": True,
        "tag": "v1.20.2",
        "commit": commits["v1.20.2"],
        "series": ["1.15"],
        "ca_years": 100,
        "leaf_years": 10,
        "stored_defaults": None,
        "arches": ["amd64"],
        "builder": "local",
        "go": "1.15.5",
        "go_root": None,
        "patches": ["client-go-ca.patch", "kubeadm-leaf-constant.patch"],
        "output": "dist/v1.20.2",
        "notes": [],
        "not_examined": ["Go 1.15.5 itself"],
    }
    assert not (tmp_path / "home/dist").exists()
    assert list((tmp_path / "home/.cache/kbuild/v1/work").iterdir()) == []
    shown = run(*words, "--dry-run", "--stored-defaults", "override").stdout
    assert "go              1.15.5, pinned in " in shown
    assert "The patches fit." in shown
    assert "stored" not in shown


def edited(repository: Path, tmp_path: Path) -> Path:
    """Return a copy of the repository in which v1.20.2 has another lifetime already."""
    copy = tmp_path / "edited"
    subprocess.run(["cp", "-r", repository, copy], check=True)
    subprocess.run(["git", "checkout", "-q", "v1.20.2"], cwd=copy, check=True)
    cert = copy / "staging/src/k8s.io/client-go/util/cert/cert.go"
    cert.write_text(cert.read_text().replace("duration365d * 10", "duration365d * 100"))
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *identity, "commit", "-qam", "edit"], cwd=copy, check=True)
    subprocess.run(["git", "tag", "-f", "v1.20.2"], cwd=copy, check=True, capture_output=True)
    return copy


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("--go-root", "go"), 0, ""),
        (("--go-root", "go", "--go-version", "1.15.6"), 30, "wrong-go"),
        (("--go-root", "nothing"), 30, "go-not-found"),
        (("--go-root", "go", "--version", "1.30"), 30, "wrong-go"),
        (("--go-version", "1.10.1"), 30, "go-too-old"),
    ],
)
def test_a_dry_run_examines_the_go_that_would_build(
    run: Run,
    repository: tuple[Path, dict[str, str]],
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    kind: str,
) -> None:
    write_go_root(tmp_path / "home/go")
    version = () if "--version" in words else ("--version", "1.20")
    words = ("kubeadm", *YEARS, *version, "--source", str(repository[0]), *words)
    done = run(*words, "--builder", "local", "--dry-run", "--json")
    assert outcome(done) == (code, kind), done.stderr
    if not kind:
        found = json.loads(done.stdout)
        assert (found["go"], found["go_root"], found["not_examined"]) == ("1.15.5", "1.15.5", [])


def test_a_dry_run_says_what_it_did_not_examine_of_a_source_elsewhere(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    write_go_root(tmp_path / "home/go")
    bare = tmp_path / "bare"
    subprocess.run(["git", "clone", "-q", "--bare", repository[0], bare], check=True)
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True)
    with served(bare) as address:
        words = ("kubeadm", *YEARS, "--version", "1.20", "--source", address, "--go-root", "go")
        done = run(*words, "--builder", "local", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "go root         1.15.5" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "Not examined: the files of the tag, whether the patch fits them, the Go that it pins."
    )


def test_a_dry_run_refuses_a_tree_that_no_patch_fits(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    copy = edited(repository[0], tmp_path)
    words = ("kubeadm", *YEARS, "--version", "v1.20.2", "--source", str(copy))
    done = run(*words, "--builder", "local", "--dry-run")
    assert outcome(done) == (40, "no-patch-fits"), done.stderr


@pytest.mark.parametrize("words", [(), ("--stored-defaults", "keep")])
def test_a_dry_run_of_1_31_tells_what_becomes_of_stored_defaults(
    run: Run, repository: tuple[Path, dict[str, str]], words: tuple[str, ...]
) -> None:
    words = ("kubeadm", *YEARS, "--version", "v1.31.0", "--source", str(repository[0]), *words)
    expected = "keep" if "keep" in words else "override"
    planned = run(*words, "--builder", "local", "--dry-run", "--json")
    assert json.loads(planned.stdout)["stored_defaults"] == expected
    shown = run(*words, "--builder", "local", "--dry-run").stdout
    assert f"stored defaults {expected}" in shown


def test_a_dry_run_of_a_stock_build_names_no_patch(
    run: Run, repository: tuple[Path, dict[str, str]]
) -> None:
    words = ("kubeadm", "--stock", "--version", "1.20", "--source", str(repository[0]))
    done = run(*words, "--builder", "local", "--dry-run", "--json")
    assert json.loads(done.stdout)["series"] == []
    shown = run(*words, "--builder", "local", "--dry-run").stdout
    assert "patch series    none: a stock build is not patched" in shown


def test_the_settings_file_of_the_folder_is_read(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    text = f'source = "{repository[0]}"\nca-years = 30\nleaf-years = 3\nbuilder = "local"\n'
    (tmp_path / "home/kbuild.toml").write_text(text)
    done = run("kubeadm", "--version", "1.30", "--dry-run", "--json", KBUILD_LEAF_YEARS="4")
    plan = json.loads(done.stdout)
    assert (plan["tag"], plan["ca_years"], plan["leaf_years"]) == ("v1.30.0", 30, 4)


@pytest.mark.slow
def test_an_edited_tree_is_refused_and_nothing_is_left(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    copy = edited(repository[0], tmp_path)
    go_root = tmp_path / "go"
    (go_root / "bin").mkdir(parents=True)
    (go_root / "bin/go").write_text("#!/bin/sh\necho go version go1.15.5 linux/amd64\n")
    (go_root / "bin/go").chmod(0o755)
    done = run(
        *("kubeadm", *YEARS, "--version", "v1.20.2", "--source", str(copy)),
        *("--builder", "local", "--go-root", str(go_root)),
    )
    assert outcome(done) == (40, "no-patch-fits"), done.stderr
    assert "cert.go does not hold" in done.stderr
    assert "duration365d * 10)" in done.stderr
    assert not (tmp_path / "home/dist").exists()
    assert list((tmp_path / "home/.cache/kbuild/v1/work").iterdir()) == []


def test_an_engine_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    done = run(
        *("kubeadm", *YEARS, "--version", "v1.20.2", "--builder", "docker"),
        *("--source", f"git://127.0.0.1:{free_port()}/x"),
        DOCKER_HOST=f"unix://{tmp_path}/absent.sock",
    )
    assert outcome(done) == (50, "engine-missing"), done.stderr


@pytest.mark.parametrize("kind", ["script", "absent", "folder"])
def test_verify_refuses_what_is_no_kubeadm(kind: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "kubeadm"
    if kind == "script":
        path.write_text("#!/bin/sh\necho v1.20.2\n")
        path.chmod(0o755)
    elif kind == "folder":
        path.mkdir()
    done = run("verify", str(path), *YEARS)
    assert outcome(done) == (70, "wrong-binary"), done.stderr
    assert "hint: " in done.stderr


def test_a_source_that_stalls_is_told_after_the_time_that_was_set(run: Run) -> None:
    with hostile_server(silence) as server:
        source = f"{server.address}/kubernetes-src.tar.gz"
        done = run("versions", "--source", source, "--stall-timeout", "1", KBUILD_STALL_TIMEOUT="9")
    assert outcome(done) == (20, "source-unreachable"), done.stderr
    assert done.stderr.count("trying again") == 3
    assert "it stalled: fewer than 1000 bytes a second for 1 s (--stall-timeout)" in done.stderr


def test_no_colour_and_no_bars_in_a_pipe(run: Run, repository: tuple[Path, dict[str, str]]) -> None:
    done = run("versions", "--source", str(repository[0]), TERM="xterm-256color")
    assert "\x1b" not in done.stdout + done.stderr


def test_the_own_version_is_told(run: Run) -> None:
    assert run("--version").stdout.startswith("kbuild ")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("kubeadm", "extra", "--json"), "usage"),
        (("nosuch", "--json"), "usage"),
        (("pins", "list", "--json", "x"), "bad-setting"),
    ],
)
def test_every_failure_with_json_is_one_document(
    words: tuple[str, ...], kind: str, run: Run
) -> None:
    done = run(*words)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, 2)


def test_the_pins_are_one_document_with_and_without_a_subcommand(run: Run) -> None:
    listed = run("pins", "list", "--json")
    assert run("pins", "--json").stdout == run("pins", "--json", "list").stdout == listed.stdout
    pins = json.loads(listed.stdout)["pins"]
    assert {tuple(pin) for pin in pins} == {("go_version", "repository", "digest", "origin")}
    assert {pin["origin"] for pin in pins} == {"shipped"}


@pytest.mark.parametrize(
    "words",
    [
        *(("certs", ""), ("check", ""), ("verify", ""), ("rebuild", ""), ("certs", "/tmp", "")),
        ("export", "sealos", "", "--base-url", "https://example.invalid"),
    ],
)
def test_an_empty_argument_is_not_the_current_directory(words: tuple[str, ...], run: Run) -> None:
    done = run(*words)
    assert outcome(done) == (2, "usage"), done.stderr
    assert done.stderr.splitlines()[0].endswith("': it is empty")


def test_rebuild_takes_addresses_from_the_user_and_not_from_the_provenance(
    run: Run, tmp_path: Path
) -> None:
    made = make_release(tmp_path / "work", tmp_path / "v1.20.2")
    words = ("rebuild", str(made / "provenance.json"), "--builder", "local")
    done = run(*words)
    assert outcome(done) == (90, "address-not-allowed")
    assert "source 'https://example.invalid/kubernetes.git'" in done.stderr
    assert "--source" in done.stderr
    (tmp_path / "home/kbuild.toml").write_text('source = "/nowhere"\n')
    for given in (run(*words), run(*words, KBUILD_SOURCE="/nowhere")):
        assert outcome(given) == (20, "not-kubernetes"), given.stderr
        assert "/nowhere" in given.stderr


def test_rebuild_reads_no_settings_file_that_lies_in_the_release(run: Run, tmp_path: Path) -> None:
    home = make_release(tmp_path / "work", tmp_path / "home")  # where `run` is at home
    (home / "kbuild.toml").write_text('source = "/evil"\nbuilder = "local"\n')
    for name in ("provenance.json", ".", str(home)):
        done = run("rebuild", name)
        assert outcome(done) == (2, "bad-settings-file")
        assert "--config" in done.stderr
    done = run("rebuild", "provenance.json", "--config", "kbuild.toml")
    assert outcome(done) == (20, "not-kubernetes")
    assert "/evil" in done.stderr


@pytest.mark.slow
def test_a_backdoored_archive_is_refused_when_it_is_compared_with_git(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    tree = tmp_path / "kubernetes"
    tree.mkdir()
    git(repository[0], "archive", "--output", str(tmp_path / "genuine.tar"), "v1.20.2")
    subprocess.run(["tar", "-xf", tmp_path / "genuine.tar", "-C", tree], check=True)
    with (tree / "cmd/kubeadm/kubeadm.go").open("a") as file:
        file.write("\nfunc init() { backdoor() }\n")
    archive = tmp_path / "kubernetes.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path, "kubernetes"], check=True)
    done = run(
        *("kubeadm", *YEARS, "--version", "v1.20.2", "--builder", "local"),
        *("--source", str(archive), "--verify-against", str(repository[0])),
    )
    assert outcome(done) == (20, "source-differs"), done.stderr
    assert "cmd/kubeadm/kubeadm.go differs" in done.stderr


@pytest.mark.slow
def test_a_lost_standard_output_is_no_traceback(run: Run, tmp_path: Path) -> None:
    shell = f'"{KBUILD}" pins list --json'
    for where, code, kind in (
        (">&-", 141, ""),
        (">/dev/full", 80, "not-writable"),
        ("| head -n 1", 0, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", f"{shell} {where}"],
            cwd=tmp_path,
            # Without a buffer there is nothing left to be written when Python ends.
            env={name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome(done) == (code, kind), done.stderr
        assert "Traceback" not in done.stderr
    assert run("pins", "list").returncode == 0


@pytest.mark.parametrize("output", ["/proc/x", "n" * 300])
def test_an_output_that_cannot_be_made_is_told_first(
    output: str, run: Run, repository: tuple[Path, dict[str, str]]
) -> None:
    words = ("--version", "1.20", "--source", str(repository[0]), "--builder", "local")
    done = run("kubeadm", *YEARS, *words, "--output", output)
    assert outcome(done) == (80, "not-writable"), done.stderr
    assert "==> toolchain" not in done.stderr


@pytest.mark.slow
def test_a_kbuild_toml_has_a_table_for_each_command(run: Run, tmp_path: Path) -> None:
    example = run("config-file")
    assert example.returncode == 0
    assert json.loads(run("config-file", "--json").stdout)["text"] == example.stdout
    file = tmp_path / "home/kbuild.toml"
    file.write_text(example.stdout.replace('#since = "1.24"', 'since = "new"'))
    assert outcome(run("versions")) == (2, "bad-version")
    assert run("pins", "list").returncode == 0
    file.write_text("[cache.prune]\nmax-size = 5\n")
    done = run("cache", "prune")
    assert outcome(done) == (2, "bad-setting")
    assert "kbuild.toml: [cache.prune] max-size cannot be 5: it must be a size" in done.stderr


def test_sign_and_check_take_their_keys_from_the_environment(run: Run, tmp_path: Path) -> None:
    make_release(tmp_path / "work", tmp_path / "home/made")
    (tmp_path / "home/a.key").write_text("no key")
    assert "give either --key FILE or --keyless" in run("sign", "made").stderr
    assert outcome(run("sign", "made", KBUILD_KEY="a.key")) == (90, "bad-key")
    assert outcome(run("check", "made", KBUILD_CHECK_KEY="a.key")) == (90, "bad-key")
    assert run("check", "made", KBUILD_SIGN_KEY="a.key").returncode == 0


def test_an_option_of_a_group_holds_for_its_commands(run: Run, tmp_path: Path) -> None:
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    (tmp_path / "home/mine").mkdir(mode=0o700)
    assert run("cache", "--cache-dir", "mine", "prune", **engine).returncode == 0
    assert (tmp_path / "home/mine/v1").is_dir()
    assert not (tmp_path / "home/.cache").exists()


def test_every_command_is_described_in_full(run: Run) -> None:
    assert "..." not in run("--help").stdout.partition("Commands:")[2]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("kubeadm",), ("cache",), ("pins", "update"), ("sign",)])
def test_a_switch_has_no_value_in_help(words: tuple[str, ...], run: Run) -> None:
    shown = run(*words, "--help").stdout
    assert "--json" in shown
    assert "<bool>" not in shown


def test_help_tells_the_defaults(run: Run) -> None:
    shown = " ".join(run("kubeadm", "--help", COLUMNS="300").stdout.split())
    for default in ("auto", "amd64", "golang:<pin>", "dist/<version>", "SOURCE_DATE_EPOCH"):
        assert f"Default: {default}" in shown


@pytest.mark.slow
def test_several_versions_are_one_plan(run: Run, repository: tuple[Path, dict[str, str]]) -> None:
    folder, commits = repository
    words = ("kubeadm", *YEARS, "--source", str(folder), "--builder", "local", "--dry-run")
    several = ("--version", "1.20", "--version", "v1.31.0,v1.20.2", "--arch", "arm64,amd64")
    done = run(*words, *several, "--json")
    releases = json.loads(done.stdout)["releases"]
    assert [(r["tag"], r["output"], r["arches"]) for r in releases] == [
        ("v1.20.2", "dist/v1.20.2", ["arm64", "amd64"]),
        ("v1.31.0", "dist/v1.31.0", ["arm64", "amd64"]),
    ]
    assert releases[0]["commit"] == commits["v1.20.2"]
    into = run(*words, *several, "--output", "out", "--json")
    assert [r["output"] for r in json.loads(into.stdout)["releases"]] == [
        "out/v1.20.2",
        "out/v1.31.0",
    ]
    missing = run(*words, "--version", "v1.20.2", "--version", "v1.20.9")
    assert outcome(missing) == (20, "tag-not-found"), missing.stderr


@pytest.mark.parametrize(
    "demand", [("--commit", "0" * 40), ("--source-sha256", "0" * 64)], ids=lambda pair: pair[0]
)
def test_what_is_of_one_version_is_not_for_several(demand: tuple[str, str], run: Run) -> None:
    done = run("kubeadm", *YEARS, "--version", "v1.20.2,v1.21.0", *demand)
    assert outcome(done) == (2, "bad-setting")
    assert "several are asked for" in done.stderr


def test_a_table_has_no_spaces_at_the_end_of_a_line(run: Run, tmp_path: Path) -> None:
    shown = run("cache", DOCKER_HOST=f"unix://{tmp_path}/absent.sock").stdout
    assert len(shown.splitlines()) > 5
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []


def test_the_cache_is_shown_pruned_and_cleared(run: Run, tmp_path: Path) -> None:
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    cache = tmp_path / "home/.cache/kbuild"
    assert run("cache", "prune", "--json", **engine).returncode == 0
    assert not cache.exists()
    with open_workspace(cache):
        pass
    (cache / "v1/logs/v1.20.2-amd64.log").write_text("x" * 5000)
    shown = run("cache", "--json", **engine)
    document = json.loads(shown.stdout)
    assert document["cache_dir"] == str(cache)
    assert {e["kind"]: e["items"] for e in document["entries"]}["logs"] == 1
    assert "logs" in run("cache", **engine).stdout
    assert json.loads(run("cache", "prune", "--json", **engine).stdout)["removed_items"] == 0
    pruned = run("cache", "prune", "--max-size", "1kB", **engine)
    assert pruned.stdout.startswith("1 items removed"), pruned.stderr
    (cache / "v1/logs/v1.log").write_text("x")
    assert json.loads(run("cache", "clear", "--json", **engine).stdout)["left_bytes"] == 0
    assert list((cache / "v1/logs").iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_a_cache_that_no_run_would_use_is_shown_with_a_warning(
    mode: int, run: Run, tmp_path: Path
) -> None:
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    cache = tmp_path / "home/cache"
    with open_workspace(cache):
        pass
    (cache / "v1/logs/v1.log").write_text("x")
    cache.chmod(mode)
    shown = run("cache", "--cache-dir", str(cache), "--json", **engine)
    document = json.loads(shown.stdout)
    assert {e["kind"]: e["items"] for e in document["entries"]}["logs"] == 1
    if mode == 0o777:
        assert "warning: " in shown.stderr
        assert "0777" in document["warning"]
        refused = run("cache", "clear", "--cache-dir", str(cache), **engine)
        assert outcome(refused) == (80, "unsafe-cache")
    else:
        assert shown.stderr == ""
        assert document["warning"] is None


def test_the_home_folder_is_no_cache_and_keeps_its_files(
    run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    home = tmp_path / "home"
    for name in ("work/thesis/text", "git/project/file", "go/bin/gopls"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("mine")
    before = content_of(home)
    build = ("kubeadm", *YEARS, "--version", "1.20", "--source", str(repository[0]), "--dry-run")
    for words in (build, ("cache", "clear"), ("cache", "prune"), ("versions",)):
        done = run(*words, KBUILD_CACHE_DIR=str(home), **engine)
        assert outcome(done) == (80, "not-a-cache"), done.stderr
        assert "--cache-dir" in done.stderr
        assert content_of(home) == before
    shown = run("cache", KBUILD_CACHE_DIR=str(home), **engine)
    assert "warning: " in shown.stderr
    assert content_of(home) == before


@pytest.mark.slow
@pytest.mark.parametrize("output", ["cache/v1/out", "cache"])
def test_an_output_in_the_cache_is_a_usage_error(
    output: str, run: Run, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    words = ("kubeadm", *YEARS, "--version", "1.20", "--source", str(repository[0]), "--dry-run")
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    refused = run(*words, "--cache-dir", "cache", "--output", output, **engine)
    assert outcome(refused) == (2, "bad-setting"), refused.stderr
    assert "inside" in refused.stderr
    done = run(*words, "--cache-dir", "cache", "--output", "deep/below/out", **engine)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["cache"]


@pytest.mark.parametrize(
    "words",
    [("--older-than", "30"), ("--older-than", "-1d"), ("--max-size", "5"), ("--max-size", "")],
)
def test_a_nonsense_age_or_size_is_refused(words: tuple[str, str], run: Run) -> None:
    done = run("cache", "prune", *words)
    assert outcome(done) == (2, "bad-setting"), done.stderr
    assert "write it like" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (
            "versions",
            "--verbose",
            "--source",
            "http://u:{secret}@127.0.0.1:{port}/k.git?t={secret}",
        ),
        ("versions", "--json", "--source", "http://{secret}@127.0.0.1:{port}/k.tar.gz?t={secret}"),
        ("versions", "--json", "u:{secret}@example.invalid:k.git"),
        ("versions", "--source", "u:{secret}@127.0.0.1:k.git"),
        ("versions", "--source", "{secret}@127.0.0.1:k.tar.gz"),
        ("kubeadm", *YEARS, "--version", "https://u:{secret}@example.invalid"),
        ("kubeadm", *YEARS, "--version", "1.20", "--arch", "u:{secret}@example.invalid:k"),
    ],
    ids=str,
)
def test_no_secret_of_an_address_is_printed_by_a_command(words: tuple[str, ...], run: Run) -> None:
    secret, port = "hunter2-correct-horse", str(free_port())
    done = run(*(word.format(secret=secret, port=port) for word in words), GIT_SSH_COMMAND="false")
    assert done.returncode != 0
    assert "example.invalid" in done.stderr or "127.0.0.1" in done.stderr
    assert secret not in done.stdout + done.stderr


def test_an_empty_name_of_a_settings_file_is_none_of_the_folders_file(tmp_path: Path) -> None:
    (tmp_path / "kbuild.toml").write_text("source = '/chosen/by/somebody'\n")
    done = run_here("versions", "--config", "", cwd=tmp_path)
    assert done.returncode == 2
    assert "error[bad-setting]: --config cannot be '': it is empty" in done.stderr


def test_a_long_secret_is_hidden_before_the_address_is_cut(tmp_path: Path) -> None:
    secret = "S3CRET" * 60
    (tmp_path / "kbuild.toml").write_text(f"source = ['https://aws:{secret}@host/k.git']\n")
    done = run_here("versions", cwd=tmp_path)
    assert done.returncode == 2
    assert "S3CRET" not in done.stderr


def test_pins_do_not_propose_a_builder(run: Run, tmp_path: Path) -> None:
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    for words in (("check",), ("update", "1.21.6")):
        done = run("pins", *words, **engine)
        assert outcome(done) == (50, "engine-missing"), done.stderr
        assert "set DOCKER_HOST" in done.stderr
        assert "--builder" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kubeadm", "--stock", "--version", "v1.20.2", "--bundle", "b"),
         "--stock cannot be given: a build from a bundle"),
        (("advise", "--version", "1.33"), "--version cannot be '1.33'"),
        (("nodes", "check", "--hosts", ",,"),
         "--hosts cannot be ',,': one of its commas has nothing before or after it"),
        (("nodes", "check", "--hosts", " "), "--hosts cannot be ' ': it is empty"),
        (("export", "foo", "."), "TOOL cannot be 'foo': it must be one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_as_it_was_typed(
    words: tuple[str, ...], said: str, run: Run
) -> None:
    assert f": {said}" in run(*words).stderr


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("kubeadm", {"--version": "", "--ca-years": "without --stock", "--leaf-years": "without"}),
        ("bundle", {"--version": "", "--output": ""}),
        ("config", {"--version": "", "--ca-years": "", "--leaf-years": ""}),
        ("advise", {"--version": ""}),
        ("verify", {}),
        ("export", {"--base-url": ""}),
        ("pki components", {"--version": ""}),
        ("certs", {}),
    ],
)
def test_the_help_marks_required_options_and_shows_no_types_of_python(
    command: str, required: dict[str, str], run: Run
) -> None:
    shown = run(*command.split(), "--help", COLUMNS="300").stdout
    marked = {line.split()[1]: line for line in shown.splitlines() if "Required" in line}
    assert marked.keys() == required.keys()
    assert all(condition in marked[name] for name, condition in required.items())
    assert not re.search(r"<(list|path|str)", shown)
