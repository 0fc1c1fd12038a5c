"""Which hosts a run has: --hosts, inventories, and --limit."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base.errors import BadSetting, KbuildError
from kbuild.nodes.api import Access, NoHosts, read_hosts
from kbuild.nodes.errors import BadInventory
from kbuild.nodes.jump import Jump
from kbuild.nodes.model import Host
from kbuild.nodes.survey import ssh_command

STRICT = {"ssh_strict_host_key_checking": "yes"}


def named(*texts: str, limit: tuple[str, ...] = (), **access: Any) -> list[Host]:
    return list(read_hosts(texts, None, limit, Access(**access)))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def of(path: Path, *limit: str, **access: Any) -> dict[str, Host]:
    return {host.name: host for host in read_hosts([], path, limit, Access(**access))}


def of_text(folder: Path, text: str, *limit: str, name: str = "hosts.ini") -> dict[str, Host]:
    return of(write(folder, {name: text}) / name, *limit)


def refusal(folder: Path, text: str, name: str = "hosts.ini") -> BadInventory:
    with pytest.raises(BadInventory) as caught:
        of_text(folder, text, name=name)
    return caught.value


# --- --hosts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "data"),
    [
        ("node1", "node1", {}),
        ("root@node1", "node1", {"ssh_user": "root"}),
        ("node1:2222", "node1:2222", {"ssh_hostname": "node1", "ssh_port": 2222}),
        ("[::1]:22", "[::1]:22", {"ssh_hostname": "::1", "ssh_port": 22}),
        ("::1", "::1", {}),
        ("fe80::1%eth0", "fe80::1%eth0", {}),
        ("root@[fe80::1]", "fe80::1", {"ssh_user": "root"}),
        (
            "user@[fe80::1]:22",
            "[fe80::1]:22",
            {"ssh_hostname": "fe80::1", "ssh_port": 22, "ssh_user": "user"},
        ),
    ],
)
def test_a_host_is_named_as_ssh_names_it(text: str, name: str, data: dict[str, Any]) -> None:
    assert named(text) == [Host(name=name, data=STRICT | data)]


def test_hosts_are_listed_once_in_their_order() -> None:
    assert [host.name for host in named("b, a,,b", "c")] == ["b", "a", "c"]


def test_this_machine_has_no_data_of_ssh() -> None:
    assert named("@local", user="root", sudo=True) == [Host(name="@local", sudo=True)]


def test_flags_add_to_what_is_said_of_a_host() -> None:
    hosts = named("root@a,b", user="me", sudo=True, known_hosts=Path("k"), ssh_config=Path("c"))
    assert [host.data["ssh_user"] for host in hosts] == ["root", "me"]
    assert all(host.sudo and host.data["ssh_known_hosts_file"] == "k" for host in hosts)
    assert all(host.data["ssh_config_file"] == "c" for host in hosts)


@pytest.mark.parametrize(
    "text",
    ["-oProxyCommand=x", "a b", "@docker/x", "@", "a@", "a:", "a:0", "a:65536", "a:x", "a:1:2",
     "[a]:22", "[::1", "a/b", "a\x1b[2J", "root@-a", "[]:1", "a:٣", "$(x)"],
)  # fmt: skip
def test_what_is_not_a_host_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="--hosts cannot be"):
        named(text)


@pytest.mark.parametrize("text", ["a,a:22", "A,a.", "::1,[0::1]:22"])
def test_one_machine_with_two_names_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="the same machine as"):
        named(text)


def test_one_host_with_two_users_is_refused() -> None:
    with pytest.raises(BadSetting, match="two users"):
        named("root@a,me@a")


def test_no_hosts_and_both_ways_of_naming_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NoHosts, match="neither"):
        named("", ",")
    with pytest.raises(NoHosts, match="both"):
        read_hosts(["a"], tmp_path, [], Access())


@pytest.mark.slow
@given(st.text(), st.text())
def test_any_text_is_hosts_or_an_error(text: str, limit: str) -> None:
    with contextlib.suppress(KbuildError):
        for host in named(text, limit=(limit,) if limit else ()):
            assert host.name.isprintable()
            assert not host.name.startswith("-")


# --- --limit ----------------------------------------------------------------------------------

CLUSTER = """
[kube_control_plane]
cp[1:3]
[etcd:children]
kube_control_plane
[kube_node]
w[1:3]
cp1
[calico_rr]
[k8s_cluster:children]
kube_control_plane
kube_node
"""


@pytest.mark.parametrize(
    ("patterns", "hosts"),
    [
        ((), "cp1 cp2 cp3 w1 w2 w3"),
        (("all",), "cp1 cp2 cp3 w1 w2 w3"),
        (("cp1",), "cp1"),
        (("w*", "cp2"), "cp2 w1 w2 w3"),
        (("cp1,w2",), "cp1 w2"),
        (("cp1:w2",), "cp1 w2"),
        (("etcd",), "cp1 cp2 cp3"),
        (("kube_*:&etcd",), "cp1 cp2 cp3"),
        (("kube_node:&etcd",), "cp1"),
        (("!w1",), "cp1 cp2 cp3 w2 w3"),
        (("!w1:kube_node:!cp1",), "w2 w3"),
        (("w[12]",), "w1 w2"),
        (("k8s_cluster:!calico_rr:!kube_control_plane",), "w1 w2 w3"),
    ],
)
def test_limit_chooses_as_ansible_does(
    tmp_path: Path, patterns: tuple[str, ...], hosts: str
) -> None:
    assert " ".join(of_text(tmp_path, CLUSTER, *patterns)) == hosts


@pytest.mark.parametrize("pattern", ["cp9", "all:!cp9", "cp1:&etdc", "~cp.*", "@failed.retry", "!"])
def test_a_pattern_that_fits_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(BadSetting, match="--limit cannot be"):
        of_text(tmp_path, CLUSTER, pattern)


@pytest.mark.parametrize("pattern", ["calico_rr", "cp1:!etcd"])
def test_a_limit_that_leaves_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(NoHosts, match="--limit"):
        of_text(tmp_path, CLUSTER, pattern)


def test_a_host_with_a_port_can_be_chosen() -> None:
    assert [host.name for host in named("a:1,a:2,[::1]:3", limit=("a:2",))] == ["a:2"]
    assert [host.name for host in named("a:1,[::1]:3", limit=("!a:1,[::1]:3",))] == ["[::1]:3"]


# --- inventories of Ansible -------------------------------------------------------------------


def test_ini_names_hosts_with_their_variables(tmp_path: Path) -> None:
    key = write(tmp_path, {"key": ""}) / "key"
    found = of_text(
        tmp_path,
        f"""# first
