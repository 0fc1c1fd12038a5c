"""Find the SPDX id of a vendored module's license, from the text of its license file.

A text counts as a license if it contains the sentences that grant it, and no other grant. Uncertain
cases have no id: several different files, several grants in one file, any other license.

The ``identify`` package (2.6) compares whole texts. It does not know 91 of the 238 license files
that v1.20.2 vendors, among them those of all golang.org/x modules, whose last clause names Google.
Better tools, such as scancode-toolkit, are many times larger than kbuild.

Texts: https://spdx.org/licenses/.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kbuild.kubeadm.api import is_license

_MOST = 1 << 17  # bytes; the longest license that is recognized has 17,000
_BSD = (
    "redistribution and use in source and binary forms with or without modification are permitted"
    " provided that the following conditions are met"
)
_NO_ENDORSEMENT = "may be used to endorse or promote products derived from"
_GRANTS = {
    "Apache-2.0": (
        "you may not use this file except in compliance with the license you may obtain a copy of"
        " the license at http www apache org licenses license 2 0"
    ),
    "MIT": (
        "permission is hereby granted free of charge to any person obtaining a copy of this"
        " software and associated documentation files the software to deal in the software without"
        " restriction"
    ),
    "BSD": _BSD,
    "ISC": (
        "permission to use copy modify and or distribute this software for any purpose with or"
        " without fee is hereby granted provided that the above copyright notice and this"
        " permission notice appear in all copies"
    ),
    "MPL-2.0": (
        "this source code form is subject to the terms of the mozilla public license v 2 0"
    ),
}
_APACHE = "grant of copyright license subject to the terms and conditions of this license"
# A license with one of these texts has other conditions too.
_MORE = (
    "all advertising materials mentioning features",
    "commons clause",
    "creative commons",
    "eclipse public license",
)
_GPL = "gnu general public license"  # the MPL also mentions it, as a secondary license


def license_of(tree: Path, folder: str) -> str | None:
    """Return the SPDX id of the license of a directory of a source tree, or None.

    It is that of the directory itself or, without a license file there, of the nearest one above it
    below ``vendor`` or ``staging``.
    """
    for name in (PurePosixPath(folder), *PurePosixPath(folder).parents):
        if found := list(_files(tree, str(name))):
            ids = {_license_in(path) for path in found}
            return ids.pop() if len(ids) == 1 else None
        if str(name) in ("vendor", "staging", "."):
            break
    return None


def license_id(text: str) -> str | None:
    """Return the SPDX id of a license text, or None if it is not certain."""
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    found = {name for name, grant in _GRANTS.items() if grant in words}
    if _APACHE in words:  # with or without its appendix
        found.add("Apache-2.0")
    more = (*_MORE, _GPL) if found != {"MPL-2.0"} else _MORE
    if len(found) != 1 or any(other in words for other in more):
        return None
    name = found.pop()
    if name == "BSD":
        return "BSD-3-Clause" if _NO_ENDORSEMENT in words else "BSD-2-Clause"
    return name


def _files(tree: Path, folder: str) -> Iterator[Path]:
    # A link may lead out of the tree, and a special file may never end.
    path = tree / folder
    for file in sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else ():
        name = file.relative_to(tree).as_posix()
        if is_license(name) and file.is_file() and not file.is_symlink():
            yield file


def _license_in(path: Path) -> str | None:
    if path.stat().st_size > _MOST:
        return None
    return license_id(path.read_text(encoding="utf-8", errors="replace"))
