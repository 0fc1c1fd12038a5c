"""The front of this package: from a tag to a proven kubeadm.

Other packages import from here, and values from ``kbuild.kubeadm.model``.
"""

from kbuild.kubeadm.build import Job, build_and_prove, check_request, prepare
from kbuild.kubeadm.bundle.read import from_bundle
from kbuild.kubeadm.bundle.write import Made, make_bundle
from kbuild.kubeadm.compile.run import choose_builder
from kbuild.kubeadm.examine import Examined, examine
from kbuild.kubeadm.patching.series import Series, patches_folder, read_index, series_for
from kbuild.kubeadm.prove.binary import prove_file
from kbuild.kubeadm.prove.elf import Content, read_arch
from kbuild.kubeadm.prove.errors import WrongBinary
from kbuild.kubeadm.prove.gobinary import (
    Module,
    package_of,
    read_build_info,
    read_functions,
    replacement,
)
from kbuild.kubeadm.source.closure import is_license
from kbuild.kubeadm.source.fetch import list_tags, resolve
from kbuild.kubeadm.source.versions import full_tag, is_tag, newest_of_each_minor, since
from kbuild.kubeadm.toolchain import images
from kbuild.kubeadm.toolchain.archives import digest_of
from kbuild.kubeadm.toolchain.errors import PinsDrifted
from kbuild.kubeadm.toolchain.images import Pin
from kbuild.kubeadm.toolchain.pin import is_go_version, parse_go_version

__all__ = [
    "Content",
    "Examined",
    "Job",
    "Made",
    "Module",
    "Pin",
    "PinsDrifted",
    "Series",
    "WrongBinary",
    "build_and_prove",
    "check_request",
    "choose_builder",
    "digest_of",
    "examine",
    "from_bundle",
    "full_tag",
    "images",
    "is_go_version",
    "is_license",
    "is_tag",
    "list_tags",
    "make_bundle",
    "newest_of_each_minor",
    "package_of",
    "parse_go_version",
    "patches_folder",
    "prepare",
    "prove_file",
    "read_arch",
    "read_build_info",
    "read_functions",
    "read_index",
    "replacement",
    "resolve",
    "series_for",
    "since",
]
