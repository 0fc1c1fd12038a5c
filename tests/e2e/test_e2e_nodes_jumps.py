"""`kbuild nodes` on hosts that are behind two others, of which each reaches only the next."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.command import Done, clean_environment, run_here
from tests.support.fleet import KUBEADM, Fleet, running_fleet
from tests.support.jumps import Jumps, running_jumps
from tests.support.node import new_key
from tests.support.runnable import make_runnable_release

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]
NAMES = ("n1", "n2", "n3")
JUMPS = ("outer", "inner")
BINARY = "kubeadm-linux-amd64"
Kbuild = Callable[..., Done]


@dataclass(frozen=True, slots=True)
class Behind:
    """Hosts behind jump hosts, without a configuration of ssh that says so."""

    folder: Path
    fleet: Fleet
    jumps: Jumps

    def config(self, *more: str) -> Path:
        """Return a configuration of ssh with more in it."""
        lines = ("Host *", "  IdentitiesOnly yes", f"  IdentityFile {self.folder}/fleet/user_key")
        known = f"  UserKnownHostsFile {self.fleet.known_hosts}"
        path = self.folder / "config"
        path.write_text("\n".join((*more, self.fleet.ssh_config.read_text(), *lines, known, "")))
        return path

    def installed(self) -> set[str]:
        hosts = self.fleet.hosts.values()
        return {sha256(host.path(KUBEADM).read_bytes()).hexdigest() for host in hosts}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    return make_runnable_release(folder / "work", folder / "v1.20.2", padding=1 << 20)


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    old, fleet, keys = tmp_path / "old", tmp_path / "fleet", tmp_path / "jumps"
    old.write_text("#!/bin/sh\necho v1.20.0\n")
    for each in (fleet, keys):
        each.mkdir()
    files = (fleet / "ssh_config", fleet / "known_hosts")
    with (
        running_jumps(keys, JUMPS, fleet / "user_key.pub", *files) as jumps,
        running_fleet(fleet, NAMES, old, inside=jumps.inside) as hosts,
    ):
        yield Behind(tmp_path, hosts, jumps)


@pytest.fixture
def kbuild(tmp_path: Path) -> Kbuild:
    def run(*words: object) -> Done:
        return run_here("nodes", *words, cwd=tmp_path, HOME=str(tmp_path))

    return run


# Each way of the configuration of ssh to name two jumps.
WAYS = {
    "list": ("Host n*", "  ProxyJump outer,inner"),
    "chain": ("Host inner", "  ProxyJump outer", "Host n*", "  ProxyJump inner"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_hosts_behind_two_jumps_of_the_ssh_configuration(
    way: tuple[str, ...], behind: Behind, release: Path, kbuild: Kbuild
) -> None:
    config = behind.config(*way)
    refused = subprocess.run(("ssh", "-F", behind.fleet.ssh_config, "n1", "true"), check=False)
    assert refused.returncode == 255  # not without the jumps
    words = ("--hosts", ",".join(NAMES), "--ssh-config", config)
    known = ("--known-hosts", behind.fleet.known_hosts)
    works(behind, release, kbuild, (*words, *known))


def test_hosts_behind_two_jumps_of_an_inventory(
    behind: Behind, release: Path, kbuild: Kbuild
) -> None:
    inventory = behind.folder / "hosts.ini"
    inventory.write_text(
        "[all]\n"
        + "".join(f"{n}\n" for n in NAMES)
        + "[all:vars]\nansible_ssh_common_args='-J outer,inner'\n"
    )
    words = ("--inventory", inventory, "--ssh-config", behind.config())
    works(behind, release, kbuild, (*words, "--known-hosts", behind.fleet.known_hosts))


def works(behind: Behind, release: Path, kbuild: Kbuild, options: tuple[str | Path, ...]) -> None:
    done = kbuild("install", release, *options, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert {host["state"] for host in json.loads(done.stdout)["hosts"]} == {"changed"}
    new = sha256((release / BINARY).read_bytes()).hexdigest()
    assert behind.installed() == {new}
    done = kbuild("check", *options, "--json")
    assert done.returncode == 0, done.stderr
    checked = {host["host"]: host for host in json.loads(done.stdout)["hosts"]}
    assert {n: checked[n]["kubeadm"]["sha256"] for n in NAMES} == dict.fromkeys(NAMES, new)
    assert all(count >= len(NAMES) for count in behind.jumps.uses().values()), behind.jumps.uses()


# Both ways of the configuration of ssh, which checks nothing for who does not say more.
LAX = ("Host *", "  StrictHostKeyChecking no", "  UserKnownHostsFile {}/users_known")
COMMAND = (sys.executable, "-c", "from kbuild.cli.main import main; main()")


@pytest.fixture(params=list(WAYS))
def lax(request: pytest.FixtureRequest, behind: Behind) -> tuple[str | Path, ...]:
    """Return options for a configuration of ssh that checks no keys and knows none."""
    config = behind.config(*(line.format(behind.folder) for line in LAX), *WAYS[request.param])
    hosts = ("--hosts", ",".join(NAMES), "--ssh-config", config)
    return (*hosts, "--known-hosts", behind.fleet.known_hosts)


def test_keys_that_only_known_hosts_has(
    lax: tuple[str | Path, ...], behind: Behind, kbuild: Kbuild
) -> None:
    done = kbuild("check", *lax, "--json")
    assert done.returncode == 0, done.stderr
    assert not (behind.folder / "users_known").exists()


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_whose_key_is_another(
    jump: str, lax: tuple[str | Path, ...], behind: Behind, kbuild: Kbuild
) -> None:
    new_key(behind.folder / "other")
    with_key(behind, jump, (behind.folder / "other.pub").read_text())
    done = kbuild("check", *lax)
    assert done.returncode == 100
    assert "has changed and you have requested strict checking" in done.stderr
    assert behind.jumps.uses()[jump] == 0
    assert not (behind.folder / "users_known").exists()


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_jump_that_is_unknown_is_not_asked_about_on_a_terminal(
    way: tuple[str, ...], jump: str, behind: Behind
) -> None:
    with_key(behind, jump, "")
    words = ("--hosts", "n1", "--ssh-config", behind.config(*way))
    command = (*COMMAND, "nodes", "check", *words, "--known-hosts", behind.fleet.known_hosts)
    done = subprocess.run(
        ("script", "--quiet", "--return", "--command", shlex.join(map(str, command)), "/dev/null"),
        env=clean_environment(HOME=str(behind.folder)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    shown = " ".join(done.stdout.split())
    assert done.returncode == 100, shown
    assert re.search(r"No \S+ host key is known for", shown)
    assert "continue connecting" not in shown
    assert behind.jumps.uses()[jump] == 0


def with_key(behind: Behind, jump: str, key: str) -> None:
    """Let --known-hosts have another key of a jump, or none."""
    true = (behind.folder / f"jumps/{jump}_key.pub").read_text()
    lines = behind.fleet.known_hosts.read_text().splitlines(keepends=True)
    changed = [line.replace(true, key) if key else "" for line in lines if true in line]
    assert changed
    others = [line for line in lines if true not in line]
    behind.fleet.known_hosts.write_text("".join((*changed, *others)))


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT])
def test_no_ssh_stays_if_the_first_jump_says_nothing(
    number: signal.Signals | None, tmp_path: Path
) -> None:
    config, known = tmp_path / "config", tmp_path / "known"
    known.touch()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lines = ("Host outer", "  HostName 127.0.0.1", f"  Port {port}", *WAYS["chain"], "")
        config.write_text("\n".join(lines))
        words = ("--hosts", "n1", "--ssh-config", config, "--known-hosts", known)
        process = subprocess.Popen(
            (*COMMAND, "nodes", "check", *words),
            env=clean_environment(HOME=str(tmp_path)),
            stderr=subprocess.PIPE,
            text=True,
        )
        made, _ = silent.accept()
        with made:
            assert running_with(config)
            if number is not None:
                process.send_signal(number)
            _, said = process.communicate(timeout=90)
            assert not running_with(config)
    if number is None:
        assert process.returncode == 100
        # It may be the second ssh that gives up first, if the first began later than a second.
        assert re.search(rf"n1: Connection (to 127.0.0.1 port {port} )?timed out", said), said


def running_with(config: Path) -> list[str]:
    """Return the commands of ssh that run with this configuration."""
    done = subprocess.run(("ps", "-wweo", "args"), capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return [line for line in lines if line.startswith("ssh ") and str(config) in line]


def test_a_jump_in_the_middle_whose_key_is_another(
    behind: Behind, release: Path, kbuild: Kbuild
) -> None:
    new_key(behind.folder / "other")
    other = (behind.folder / "other.pub").read_text()
    known = behind.fleet.known_hosts
    true = (behind.folder / "jumps/inner_key.pub").read_text()
    assert true in known.read_text()
    known.write_text(known.read_text().replace(true, other))
    words = ("--hosts", ",".join(NAMES), "--ssh-config", behind.config(*WAYS["list"]))
    done = kbuild("install", release, *words, "--known-hosts", known, "--yes")
    assert done.returncode == 100
    assert "3 of 3 hosts" in done.stderr
    assert "has changed and you have requested strict checking" in done.stderr
    assert "somebody else may be answering" in done.stderr
    assert behind.jumps.uses()["inner"] == 0
    assert len(behind.installed()) == 1
    assert sha256((release / BINARY).read_bytes()).hexdigest() not in behind.installed()
