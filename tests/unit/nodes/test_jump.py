"""Connections through another host."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kbuild.nodes.hops import command_through
from kbuild.nodes.jump import Jump

AFTER_CONNECTING = """
import subprocess, sys
from kbuild.nodes.connection import prepare
prepare()
import gevent
gevent.sleep(0)
print(subprocess.run(["echo", "good"], capture_output=True, text=True).stdout)
"""


# With -G it prints what is in a file named as the host, else what it got, and then what it reads.
SSH = """#!/bin/sh
for last in "$@"; do :; done
case " $* " in *" -G "*) echo "$@" >>{folder}/asked; cat {folder}/of-"$last" || exit 0; exit ;; esac
for each in "$@"; do echo "$each"; done
echo .
exec cat
"""
OURS = "-oProxyUseFdpass=no"
SAME = ("-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oLogLevel=ERROR")


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace ssh, and return the folder of what it says of hosts."""
    script = tmp_path / "ssh"
    script.write_text(SSH.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_each_connection_has_a_socket_of_its_own(ssh: Path) -> None:
    jump = Jump("me@[::1]:2222", "[10.0.0.1]:22", None, Path("known"))
    same = (*SAME, '-oUserKnownHostsFile="known"')
    more = ("-oConnectTimeout=17", "-oProxyJump=none", "-W", "[10.0.0.1]:22")
    words = (*same, *more, "-l", "me", "-p", "2222", "--")
    for _ in range(2):
        arguments: dict[str, object] = {}
        arguments.update(jump)
        ours = arguments["sock"]
        assert isinstance(ours, socket.socket)
        with ours, ours.makefile("rwb") as stream:
            told = [stream.readline().decode().rstrip() for _ in range(len(words) + 2)]
            assert told == [*words, "::1", "."]
            stream.write(b"there and back\n")
            stream.flush()
            assert stream.readline() == b"there and back\n"
    for process in jump._running:
        assert process.wait() == 0
    jump.close()
    asked = " ".join((*same, "-G", "-l", "me", "-p", "2222", "--", "::1\n"))
    assert (ssh / "asked").read_text() == asked * 2


def through(hops: str, *options: str) -> list[list[str]]:
    """Return the words of each ssh of a command, the last hop first, as shells and ssh read it."""
    command, found = command_through(hops, "t:22", options), []
    while command:
        found.append([word for word in command if "ProxyCommand" not in word])
        inner = [word for word in command if word.startswith("-oProxyCommand=")]
        text = inner[0].partition("=")[2] if inner else ""
        host, port = f"<{len(found)}>", "<p>"
        for token, value in {"%%": "\0", "%h": host, "%p": port}.items():
            text = text.replace(token, value)
        command = shlex.split(text.replace("\0", "%"))
    return found


@pytest.mark.parametrize(
    "hops",
    ["ssh://root@a:2222,ssh://b,me@[::1]:42211", "b,me@[::1]:42211", "me@[::1]:42211"],
    ids=["a list", "a jump of the first", "jumps of jumps"],
)
def test_each_ssh_has_all_options(hops: str, ssh: Path) -> None:
    (ssh / "of-b").write_text("user x\nproxyjump root@[a]:2222\n")
    (ssh / "of-::1").write_text("proxyjump b\n")
    (ssh / "of-a").write_text("proxycommand none\n")
    options = ("-oA=100%", '-oB=it\'s "one" $HOME', "-F", "50% `c`")
    root = ("-l", "root", "-p", "2222")
    last, middle, first = (("ssh", *options, f"-oConnectTimeout={n}") for n in (17, 16, 15))
    assert through(hops, *options) == [
        [*last, OURS, "-W", "t:22", "-l", "me", "-p", "42211", "--", "::1"],
        [*middle, OURS, "-W", "[<1>]:<p>", "--", "b"],
        [*first, "-oProxyJump=none", "-W", "[<2>]:<p>", *root, "--", "a"],
    ]


def test_a_command_of_the_configuration_reaches_the_first_hop_only(ssh: Path) -> None:
    for name in "ab":
        (ssh / f"of-{name}").write_text("proxycommand nc %h %p\n")
    last, first = through("a,b")
    assert last == ["ssh", "-oConnectTimeout=17", OURS, "-W", "t:22", "--", "b"]
    assert first == ["ssh", "-oConnectTimeout=16", "-W", "[<1>]:<p>", "--", "a"]


@pytest.mark.parametrize(
    ("hops", "says"),
    [
        ("a", "the jump host a is behind itself"),
        ("h1,h2,h3,h4,h5,h6,h7,h8,h9", "more than 8 jump hosts"),
        ("many", "more than 8 jump hosts"),
        ("broken", "the configuration of the jump host broken: line 3: bad"),
        ("-oProxyCommand=x", "which is not"),
        ("ssh://-oProxyCommand=x", "which is not"),
        ("x@", "which is not"),
        ("a,,b", "which is not"),
    ],
)
def test_hops_that_cannot_be_used(hops: str, says: str, ssh: Path) -> None:
    (ssh / "of-a").write_text("proxyjump b\n")
    (ssh / "of-b").write_text("proxyjump a\n")
    (ssh / "of-many").write_text("proxyjump h1,h2,h3,h4,h5,h6,h7,h8\n")
    text = (ssh / "ssh").read_text()
    bad = 'case "$*" in *broken) echo "line 3: bad" >&2; exit 255 ;; esac'
    (ssh / "ssh").write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\n{bad}\n"))
    with pytest.raises(ValueError, match=re.escape(says)):
        command_through(hops, "t:22", ())


@pytest.mark.usefixtures("ssh")
def test_the_longest_command_is_short_enough() -> None:
    hops = ",".join(f"somebody@jump-host-{n}.example.org:2222" for n in range(8))
    jump = Jump(hops, "t:22", Path("/home/some body/config"), Path("/home/some body/known_hosts"))
    words = command_through(hops, "t:22", jump.options())
    assert max(map(len, words)) < 1 << 17  # MAX_ARG_STRLEN of linux/binfmts.h


def test_a_file_of_known_hosts_is_one_file() -> None:
    options = Jump("a", "t:22", None, Path('/some where/100%/"k')).options()
    assert options[-1] == '-oUserKnownHostsFile="/some where/100%%/\\"k"'


@pytest.mark.parametrize("is_first_alive", [True, False])
def test_all_processes_of_a_connection_end(is_first_alive: bool, ssh: Path) -> None:
    script = "sleep 600 & echo $!; " + ("wait" if is_first_alive else "exit 1")
    (ssh / "ssh").write_text(f'#!/bin/sh\ncase " $* " in *" -G "*) exit ;; esac\n{script}\n')
    jump = Jump("a", "t:22", None, None)
    ours = jump["sock"]
    assert isinstance(ours, socket.socket)
    ours.settimeout(30)
    with ours, ours.makefile("r") as stream:
        inner = int(stream.readline())
        assert os.getsid(inner) != os.getsid(0)  # which may have a terminal
        assert jump.reason() == ""
        os.kill(inner, 0)
        jump.close()
        assert stream.read() == ""  # when the last process has closed it
    jump.close()


def test_the_reason_is_that_of_the_first_hop(ssh: Path) -> None:
    said = (
        "Connection timed out during banner exchange",
        "Connection to UNKNOWN port 65535 timed out",
        "Connection to 127.0.0.1 port 2222 timed out",
    )
    lines = "; ".join(f"echo '{line}' >&2" for line in said)
    (ssh / "ssh").write_text(f'#!/bin/sh\ncase " $* " in *" -G "*) exit ;; esac\n{lines}\n')
    jump = Jump("a", "t:22", None, None)
    assert jump.reason() == ""
    ours = jump["sock"]
    assert isinstance(ours, socket.socket)
    assert jump.reason() == said[2]
    ours.close()
    jump.close()


@pytest.mark.slow
def test_programs_run_after_pyinfra_is_prepared() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AFTER_CONNECTING],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "good"