alone ansible_host=10.0.0.1 ansible_user='one' # a comment
[g]
n[08:10:2].example.org:2222
[g:vars]
ansible_ssh_private_key_file = "{key}"
ansible_become=yes
unused='{{{{ lookup("pipe", "id") }}}}'
[all:vars]
ansible_user=two
""",
    )
    assert found == {
        "alone": Host(
            name="alone", data=STRICT | {"ssh_hostname": "10.0.0.1", "ssh_user": "one"}
        ),
        **{
            name: Host(
                name=name,
                data=STRICT | {"ssh_port": 2222, "ssh_user": "two", "ssh_key": str(key)},
                sudo=True,
            )
            for name in ("n08.example.org", "n10.example.org")
        },
    }  # fmt: skip


YAML = """
all:
  hosts:
    a: {ansible_host: 10.0.0.1, ansible_port: 2222}
    n[1:2]:
  children:
    kube_control_plane: {hosts: {a: }, vars: {ansible_user: core}}
    empty:
  vars: {ansible_become: true, other: [1, {a: !vault x}]}
"""
LIST = {
    "_meta": {
        "hostvars": {
            "a": {
                "ansible_host": "10.0.0.1", "ansible_port": 2222, "ansible_user": "core",
                "ansible_become": True, "other": [1],
            },
            "n1": {"ansible_become": True},
            "n2": {"ansible_become": True, "ansible_user": None},
        }
    },
    "all": {"children": ["ungrouped", "kube_control_plane"]},
    "ungrouped": {"hosts": ["n1", "n2"]},
    "kube_control_plane": {"hosts": ["a"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("i.yml", YAML), ("i.yaml", YAML), ("i.json", json.dumps(LIST)), ("i", json.dumps(LIST))],
)
def test_yaml_and_the_list_of_ansible_inventory_say_the_same(
    tmp_path: Path, name: str, text: str
) -> None:
    found = of_text(tmp_path, text, name=name)
    a = {"ssh_hostname": "10.0.0.1", "ssh_port": 2222, "ssh_user": "core"}
    assert found == {
        "a": Host(name="a", data=STRICT | a, sudo=True),
        "n1": Host(name="n1", data=STRICT, sudo=True),
        "n2": Host(name="n2", data=STRICT, sudo=True),
    }
    assert list(of_text(tmp_path, text, "kube_control_plane", name=name)) == ["a"]
    assert list(of_text(tmp_path, text, "ungrouped", name=name)) == ["n1", "n2"]


def users(found: dict[str, Host]) -> dict[str, object]:
    return {name: host.data.get("ssh_user") for name, host in found.items()}


def test_children_win_over_parents_and_files_over_the_inventory(tmp_path: Path) -> None:
    files = {
        "hosts": "a\nb\nc\nd ansible_user=inline\n[leaf]\nb\nc\nd\n[top:children]\nleaf\n"
        "[leaf:vars]\nansible_user=leaf\n[top:vars]\nansible_user=top\n",
        "group_vars/all.yml": "ansible_user: all-file\n",
        "host_vars/c.yml": "---\nansible_user: c-file\n",
    }
    expected = {"a": "all-file", "b": "all-file", "d": "inline", "c": "c-file"}
    assert users(of(write(tmp_path, files) / "hosts")) == expected
    more = {"group_vars/leaf/x.yml": "ansible_user: leaf-file", "group_vars/top.yaml": "{}"}
    assert users(of(write(tmp_path, more))) == expected | {"b": "leaf-file"}


def test_priority_decides_between_groups_of_the_same_depth(tmp_path: Path) -> None:
    text = "[x]\na\n[y]\na\n[x:vars]\nansible_user=x\n[y:vars]\nansible_user=y\n"
    assert users(of_text(tmp_path, text)) == {"a": "y"}
    assert users(of_text(tmp_path, text + "[x:vars]\nansible_group_priority=2")) == {"a": "x"}


def test_a_directory_is_all_its_inventories(tmp_path: Path) -> None:
    files = {
        "1.ini": "[g]\na\n", "2.yml": "g: {hosts: {b: }}", "notes.md": "[[", ".hidden": "[[",
        "host_vars/b": "ansible_user: me",
    }  # fmt: skip
    found = of(write(tmp_path, files))
    assert users(found) == {"a": None, "b": "me"}
    assert list(of(tmp_path, "g")) == ["a", "b"]
    for name in ("run.py", "sub/hosts"):
        with pytest.raises(BadInventory, match=name.partition("/")[0]):
            of(write(tmp_path / name[:3], {name: "raise SystemExit"}))


def test_user_of_the_command_line_wins_over_an_inventory(tmp_path: Path) -> None:
    write(tmp_path, {"hosts": "a ansible_user=core\nb"})
    assert users(of(tmp_path / "hosts", user="root")) == {"a": "root", "b": "root"}
    assert all(host.sudo for host in of(tmp_path / "hosts", sudo=True).values())


def test_a_local_connection_is_this_machine(tmp_path: Path) -> None:
    text = "node1 ansible_connection=local ansible_become=true\nnode2"
    assert list(of_text(tmp_path, text).values()) == [
        Host(name="@local", sudo=True), Host(name="node2", data=STRICT),
    ]  # fmt: skip
    with pytest.raises(BadSetting, match="the same machine as node1"):
        of_text(tmp_path, text + " ansible_connection=local")


@pytest.mark.parametrize(
    ("arguments", "hops"),
    [
        ("-J bastion", "bastion"),
        ("-o ProxyJump=root@b:2222,c", "root@b:2222,c"),
        ("-oProxyJump=[fe80::1]:22", "[fe80::1]:22"),
        ("-J ssh://root@b,ssh://c:2222", "ssh://root@b,ssh://c:2222"),
        ("""-o ProxyCommand="ssh -W %h:%p -q root@b" """, "root@b"),
        ("""-o 'ProxyCommand ssh -p 2222 -l me -o BatchMode=yes b -W [%h]:%p' """, "me@b:2222"),
    ],
)
def test_a_bastion_is_a_jump(tmp_path: Path, arguments: str, hops: str) -> None:
    text = f"a ansible_host=10.0.0.1\n[all:vars]\nansible_ssh_common_args={arguments}\n"
    path = write(tmp_path, {"hosts": text}) / "hosts"
    host = of(path, known_hosts=Path("k"), ssh_config=Path("c"))["a"]
    jump = host.data["ssh_paramiko_connect_kwargs"]
    assert isinstance(jump, Jump)
    assert (jump.hops, jump.target) == (hops, "10.0.0.1:22")
    options = jump.options()
    assert {"-oStrictHostKeyChecking=yes", '-oUserKnownHostsFile="k"'} < {*options}
    assert options[options.index("-F") + 1] == "c"


SSH_CONFIG = """\
Host n1
  HostName fe80::1
  Port 2222
