"""The functions that run on a node, in every shell that a node may have."""

import fcntl
import shutil
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from kbuild.nodes.connection import CallFailed, values_of
from kbuild.nodes.model import Call, call
from tests.support.local_node import KUBEADM, LocalNode

pytestmark = pytest.mark.slow  # it runs shells

SHELLS = {
    "sh": ("sh",),
    "dash": ("dash",),
    "bash": ("bash", "--posix"),
    "busybox": ("busybox", "sh"),
}
RUN, OTHER = "20261126T120000Z-1", "20261126T110000Z-2"
OWNER = "somebody@here 1 2 boot"


@pytest.fixture(params=SHELLS.values(), ids=list(SHELLS))
def node(request: pytest.FixtureRequest, tmp_path: Path) -> LocalNode:
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"this machine has no {request.param[0]}")
    return LocalNode(root=tmp_path, shell=request.param)


@pytest.fixture
def one(tmp_path: Path) -> LocalNode:
    """Give a node with the usual shell, for what does not depend on it."""
    return LocalNode(root=tmp_path)


def facts(node: LocalNode, path: str | Path = "") -> dict[str, list[str]]:
    return values_of(node.call(call("facts", str(path))))


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def refused(node: LocalNode, function: Call) -> str:
    with pytest.raises(CallFailed) as caught:
        node.call(function)
    return str(caught.value)


@pytest.mark.parametrize("openssl", ["", "exit 1", "echo 0 unknown", f"echo {64 * 'x'}", "echo"])
def test_the_sha256_of_a_file_needs_no_openssl(node: LocalNode, openssl: str) -> None:
    if openssl:
        node.stub("openssl", openssl)
    file = node.root / "-a file"
    file.write_bytes(b"content")
    assert node.call(call("sha_of", str(file))).strip() == digest(file)
    for other in (node.root, node.root / "none"):
        done = node.run(f"sha_of '{other}'")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    node.call(call("has_sha", str(file), digest(file)))
    assert "does not have" in refused(node, call("has_sha", str(file), "0" * 64))


def test_what_a_kubeadm_issues_is_told_only_of_the_one_that_is_there(node: LocalNode) -> None:
    kubeadm = node.put_kubeadm()
    words = (digest(kubeadm), "100", "50", "v1.20.2", str(kubeadm))
    assert "not recorded" in refused(node, call("is_recorded", *words))
    node.call(call("record", *words))
    node.call(call("is_recorded", *words))
    assert "not recorded" in refused(node, call("is_recorded", words[0], "1", *words[2:]))
    assert facts(node, kubeadm)["issues"] == [" ".join(words)]
    node.put_kubeadm("#!/bin/sh\necho v1.20.2 # another\n")
    assert "issues" not in facts(node, kubeadm)


def backed_up(node: LocalNode) -> str:
    """Keep the kubeadm that is there, and return its sha256."""
    old = digest(node.kubeadm)
    node.call(call("back_up", str(node.kubeadm), old, "20261126T110000Z-old", "v1.20.2"))
    return old


# --- facts ----------------------------------------------------------------------------------------


def test_facts_of_a_kubeadm(node: LocalNode) -> None:
    values = facts(node, node.put_kubeadm())
    assert values["version"] == ["v1.20.2"]
    assert values["sha256"] == [digest(node.kubeadm)]
    assert values["target"] == [str(node.kubeadm)]
    assert int(values["free"][0]) > 0
    assert int(values["state_free"][0]) > 0
    assert values["uid"] == ["0"]
    assert "problem" not in values
    assert not node.state.exists()


def test_a_control_plane_whose_api_server_was_moved_away_is_still_one(one: LocalNode) -> None:
    assert "control_plane" not in facts(one)
    manifests = one.root / "etc/kubernetes/manifests"
    manifests.mkdir(parents=True)
    (manifests / "etcd.yaml").touch()  # of a host that has etcd only
    assert "control_plane" not in facts(one)
    (manifests / "kube-controller-manager.yaml").touch()
    assert facts(one)["control_plane"] == ["yes"]


