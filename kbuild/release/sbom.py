"""Write an SPDX 2.3 document for a binary: its Go modules, from its build info.

A build in GOPATH mode (tags before v1.25) has no modules in the build info. Then the modules are
those in the tree's ``vendor/modules.txt`` with packages in the binary's function table. Without
that file (before v1.15) they are the packages, with the commits in Godeps.

Each package has NTIA's minimum elements: supplier, name, version, a unique identifier (its purl)
and its relationship
(https://www.ntia.gov/report/2021/minimum-elements-software-bill-materials-sbom). Go modules do not
name their suppliers, so the supplier is the owner of the module's path. The same binary and source
give the same document, from any mirror or path.
"""

import io
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from packaging.version import Version

from kbuild import __version__
from kbuild.base.errors import NotKubernetes
from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.base.strictjson import load_json
from kbuild.kubeadm.api import (
    Content,
    Module,
    is_tag,
    package_of,
    read_build_info,
    read_functions,
    replacement,
)
from kbuild.kubeadm.model import Binary, SourceTree
from kbuild.release.licenses import license_of

MAIN = "k8s.io/kubernetes"
KUBERNETES, GO = "The Kubernetes Authors", "The Go Authors"
_FIRST_V0 = (1, 17)
_HOSTERS = ("github.com", "gitlab.com", "bitbucket.org")
_VENDOR = f"{MAIN}/vendor/"
_GODEPS = "Godeps/Godeps.json"
_MAX_LIST = 4 << 20  # bytes of a list of modules
_MAX_ELEMENTS = 5000  # the validator takes quadratic time; the largest SBOM of kubeadm has 1,500


def sbom_text(binary: Binary) -> str:
    """Return the SPDX document of a binary as JSON."""
    from spdx_tools.spdx.writer.json.json_writer import (  # slow to import
        write_document_to_stream,
    )

    source = binary.tree.source
    info = read_build_info(binary.path)
    how, modules = "the build info of the binary", info.modules
    if not modules:
        vendored = _vendored_modules(source)
        found = vendored_packages(binary.path)
        modules = tuple(sorted({vendored.get(p, Module(p, "")) for p in found}))
        how = "the list of vendored packages in the tree and the function table of the binary"
    stream = io.StringIO()
    go_version = binary.tree.toolchain.go_version
    document = _document(
        binary, modules, go_version, f"The modules are by {how}.", binary.stamp.build_date
    )
    write_document_to_stream(document, stream)
    return json.dumps(json.loads(stream.getvalue()), indent=2) + "\n"


def vendored_packages(binary: Content) -> frozenset[str]:
    """Return the vendored packages with functions in a binary built in GOPATH mode."""
    names = (function.name.split(_VENDOR) for function in read_functions(binary))
    # The name of a method from another package also contains that package, further on.
    return frozenset(package_of(parts[1]) for parts in names if parts[0] == "" and parts[1:])


def contradictions(text: bytes, binary: bytes, arch: str, digest: str) -> Iterator[str]:
    """Yield the differences between an SBOM and its binary."""
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    try:
        found = load_json(text)
        if sum(len(each) for each in found.values() if isinstance(each, list)) > _MAX_ELEMENTS:
            yield f"has more than {_MAX_ELEMENTS} packages, relationships and the like"
            return
        document = JsonLikeDictParser().parse(found)
        faults = validate_full_spdx_document(document)
    except Exception as error:  # the parser's have no common base
        yield f"is not an SPDX document: {reason_of(error)}"
        return
    if faults:
        yield f"is not a valid SPDX document: {faults[0].validation_message}"
    packages = {package.name: package for package in document.packages}
    main = packages.pop("kubeadm", None)
    if main is None or [sum_.value for sum_ in main.checksums] != [digest]:
        yield f"does not describe the kubeadm for {arch} beside it"
    packages.pop("stdlib", None)
    listed = {name: package.version or "" for name, package in packages.items()}
    modules = read_build_info(binary).modules
    if modules:
        tag = main.version if main is not None else None
        staged = staging_version(tag) if tag and is_tag(tag) else None
        compiled = {m.path: (staged if _staging_folder(m) else m.version) for m in modules}
        for name in sorted(listed.keys() | compiled.keys()):
            if listed.get(name) != compiled.get(name):
                yield f"says {name} {listed.get(name)}, the binary contains {compiled.get(name)}"
        return
    owners = {package: _owner(package, listed) for package in vendored_packages(binary)}
    for package in sorted(package for package, owner in owners.items() if owner is None):
        yield f"does not name the module of {package}, which is in the binary"
    for name in sorted(listed.keys() - set(owners.values())):
        yield f"names {name}, which is not in the binary"


