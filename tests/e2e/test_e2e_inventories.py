"""Inventories as Ansible itself reads them: the same hosts, groups, variables and patterns."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kbuild.nodes.api import Access, read_hosts
from kbuild.nodes.model import Host

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

INI = """
bare:2201 ansible_user='one two'-three   # a comment
[kube_control_plane]
cp[01:03].example.org:2222 ansible_ssh_extra_args='-o ControlMaster=no'
[etcd:children]
kube_control_plane
[kube_node]  # workers
w[a:e:2] ansible_host=10.1.0.1 ansible_port="23"
n-[0:1]-[x:y]
cp01.example.org ansible_become=no
[calico_rr]
[k8s_cluster:vars]
ansible_become = True
ansible_user = "core"
ansible_become_user='root'
[kube_node:vars]
ansible_user=node
[z_last:children]
a_first
[z_last:vars]
ansible_user=parent
[a_first]
both
[a_first:vars]
ansible_user=child
[b_second]
both
[b_second:vars]
ansible_port=2
[k8s_cluster:children]
kube_control_plane
kube_node
calico_rr
[all:vars]
ansible_become=0
ansible_port=2200
"""
YAML = """
all:
  vars: {ansible_user: everyone, ansible_port: 22}
  hosts:
    node[1:3]: {ansible_host: 192.0.2.1, ansible_become: yes}
    other:44:
  children:
    kube_control_plane:
      hosts:
        node1:
        node2: {ansible_user: second}
      vars: {ansible_user: core, ansible_become: "False"}
    k8s_cluster:
      vars: {ansible_port: 2222, ansible_group_priority: 10}
      children:
        kube_control_plane:
        kube_node: {hosts: {node3: , "w[01:02]": {ansible_user: }}}
"""
FOLDER = {
    "1.ini": INI,
    "2.yml": YAML,
    "3.json": '{"kube_node": {"hosts": {"j1": {"ansible_port": 7}}}}',
    "README.md": "[[",
    "group_vars/all.yml": "ansible_user: all-file\nansible_become: true\n",
    "group_vars/k8s_cluster/a.yml": "ansible_port: 1\nansible_user: a\n",
    "group_vars/k8s_cluster/b.yaml": "ansible_port: 2\n",
    "group_vars/k8s_cluster/c.txt": "ansible_port: 3\n",
    "group_vars/kube_node": "{ansible_become: false}",
    "group_vars/kube_node.yml": "ansible_port: 99\n",
    "host_vars/node1.json": '{"ansible_user": "of-node1"}',
    "host_vars/wa.yml": "---\nansible_host: 192.0.2.9\n",
}
INVENTORIES = {"INI": {"hosts": INI}, "YAML": {"hosts.yml": YAML}, "folder": FOLDER}
PATTERNS = (
    "kube_*:!cp*", "!kube_node,!calico_rr", "k8s_cluster,&kube_node,!w?", "ungrouped,n-[01]-x",
)  # fmt: skip


def ansible(program: str, *words: object) -> str:
    environment = os.environ | {"ANSIBLE_LOCALHOST_WARNING": "0", "LC_ALL": "C.UTF-8"}
    command = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder if len(files) > 1 else folder / next(iter(files))


def hosts(path: Path, *limit: str) -> dict[str, Host]:
    return {host.name: host for host in read_hosts([], path, limit, Access())}


def members(listed: dict[str, Any], group: str) -> set[str]:
    found = set(listed.get(group, {}).get("hosts", ()))
    return found.union(*(members(listed, c) for c in listed.get(group, {}).get("children", ())))


@pytest.mark.parametrize("kind", INVENTORIES)
def test_an_inventory_says_what_ansible_prints_of_it(tmp_path: Path, kind: str) -> None:
    # Every host has its own address, so that kbuild does not take two for one machine.
    files = {
        name: text.replace("ansible_host=10.1.0.1 ", "") for name, text in INVENTORIES[kind].items()
    }
    files = {name: text.replace("ansible_host: 192.0.2.1, ", "") for name, text in files.items()}
    path = written(tmp_path / "i", files)
    printed = ansible("ansible-inventory", "-i", path, "--list")
    of_ansible = tmp_path / "printed.json"
    of_ansible.write_text(printed)
    listed = json.loads(printed)
    if kind != "YAML":  # kbuild refuses a user with a space
        assert listed["_meta"]["hostvars"]["bare"]["ansible_user"] == "one two-three"
    limit = ["!bare"] if kind != "YAML" else []
    assert hosts(path, *limit) == hosts(of_ansible, *limit)
    for group in set(listed) - {"_meta", "ungrouped"}:
        expected = members(listed, group) - {"bare"}
        assert (set(hosts(path, group, *limit)) if expected else set()) == expected, group


def test_patterns_choose_what_ansible_chooses(tmp_path: Path) -> None:
    path = written(tmp_path, {"hosts": INI.replace("'one two'-three", "me").replace(
        "ansible_host=10.1.0.1 ", "")})  # fmt: skip
    for pattern in PATTERNS:
        printed = ansible("ansible", "all", "-i", path, "--limit", pattern, "--list-hosts")
        assert sorted(hosts(path, pattern)) == sorted(printed.split()[2:]), pattern