def test_facts_of_a_link_lead_to_its_file(one: LocalNode) -> None:
    link = one.root / "link"
    link.symlink_to(one.put_kubeadm())
    assert facts(one, link)["target"] == [str(one.kubeadm)]
    one.kubeadm.unlink()
    values = facts(one, link)
    assert values["target"] == [str(one.kubeadm)]
    assert "sha256" not in values


def test_other_kubeadms_on_the_path_are_told(one: LocalNode) -> None:
    one.put_kubeadm()
    (one.root / "stubs/kubeadm").symlink_to(one.kubeadm)  # is no other one
    (one.root / "stubs 2").mkdir()
    path = f'PATH=$PATH:{one.root}/bin:"{one.root}/stubs 2"'
    facts = f"facts {one.kubeadm}"
    assert "other=" not in one.run(f"{path}; {facts}").stdout
    shutil.copy(one.kubeadm, one.root / "stubs 2/kubeadm")
    assert f"\nother={one.root}/stubs 2/kubeadm\n" in one.run(f"{path}; {facts}").stdout


def test_facts_of_what_cannot_be_used(one: LocalNode) -> None:
    assert facts(one, one.root / "bin")["problem"] == [f"{one.root}/bin is not a file"]
    away = one.root / "none/such/kubeadm"
    assert "does not exist" in facts(one, away)["problem"][0]
    one.put_kubeadm().chmod(0o644)
    assert facts(one, one.kubeadm)["problem"] == [f"{one.kubeadm} is not executable"]