def _owner(package: str, modules: Container[str]) -> str | None:
    """Return the longest of the modules that the package is in."""
    while package and package not in modules:
        package = package.rpartition("/")[0]
    return package or None


def _vendored_modules(source: SourceTree) -> Mapping[str, Module]:
    """Return the module of each vendored package that the tree lists."""
    found = _godeps(source)
    module: Module | None = None
    for line in _text_of(source, "vendor/modules.txt").splitlines():
        if line.startswith("# "):
            # `# path version`, and either may be replaced: `# path => other version`
            named, _, other = line.removeprefix("# ").partition(" => ")
            path, _, version = named.partition(" ")
            module = Module(path, version)
            if other:
                path, _, version = other.partition(" ")
                module = replacement(module, path, version)
        elif module is not None and line and not line.startswith("#"):
            found[line] = module
    return found


def _source_info(source: SourceTree) -> str:
    """Return a description of the source, which is the same for every mirror."""
    commit = f"commit {source.commit} (tag {source.tag}) of {MAIN}"
    if source.sha256 is None:
        return commit
    return f"archive with sha256 {source.sha256}, which names itself {commit}"


def _godeps(source: SourceTree) -> dict[str, Module]:
    """Return each package in Godeps.json with its commit, for trees up to v1.14."""
    text = _text_of(source, _GODEPS)
    if not text:
        return {}
    try:
        listed = json.loads(text)["Deps"]
        return {each["ImportPath"]: Module(each["ImportPath"], each["Rev"]) for each in listed}
    except BROKEN as error:
        raise _unreadable(source, _GODEPS, error) from error


def _text_of(source: SourceTree, name: str) -> str:
    """Return the text of a file of the tree, empty if it is missing; raises NotKubernetes."""
    try:
        return read_file(source.path / name, _MAX_LIST).decode()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeError) as error:
        raise _unreadable(source, name, error) from error


def _unreadable(source: SourceTree, name: str, error: Exception) -> NotKubernetes:
    reason = f"its {name} cannot be read: {reason_of(error)}"
    return NotKubernetes(source=source.origin, reason=reason)


def _document(
    binary: Binary, modules: Iterable[Module], go_version: str, comment: str, created: datetime
) -> Any:  # noqa: ANN401  # a class that is slow to import
    from spdx_tools.spdx import model as spdx

    source = binary.tree.source
    license_ = license_of(source.path, ".")
    main = _package(
        "kubeadm", source.tag, _purl(MAIN, source.tag, "cmd/kubeadm"), "kbuild", license_
    )
    main.checksums = [spdx.Checksum(spdx.ChecksumAlgorithm.SHA256, binary.sha256)]
    main.primary_package_purpose = spdx.PackagePurpose.APPLICATION
    main.originator = spdx.Actor(spdx.ActorType.ORGANIZATION, KUBERNETES)
    # Not the address of the source: another mirror of the same commit must give the same bytes.
    patched = ", with kubeadm.patch applied" if binary.tree.patches else ""
    main.source_info = f"{_source_info(source)}{patched}"
    main.built_date = created
    stdlib = _package("stdlib", go_version, _purl("stdlib", go_version), GO, "BSD-3-Clause")
    parts = [stdlib, *(_module_package(module, source) for module in modules)]
    info = spdx.CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id="SPDXRef-DOCUMENT",
        name=f"kubeadm-{source.tag}-linux-{binary.arch}",
        document_namespace=(
            f"https://spdx.org/spdxdocs/kubeadm-{source.tag}-linux-{binary.arch}-{binary.sha256}"
        ),
        creators=[
            spdx.Actor(spdx.ActorType.ORGANIZATION, "kbuild"),
            spdx.Actor(spdx.ActorType.TOOL, f"kbuild-{__version__}"),
        ],
        created=created,
        document_comment=comment,
    )
    describes = spdx.Relationship(info.spdx_id, spdx.RelationshipType.DESCRIBES, main.spdx_id)
    depends = [
        spdx.Relationship(main.spdx_id, spdx.RelationshipType.DEPENDS_ON, part.spdx_id)
        for part in parts
    ]
    return spdx.Document(info, packages=[main, *parts], relationships=[describes, *depends])