Host n*
  ProxyJump outer,inner
Host y
  ProxyJump None
"""


def test_jumps_of_the_configuration_of_ssh(tmp_path: Path) -> None:
    config = write(tmp_path, {"config": SSH_CONFIG}) / "config"
    hosts = {host.name: host for host in named("n1", "n2:22", "x", "y", ssh_config=config)}
    jump, plain = (hosts[n].data["ssh_paramiko_connect_kwargs"] for n in ("n1", "n2:22"))
    assert isinstance(jump, Jump)
    assert isinstance(plain, Jump)
    assert (jump.hops, jump.target) == ("outer,inner", "[fe80::1]:2222")
    assert (plain.hops, plain.target) == ("outer,inner", "n2:22")
    assert not any("ssh_paramiko_connect_kwargs" in hosts[name].data for name in "xy")


def test_options_of_ssh_stand_behind_variables(tmp_path: Path) -> None:
    key = write(tmp_path, {"key": ""}) / "key"
    arguments = f"-p 2222 -l me -i {key} -o StrictHostKeyChecking=no -o ControlMaster=auto -C -qv"
    text = f"[all]\na\nb ansible_port=22\n[all:vars]\nansible_ssh_extra_args={arguments}\n"
    found = of_text(tmp_path, text)
    assert found["a"].data == STRICT | {"ssh_port": 2222, "ssh_user": "me", "ssh_key": str(key)}
    assert found["b"].data["ssh_port"] == 22


def test_a_password_is_used_and_never_shown(tmp_path: Path) -> None:
    host = of_text(tmp_path, "a ansible_password='s3 cret'")["a"]
    assert host.data["ssh_password"] == "s3 cret"
    assert "s3" not in repr(host)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a ansible_user={{x}}", "hosts.ini:1 .*ansible_user of a .*Jinja"),
        ("a ansible_host='{%if%}'", "ansible_host of a .*Jinja"),
        ("a ansible_port=99999", "'99999' is not a port"),
        ("a ansible_port=-1", "not a port"),
        ("a ansible_host=-oX", "not an address"),
        ("a ansible_host='b c'", "not an address"),
        ("a ansible_user=-x", "not a name of a user"),
        ("a ansible_host=b\x1bc", "control characters"),
        ("a ansible_private_key_file=/no/file", "there is no file '/no/file'"),
        ("a ansible_private_key_file=~nobody-here/x", "not a path"),
        ("a ansible_connection=docker", "not with 'docker'"),
        ("a ansible_become=maybe", "neither true nor false"),
        ("a ansible_become=1 ansible_become_method=su", "not with 'su'"),
        ("a ansible_become=1 ansible_become_user=kube", "needs root, not 'kube'"),
        ("a ansible_become=1 ansible_become_pass=s3cret", "password of sudo from no inventory"),
        ("a ansible_ssh_common_args='-F x'", "ssh option '-F'"),
        ("a ansible_ssh_common_args='-o PermitLocalCommand=yes'", "'permitlocalcommand'"),
        ("a ansible_ssh_common_args='-o ProxyCommand=\"nc %h %p\"'", "ProxyCommand is a command"),
        ("a ansible_ssh_common_args='-o ProxyCommand=\"ssh -W %h:%p b; id\"'", "is a command"),
        ("a ansible_ssh_common_args='-J -oProxyCommand=id'", "not a list of"),
        ("a ansible_ssh_common_args='-J'", "-J has no value"),
        ("a ansible_ssh_common_args='x'", "not an option"),
        ("a ansible_ssh_common_args='\"'", "No closing"),
        ("me@a", "@ in its name"),
        ("@docker/a", "has a name"),
        ("a\n\x1b2J", "hosts.ini:2 .*control characters"),
        ("-a", "has a name"),
        ("../a", "has a name"),
        ("a:", "no port follows"),
        ("a[1:2", "not closed"),
        ("a[1]", "is not a range"),
        ("a[2:1]", "is empty"),
        ("a[01:100]", "same length"),
        ("a[1:2:0]", "is not a range"),
        ("a[1:99999999999]", "is not a range"),
        ("a[1:999999999]", "more than 10000 hosts"),
        ("a[1:999][1:999]", "more than 10000 hosts"),
        ("a[1:9999]\nb[1:9]", "hosts.ini:2 .*more than 10000 hosts"),
        ("a b", "not NAME=VALUE"),
        ("a 'b", "No closing quotation"),
        ("---\nall:", "this is YAML"),
        ("[a:b:c]", "not a section"),
        ("[a:x]", "kind x"),
        ("[a:children]\nb", "hosts.ini:2 .*group b is not defined"),
        ("[a:vars]\nb=1", "group a is not defined"),
        ("[a]\n[a:vars]\nb", "not NAME=VALUE"),
        ("[a:children]\nall", "all cannot be a child"),
        ("[a:children]\nb\n[b:children]\na", "a child of itself"),
        ("[a:children]\nb c", "not the name of a group"),
        ("[a]\nx\n[a:vars]\nansible_group_priority=x", "not a number"),
        ("#!/bin/sh\nid", "kbuild runs none"),
    ],
)
def test_ini_that_kbuild_cannot_use_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    error = refusal(tmp_path, line)
    assert re.search(reason, error.happened), error.happened
    assert "s3cret" not in str(vars(error))


VAULT = "!vault |\n     $ANSIBLE_VAULT;1.1;AES256\n     6162\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("all: {hosts: {a: {ansible_user: &x b, ansible_port: *x}}}", "aliases"),
        ("[" * 70, "levels"),
        ("all: {hosts: {a: {ansible_user: [b]}}}", "list or a mapping"),
        ("all: [a]", "i.yml:1 .*not a mapping"),
        ("all: {hosts: [a]}", "hosts of all is not a mapping"),
        ("all:\n  host: {a: }", "i.yml:2 .*'host' is not a key"),
        ("all: {children: {g: {children: {g: }}}}", "child of itself"),
        ("all: {hosts: {'a[1:': }}", "no port"),
        ("all: {\n", "i.yml:2 .*not YAML"),
        ("- a", "not a mapping of groups"),
        ("", "not a mapping of groups"),
        ("a: \x00", "not YAML"),
        ("all: \n---\nall:", "i.yml:2 .*second YAML document"),
        ("all: {? [a] : b}", "is not text"),
        ("all: {<<: {hosts: {a: }}}", "merges"),
        ("plugin: aws_ec2", "plugin of Ansible"),
        ("$ANSIBLE_VAULT;1.1;AES256\n6162", "encrypted with ansible-vault"),
        (f"all:\n hosts:\n  a:\n   ansible_password: {VAULT}", "ansible_password .*encrypted"),
    ],
)
def test_yaml_that_kbuild_cannot_use_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    error = refusal(tmp_path, text, "i.yml")
    assert re.search(reason, error.happened), error.happened
    assert error.hint.count("ansible-inventory --list") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"_meta": {}, "g": {"hosts": [1]}}', "a host or group has|name of a host|left"),
        ('{"_meta": {}, "g": {"hosts": [{}]}}', "is not text"),
        ('{"_meta": {"hostvars": {"a": {"ansible_user": {"__ansible_vault": "x"}}}}}', "encrypted"),
        ('{"_meta": {"hostvars": {"a\\ud800": {}}}}', "has a name"),
    ],
)
def test_json_that_kbuild_cannot_use_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    if "[1]" in text:  # Ansible makes text of it
        assert list(of_text(tmp_path, text, name="i.json")) == ["1"]
        return
    error = refusal(tmp_path, text, "i.json")
    assert re.search(reason, error.happened), error.happened


def test_what_is_not_needed_may_be_encrypted(tmp_path: Path) -> None:
    text = f"all:\n hosts:\n  a:\n   other: {VAULT}  b:\n   ansible_user: {VAULT}"
    assert list(of_text(tmp_path, text, "a", name="i.yml")) == ["a"]


def test_an_encrypted_file_of_variables_is_refused(tmp_path: Path) -> None:
    files = {"hosts": "a", "group_vars/all/vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n6162"}
    with pytest.raises(BadInventory, match=r"vault.yml .*encrypted"):
        of(write(tmp_path, files) / "hosts")


def test_files_that_are_not_inventories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#" * (5 << 20))
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name in ("large", "bytes", "nothing", "x" * 300, "a\0b"):
        with pytest.raises(BadInventory):
            of(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hosts", "i.yml", "i.json"])
@given(text=st.one_of(
    st.text(),
    st.text(alphabet="abn[]{}:=,'\"#\n -!&*1-2\\", max_size=60),
    st.lists(st.sampled_from(
        ["[a]", "[a:vars]", "[b:children]", "a", "b", "n[1:3]", "ansible_user=", "x", ":", "\n",
         "all", "hosts", "vars", "children", "{", "}", " ", "'", "ansible_port", "&x", "*x"]
    )).map("".join),
))  # fmt: skip
def test_any_inventory_is_hosts_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{name}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(KbuildError):
        for host in of(path).values():
            assert host.name.isprintable()


# --- inventories of pyinfra -------------------------------------------------------------------

PYINFRA = """
import os
kube_control_plane = ["cp1", ("cp2", {"ssh_port": 2222, "_sudo": False})]
kube_node = (["w1", "@local"], {"ssh_user": "worker"})
_hidden = ["x"]
"""


def test_pyinfra_inventories_are_run_as_pyinfra_does(tmp_path: Path) -> None:
    files = {"inv.py": PYINFRA, "group_data/kube_control_plane.py": "_sudo = True\nother = 1"}
    path = write(tmp_path, files) / "inv.py"
    found = of(path)
    assert found == {
        "cp1": Host(name="cp1", data=STRICT, sudo=True),
        "cp2": Host(name="cp2", data=STRICT | {"ssh_port": 2222}),
        "w1": Host(name="w1", data=STRICT | {"ssh_user": "worker"}),
        "@local": Host(name="@local"),
    }
    assert list(of(path, "kube_node")) == ["w1", "@local"]
    assert list(of(path, "inv:!kube_node")) == ["cp1", "cp2"]


@pytest.mark.parametrize(
    "text",
    ["1/0", "import sys; sys.exit()", "all = [1]", "x = ['@docker/x']", "def", "x = [('a',)]",
     "x = [('a', {'_sudo_user': 'kube'})]", "x = [('a', {'ssh_port': 'x'})]", "\0"],
)  # fmt: skip
def test_a_pyinfra_inventory_that_fails_is_refused(tmp_path: Path, text: str) -> None:
    assert "it" in refusal(tmp_path, text, "inv.py").hint


# --- the command that errors give ---------------------------------------------------------------


def test_the_ssh_command_of_a_host_can_be_typed(tmp_path: Path) -> None:
    files: dict[str, Any] = {"ssh_config": Path("my config"), "known_hosts": Path("known")}
    first, second = named("node1", "[fe80::1]:2222", user="root", **files)
    start = "ssh -F 'my config' -o UserKnownHostsFile=known"
    assert ssh_command(first) == f"{start} root@node1"
    assert ssh_command(second) == f"{start} -p 2222 root@fe80::1"
    text = "a ansible_host=10.0.0.1 ansible_user=u ansible_ssh_common_args='-J b,c'"
    text += f" ansible_ssh_private_key_file={__file__}\n"
    found = of_text(tmp_path, text)["a"]
    assert ssh_command(found) == f"ssh -i {__file__} -J b,c u@10.0.0.1"