@pytest.mark.parametrize(
    "says",
    [
        "printf 'v1.20.2\\nuid=0\\nversion=v9\\n'",
        "printf 'v1\\033[2J\\007\\r\\n'",
        "printf '\\377\\376=\\n'",
        "head -c 1000000 /dev/zero | tr '\\0' x",
    ],
)
def test_facts_are_one_short_line_each_whatever_kubeadm_prints(one: LocalNode, says: str) -> None:
    values = facts(one, one.put_kubeadm(f"#!/bin/sh\n{says}\n"))
    assert len(values["version"]) == 1
    assert len(values["version"][0]) <= 800
    assert values["version"][0].isprintable()
    assert len(values["uid"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("has_timeout", [True, False])
def test_a_kubeadm_that_hangs_is_killed(node: LocalNode, has_timeout: bool) -> None:
    pid = node.root / "pid"
    node.put_kubeadm(f"#!/bin/sh\necho $$ >{pid}\nexec sleep 61\n")
    hide = "" if has_timeout else 'command() { [ "$2" != timeout ] || return 1; type "$2"; }; '
    done = node.run(f"{hide}within 1 {node.kubeadm}; echo code=$?", timeout=20)
    assert values_of(done.stdout)["code"] == ["137"]
    words = Path("/proc", pid.read_text().strip(), "cmdline")
    assert not (words.exists() and words.read_bytes())  # one that has ended has no words


def test_what_is_left_beside_kubeadm_is_told(one: LocalNode) -> None:
    one.put_kubeadm()
    (one.root / "bin/.kubeadm.kbuild-0123456789ab.part").touch()
    assert facts(one, one.kubeadm)["leftover"] == [".kubeadm.kbuild-0123456789ab.part"]


def test_what_may_replace_kubeadm_is_told_unless_it_is_in_a_container(one: LocalNode) -> None:
    mine = Path("/proc/self/ns/mnt").readlink()
    for pid, name, namespace in ((7, "apt-get", mine), (8, "dnf", "mnt:[1]"), (9, "sshd", mine)):
        (one.root / f"proc/{pid}/ns").mkdir(parents=True)
        (one.root / f"proc/{pid}/comm").write_text(f"{name}\n")
        (one.root / f"proc/{pid}/ns/mnt").symlink_to(namespace)
    assert facts(one)["busy"] == ["apt-get"]


def test_a_held_lock_of_dpkg_is_told_but_not_a_file_that_is_only_open(one: LocalNode) -> None:
    folder = one.root / "var/lib/dpkg"
    folder.mkdir()
    with (folder / "lock-frontend").open("w") as file:
        assert "busy" not in facts(one)
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert facts(one)["busy"] == [Path("/proc/self/comm").read_text().strip()]
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert "busy" not in facts(one)


def test_a_held_lock_of_rpm_is_told_wherever_its_database_is(one: LocalNode) -> None:
    real = one.root / "usr/lib/sysimage/rpm"
    real.mkdir(parents=True)
    (one.root / "var/lib/rpm").symlink_to(real)
    with (real / ".rpm.lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert facts(one)["busy"] == [Path("/proc/self/comm").read_text().strip()]


def test_packages_of_debian(one: LocalNode) -> None:
    one.put_kubeadm()
    one.stub("dpkg-query", 'echo "kubeadm: $2"')
    one.stub(
        "apt-mark",
        'case $1 in showhold) cat "$0.held" 2>/dev/null;; hold) echo $3 >"$0.held";;'
        ' unhold) rm -f "$0.held";; esac',
    )
    assert facts(one, one.kubeadm)["package"] == ["deb kubeadm"]
    assert "held" not in facts(one, one.kubeadm)
    assert "not held" in refused(one, call("is_held", "deb", "kubeadm"))
    one.call(call("hold", "deb", "kubeadm"))
    assert facts(one, one.kubeadm)["held"] == ["yes"]
    one.call(call("is_held", "deb", "kubeadm"))
    one.call(call("unhold", "deb", "kubeadm"))
    assert "not held" in refused(one, call("is_held", "deb", "kubeadm"))
    one.stub("apt-mark", "echo dpkg was interrupted >&2; exit 100")
    assert "kubeadm cannot be held: dpkg was interrupted" in refused(
        one, call("hold", "deb", "kubeadm")
    )


@pytest.mark.parametrize(
    ("program", "plugin", "place", "line"),
    [
        (
            *("yum", "etc/yum/pluginconf.d/versionlock.conf"),
            *("etc/yum/pluginconf.d/versionlock.list", "0:kubeadm-1.20.2-0.*"),
        ),
        (
            *("dnf", "etc/dnf/plugins/versionlock.conf"),
            *("etc/dnf/plugins/versionlock.list", "kubeadm-0:1.20.2-0.*"),
        ),
        ("dnf5", "etc/dnf/dnf.conf", "etc/dnf/versionlock.toml", 'name = "kubeadm"'),
    ],
)
def test_packages_of_rpm(one: LocalNode, program: str, plugin: str, place: str, line: str) -> None:
    one.put_kubeadm()
    one.stub("dpkg-query", "exit 1")
    one.stub("rpm", "printf 'kubeadm\\nkubeadm-kbuild\\n'")
    held, conf = one.root / place, one.root / plugin
    conf.parent.mkdir(parents=True)
    conf.write_text("[main]\nenabled = 1\n")
    held.write_text("kubeadm-tools-1.0\n# kubeadm-1\n")
    one.stub("dnf", "exit 1")  # which has no plugin, unless it is this one
    one.stub(
        program,
        f'[ "$*" = "-q --disablerepo=* versionlock add kubeadm" ] && echo \'{line}\' >>{held}',
    )
    values = facts(one, one.kubeadm)
    assert (values["package"], values["versionlock"]) == (["rpm kubeadm"], ["yes"])
    assert "held" not in values
    one.call(call("hold", "rpm", "kubeadm"))
    assert facts(one, one.kubeadm)["held"] == ["yes"]
    if program != "dnf5":
        conf.write_text("[main]\nenabled=0\n")
        assert facts(one, one.kubeadm).keys().isdisjoint({"held", "versionlock"})


REPO = "etc/yum.repos.d/kubernetes.repo"


@pytest.mark.parametrize(
    ("place", "text", "is_excluded"),
    [
        (REPO, "[k]\nexclude=kubelet kubeadm kubectl", True),
        (REPO, "[k]\nexclude = kube*\nenabled = 1", True),
        (REPO, "[k]\nenabled=False\nexclude=kubeadm\n[j]\nexclude=kubelet", False),
        (REPO, "[k]\nexclude=kubeadm\nenabled : 0\n", False),
        (REPO, "[j]\nenabled=0\n\n[k]\nexclude=kubeadm", True),
        (REPO, "[k]\nbaseurl=a\n  exclude=kubeadm\n", False),
        (REPO, "[main]\nexclude=kubeadm", False),
        ("etc/dnf/dnf.conf", "[main]\nexcludepkgs=docker*,kubeadm", True),
        (
            "etc/dnf/dnf.conf",
            "[main]\nexclude=\n  docker*\n\tkubelet,\n# all\n  kubeadm\nx=1",
            True,
        ),
        ("etc/dnf/dnf.conf", "[main]\nexclude=docker*\nx=1\n  kubeadm", False),
        ("etc/dnf/dnf.conf", "[k]\nexclude=kubeadm\nenabled=no", False),
        ("etc/yum.conf", "[main]\nexclude=kubeadm-kbuild kubea kubelet", False),
        ("etc/yum.conf", "[main]\n# exclude=kubeadm", False),
        ("etc/yum.conf", "[main]\nexclude=", False),
    ],
)
def test_packages_that_yum_leaves_out(
    one: LocalNode, place: str, text: str, is_excluded: bool
) -> None:
    one.put_kubeadm()
    one.stub("dpkg-query", "exit 1")
    one.stub("rpm", "echo kubeadm")
    (one.root / place).parent.mkdir(parents=True)
    (one.root / place).write_text(text)
    assert ("excluded" in facts(one, one.kubeadm)) == is_excluded


# --- locks and steps ------------------------------------------------------------------------------


def test_one_run_has_the_lock(node: LocalNode) -> None:
    node.call(call("take_lock", RUN, OWNER))
    node.call(call("take_lock", RUN, OWNER))  # after a cut connection
    with pytest.raises(CallFailed) as caught:
        node.call(call("take_lock", OTHER, "else@where 3 4 boot"))
    values = values_of(caught.value.output)
    assert (values["run"], values["owner"]) == ([RUN], [OWNER])
    assert int(values["age"][0]) < 60
    node.call(call("release_lock", OTHER))
    assert node.lock.exists()
    node.call(call("release_lock", RUN))
    assert not (node.root / "run/kbuild").exists()
    assert stat.S_IMODE(node.state.stat().st_mode) == 0o700
    journal = (node.state / "runs" / RUN).read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in journal] == ["run begin", "run end"]


def test_a_lock_is_taken_over_once(node: LocalNode) -> None:
    node.call(call("take_lock", OTHER, OWNER))
    node.call(call("take_over", RUN, OWNER, OTHER))
    node.call(call("take_over", RUN, OWNER, OTHER))  # after a cut connection
    third = "20261126T130000Z-3"
    assert "another run has the lock now" in refused(node, call("take_over", third, OWNER, OTHER))
    assert (node.lock / "run").read_text().strip() == RUN
    assert sorted(path.name for path in node.lock.parent.iterdir()) == ["lock"]


def test_a_lock_that_is_half_made_can_be_taken_over(one: LocalNode) -> None:
    one.lock.mkdir(parents=True)
    with pytest.raises(CallFailed) as caught:
        one.call(call("take_lock", RUN, OWNER))
    assert values_of(caught.value.output)["owner"] == [""]
    one.call(call("take_over", RUN, OWNER, ""))
    assert (one.lock / "run").read_text().strip() == RUN


def test_a_lock_whose_journal_cannot_be_written_is_not_taken(one: LocalNode) -> None:
    one.state.write_text("in the way")
    assert "cannot be made" in refused(one, call("take_lock", RUN, OWNER))
    assert not one.lock.exists()


def test_the_step_that_was_interrupted_is_told(one: LocalNode) -> None:
    one.call(call("take_lock", RUN, OWNER))
    apply = call("apply", RUN, "copy", "false", "exit 7", "true")
    refused(one, apply)
    assert facts(one)["unfinished"][0].endswith("copy failed")
    one.call(call("release_lock", RUN))
    assert "unfinished" not in facts(one)


def test_a_step_is_checked_done_and_confirmed(node: LocalNode) -> None:
    made = node.root / "made"
    words = (f"[ -e {made} ]", f"touch {made}", f"[ -e {made} ]")
    node.call(call("take_lock", RUN, OWNER))
    node.call(call("apply", RUN, "make", *words))
    assert made.exists()
    node.call(call("apply", RUN, "make", words[0], "false", "false"))  # nothing is to be done
    refused(node, call("apply", RUN, "make", "false", "true", "false"))
    journal = (node.state / "runs" / RUN).read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in journal[1:]] == [
        "begin",
        "done",
        "begin",
        "unconfirmed",
    ]
    assert not (node.lock / "pid").exists()


def test_a_step_needs_the_lock(one: LocalNode) -> None:
    with pytest.raises(CallFailed) as caught:
        one.call(call("apply", RUN, "make", "false", "true", "true"))
    assert values_of(caught.value.output)["lock"] == ["none"]
    one.call(call("take_lock", OTHER, OWNER))
    assert "another run has the lock now" in refused(
        one, call("apply", RUN, "make", "false", "true", "true")
    )


@pytest.mark.slow
def test_a_repeated_step_waits_for_itself(node: LocalNode) -> None:
    made = node.root / "made"
    step = call("apply", RUN, "make", f"[ -e {made} ]", f"sleep 1; echo x >>{made}", "true")
    node.call(call("take_lock", RUN, OWNER))
    library = (
        Path("kbuild/nodes/node.sh").read_text().replace("\nroot=\n", f"\nroot='{node.root}'\n")
    )
    first = subprocess.Popen((*node.shell, "-s", "kbuild_step"), stdin=subprocess.PIPE, text=True)
    assert first.stdin is not None
    first.stdin.write(f"{library}\n{{ {step}; exit; }} </dev/null\n")
    first.stdin.close()
    while not (node.lock / "pid").exists():
        assert first.poll() is None
    assert "a step of that run is still going on" in refused(node, call("break_lock", RUN))
    node.call(step)
    assert first.wait() == 0
    assert made.read_text() == "x\n"


# --- kubeadm --------------------------------------------------------------------------------------


def test_a_kubeadm_is_backed_up_replaced_and_brought_back(node: LocalNode) -> None:
    target, new = node.put_kubeadm(), node.root / "bin/.kubeadm.kbuild-new"
    target.chmod(0o4755)
    old = backed_up(node)
    new.write_text(KUBEADM + "# new\n")
    new.with_name(f"{new.name}.part").write_text("of a run that was killed")
    other = digest(new)
    node.call(call("swap", str(new), str(target), old, other))
    assert digest(target) == other
    assert stat.S_IMODE(target.stat().st_mode) == 0o4755
    target.chmod(0o700)
    node.call(call("restore", "20261126T110000Z-old", str(target), old, other))
    assert digest(target) == old
    assert stat.S_IMODE(target.stat().st_mode) == 0o4755
    assert [path.name for path in (node.root / "bin").iterdir()] == ["kubeadm"]


def test_an_upload_is_unpacked_only_if_it_is_what_was_sent(node: LocalNode) -> None:
    part, made = node.root / "bin/x.part", node.root / "bin/x"
    part.write_text(KUBEADM)
    right = digest(part)
    assert "does not have the sha256" in refused(
        node, call("unpack", str(part), "plain", str(made), "0" * 64)
    )
    assert not part.exists()
    assert not made.exists()
    part.write_text("not gzip")
    assert "cannot be unpacked" in refused(
        node, call("unpack", str(part), "gzip", str(made), right)
    )
    assert not made.exists()
    part.write_text(KUBEADM)
    node.call(call("unpack", str(part), "plain", str(made), right))
    assert digest(made) == right
    assert not part.exists()
    node.call(call("runs_as", str(made), right, "v1.20.2"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/bin/sh\necho v1.20.3\n", "says that it is v1.20.3"),
        ("#!/bin/sh\necho broken >&2; exit 2\n", "does not run: broken"),
        ("#!/bin/sh\necho v1.20.2; exit 2\n", "does not run"),
        ("#!/none/such\n", "does not run"),
        ("#!/bin/sh\nkill -9 $$\n", "was killed"),
    ],
)
def test_a_program_that_is_not_the_version(one: LocalNode, text: str, says: str) -> None:
    one.put_kubeadm(text)
    function = call("runs_as", str(one.kubeadm), digest(one.kubeadm), "v1.20.2")
    assert says in refused(one, function)


def test_a_program_that_may_not_be_executed(one: LocalNode) -> None:
    one.put_kubeadm().chmod(0o644)
    function = call("runs_as", str(one.kubeadm), digest(one.kubeadm), "v1.20.2")
    assert "is the file system mounted with noexec?" in refused(one, function)


def test_what_somebody_else_has_put_there_is_left(node: LocalNode) -> None:
    target, new = node.put_kubeadm(), node.root / "bin/.kubeadm.kbuild-new"
    new.write_text(KUBEADM + "# new\n")
    old, other = backed_up(node), digest(new)
    target.write_text("of somebody else")
    for function in (
        call("back_up", str(target), old, "again", "v1.20.2"),
        call("swap", str(new), str(target), old, other),
        call("swap", str(new), str(target), "", other),
        call("restore", "20261126T110000Z-old", str(target), old, other),
        call("bring_back", old, str(target), other),
        call("take_away", str(target), other),
    ):
        assert "so it is left as it is" in refused(node, function)
        assert target.read_text() == "of somebody else"
    assert digest(new) == other


def test_every_backup_is_kept_and_a_damaged_one_is_named(one: LocalNode) -> None:
    target = one.put_kubeadm()
    old = backed_up(one)
    one.call(call("has_generation", old, str(target)))
    kept = one.state / "kubeadm/20261126T110000Z-old/kubeadm"
    kept.write_text("damaged")
    assert "no whole backup" in refused(one, call("has_generation", old, str(target)))
    assert "the backup 20261126T110000Z-old is damaged" in refused(
        one, call("restore", "20261126T110000Z-old", str(target), old, old)
    )
    backed_up(one)  # of the same name
    one.call(call("has_generation", old, str(target)))
    assert kept.read_text() == "damaged"
    names = sorted(line.split()[0] for line in facts(one)["generation"])
    assert names == ["20261126T110000Z-old", "20261126T110000Z-old.again"]


def test_an_installation_where_nothing_was_is_taken_away(one: LocalNode) -> None:
    new = one.root / "bin/.kubeadm.kbuild-new"
    new.write_text(KUBEADM)
    other = digest(new)
    one.call(call("swap", str(new), str(one.kubeadm), "", other))
    assert stat.S_IMODE(one.kubeadm.stat().st_mode) == 0o755
    one.call(call("take_away", str(one.kubeadm), other))
    one.call(call("take_away", str(one.kubeadm), other))
    assert not one.kubeadm.exists()


def test_leftovers_of_other_runs_are_removed_and_nothing_else(node: LocalNode) -> None:
    folder = node.root / "bin"
    mine = ("kubeadm", ".kubeadm.kbuild-1", ".kubeadm.kbuild-1.part", ".kubeadm.of-somebody")
    for name in (*mine, ".kubeadm.kbuild-2.part", ".kubeadm.kbuild-restore"):
        (folder / name).touch()
    words = (str(folder), ".kubeadm.kbuild-1")
    assert "is left" in refused(node, call("no_leftovers", *words))
    node.call(call("forget_leftovers", *words))
    node.call(call("no_leftovers", *words))
    assert {path.name for path in folder.iterdir()} == set(mine)
    node.call(call("forget_leftovers", str(folder), ""))
    node.call(call("no_leftovers", str(folder), ""))
    assert {path.name for path in folder.iterdir()} == {"kubeadm", ".kubeadm.of-somebody"}


def test_an_upload_goes_on_where_it_was(one: LocalNode) -> None:
    part = one.root / "bin/x.part"
    assert values_of(one.call(call("uploaded", str(part))))["size"] == ["0"]
    part.write_text("12345")
    assert values_of(one.call(call("uploaded", str(part))))["size"] == ["5"]
    part.unlink()
    part.symlink_to("/etc/passwd")
    assert values_of(one.call(call("uploaded", str(part))))["size"] == ["0"]
    assert not part.is_symlink()
    assert "cannot be written" in refused(one, call("uploaded", f"{one.root}/none/x"))