def _module_package(module: Module, source: SourceTree) -> Any:  # noqa: ANN401
    version, folder = module.version or None, f"vendor/{module.path}"
    if staged := _staging_folder(module):
        version, folder = staging_version(source.tag), staged
    purl = _purl(module.path, version)
    license_ = license_of(source.path, folder)
    package = _package(module.path, version, purl, supplier_of(module.path), license_)
    if staged:
        package.comment = f"{staged} of {MAIN} {source.tag}"
    return package


def _staging_folder(module: Module) -> str:
    """Return the directory of a module of the tree, or empty text for other modules."""
    if module.local:
        return module.local.removeprefix("./")
    # In a workspace, since v1.30, modules of the tree are not replacements and have no version.
    is_here = module.path.startswith("k8s.io/") and module.version in ("(devel)", "v0.0.0")
    return f"staging/src/{module.path}" if is_here else ""


def _package(
    name: str,
    version: str | None,
    purl: str,
    supplier: str,
    license_: str | None,
) -> Any:  # noqa: ANN401
    from spdx_tools.common.spdx_licensing import (  # type: ignore[import-untyped]
        spdx_licensing,
    )
    from spdx_tools.spdx import model as spdx

    manager = spdx.ExternalPackageRefCategory.PACKAGE_MANAGER
    nothing = spdx.SpdxNoAssertion()
    return spdx.Package(
        spdx_id="SPDXRef-Package-" + "".join(c if c.isalnum() else "-" for c in name),
        name=name,
        download_location=nothing,
        version=version,
        supplier=spdx.Actor(spdx.ActorType.ORGANIZATION, supplier),
        files_analyzed=False,
        license_concluded=nothing,
        license_declared=spdx_licensing.parse(license_) if license_ else nothing,
        copyright_text=nothing,
        external_references=[spdx.ExternalPackageRef(manager, "purl", purl)],
    )


def _purl(path: str, version: str | None, subpath: str | None = None) -> str:
    from packageurl import PackageURL

    # The definition of the type requires lower case, which the library does not apply:
    # https://github.com/package-url/purl-spec/blob/main/types-doc/golang-definition.md
    namespace, _, name = path.lower().rpartition("/")
    return str(PackageURL("golang", namespace or None, name, version, subpath=subpath))


def staging_version(tag: str) -> str:
    """Return the version that the staging modules of a tag are published as.

    Source: https://github.com/kubernetes/client-go#kubernetes-tags.
    """
    if Version(tag).release[:2] >= _FIRST_V0:
        return f"v0{tag.removeprefix('v1')}"
    return f"kubernetes-{tag.removeprefix('v')}"


def supplier_of(path: str) -> str:
    """Return the supplier of a module: the owner of its path."""
    host, _, rest = path.partition("/")
    if host in ("k8s.io", "sigs.k8s.io"):
        return KUBERNETES
    if host == "golang.org":
        return GO
    return f"{host}/{rest.partition('/')[0]}" if host in _HOSTERS else host
