"""An SPDX 2.3 document a binary: the Go modules in it, as its own build info names them.

A build in GOPATH mode (tags before v1.25) leaves no module in the build info. There the modules are
those of the tree's ``vendor/modules.txt`` whose packages the binary's own function table names;
where there is no such file (before v1.15) it is the packages, without a version.
"""

import io
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from kbuild import __version__
from kbuild.model import Binary, BuildRequest, SourceTree
from kbuild.prove.elf import Content
from kbuild.prove.gobinary import (
    Module,
    package_of,
    read_build_info,
    read_functions,
    replacement,
)
from kbuild.release.strictjson import load_json

MAIN = "k8s.io/kubernetes"
_VENDOR = f"{MAIN}/vendor/"
_MAX_ELEMENTS = 5000  # the validator compares each with all; the largest of ours has 1,500


def sbom_text(binary: Binary, request: BuildRequest) -> str:
    """Return the SPDX document of a binary, as JSON that the SPDX validator accepts."""
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
        how = "vendor/modules.txt of the tree and the function table of the binary"
    assert request.build_date is not None
    stream = io.StringIO()
    go_version = binary.tree.toolchain.go_version
    document = _document(
        binary, modules, go_version, f"The modules are by {how}.", request.build_date
    )
    write_document_to_stream(document, stream)
    return json.dumps(json.loads(stream.getvalue()), indent=2) + "\n"


def vendored_packages(binary: Content) -> frozenset[str]:
    """Return the vendored packages that a binary built in GOPATH mode has functions of."""
    names = (function.name.split(_VENDOR) for function in read_functions(binary))
    # A method that a type got from another package names that one too, further on.
    return frozenset(package_of(parts[1]) for parts in names if parts[0] == "" and parts[1:])


def contradictions(text: bytes, binary: bytes, arch: str, digest: str) -> Iterator[str]:
    """Yield what an SBOM says that its binary does not, and the other way round."""
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
        yield f"is no SPDX document: {error}"
        return
    if faults:
        yield f"is no valid SPDX document: {faults[0].validation_message}"
    packages = {package.name: package for package in document.packages}
    main = packages.pop("kubeadm", None)
    if main is None or [sum_.value for sum_ in main.checksums] != [digest]:
        yield f"is not of the kubeadm for {arch} beside it"
    packages.pop("stdlib", None)
    told = {name: package.version or "" for name, package in packages.items()}
    modules = read_build_info(binary).modules
    if modules:
        tag = main.version if main is not None else None
        held = {module.path: (tag if module.local else module.version) for module in modules}
        for name in sorted(told.keys() | held.keys()):
            if told.get(name) != held.get(name):
                yield f"says {name} {told.get(name)}, the binary holds {held.get(name)}"
        return
    owners = {package: _owner(package, told) for package in vendored_packages(binary)}
    for package in sorted(package for package, owner in owners.items() if owner is None):
        yield f"does not name the module of {package}, which is in the binary"
    for name in sorted(told.keys() - set(owners.values())):
        yield f"names {name}, of which nothing is in the binary"


def _owner(package: str, modules: Container[str]) -> str | None:
    """Return the longest of the modules that the package is in."""
    while package and package not in modules:
        package = package.rpartition("/")[0]
    return package or None


def _vendored_modules(source: SourceTree) -> Mapping[str, Module]:
    """Return the module of each vendored package that the tree lists."""
    found: dict[str, Module] = {}
    module: Module | None = None
    file = source.path / "vendor/modules.txt"
    for line in file.read_text().splitlines() if file.is_file() else ():
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


def _origin(source: SourceTree) -> str:
    """Return what the source is; the same whether an archive was compared with git or not."""
    if source.sha256 is None:
        return f"commit {source.commit} of {source.origin}"
    claim = f"which names itself commit {source.commit}"
    return f"archive {source.origin} with sha256 {source.sha256}, {claim}"


def _document(
    binary: Binary, modules: Iterable[Module], go_version: str, comment: str, created: datetime
) -> Any:  # noqa: ANN401  # a class that is slow to import
    from packageurl import PackageURL
    from spdx_tools.spdx import model as spdx

    source = binary.tree.source
    nothing = spdx.SpdxNoAssertion()

    def package(
        name: str,
        version: str | None,
        purl: PackageURL | None,
        **more: Any,  # noqa: ANN401
    ) -> spdx.Package:
        external = spdx.ExternalPackageRefCategory.PACKAGE_MANAGER
        references = [spdx.ExternalPackageRef(external, "purl", str(purl))] if purl else []
        return spdx.Package(
            spdx_id="SPDXRef-Package-" + "".join(c if c.isalnum() else "-" for c in name),
            name=name,
            download_location=nothing,
            version=version,
            files_analyzed=False,
            external_references=references,
            **more,
        )

    main = package(
        "kubeadm",
        source.tag,
        PackageURL("golang", "k8s.io", "kubernetes", source.tag, subpath="cmd/kubeadm"),
        checksums=[spdx.Checksum(spdx.ChecksumAlgorithm.SHA256, binary.sha256)],
        primary_package_purpose=spdx.PackagePurpose.APPLICATION,
        source_info=f"{_origin(source)}, with kubeadm.patch",
        built_date=created,
    )
    parts = [package("stdlib", go_version, PackageURL("golang", None, "stdlib", go_version))]
    for module in modules:
        if module.local:
            about = f"{module.local} of {MAIN} at this tag"
            parts.append(package(module.path, source.tag, None, comment=about))
        else:
            folder, _, name = module.path.rpartition("/")
            purl = PackageURL("golang", folder or None, name, module.version or None)
            parts.append(package(module.path, module.version or None, purl))
    info = spdx.CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id="SPDXRef-DOCUMENT",
        name=f"kubeadm-{source.tag}-linux-{binary.arch}",
        document_namespace=(
            f"https://spdx.org/spdxdocs/kubeadm-{source.tag}-linux-{binary.arch}-{binary.sha256}"
        ),
        creators=[spdx.Actor(spdx.ActorType.TOOL, f"kbuild-{__version__}")],
        created=created,
        document_comment=comment,
    )
    describes = spdx.Relationship(info.spdx_id, spdx.RelationshipType.DESCRIBES, main.spdx_id)
    depends = [
        spdx.Relationship(main.spdx_id, spdx.RelationshipType.DEPENDS_ON, part.spdx_id)
        for part in parts
    ]
    return spdx.Document(info, packages=[main, *parts], relationships=[describes, *depends])
