"""SPDX ids from what projects say about themselves: metadata fields, classifiers, the opening of a licence text.

Only clear statements count: a bare "BSD" leaves open which one, and without a text to decide it stays null.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Public Domain": "public-domain",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
}
_NAMES = {
    "apache 2": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache license 2": "Apache-2.0",
    "apache license, version 2": "Apache-2.0",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "isc": "ISC",
    "mit": "MIT",
    "mpl-2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "psf": "PSF-2.0",
}
_EXPRESSION = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)+")
MAX_METADATA_BYTES = 1 << 20


def spdx_of_metadata(
    expression: str | None, field: str | None, classifiers: Iterable[str], text: str = ""
) -> str | None:
    """From Python core metadata, the clearest statement first: expression, field, licence text, classifiers."""
    if expression:
        return expression.strip()
    named = spdx_of_name(field or "") or spdx_of_text(field or "") or spdx_of_text(text)
    if named:
        return named
    spoken = [one.split("::")[-1].strip() for one in classifiers if one.startswith("License")]
    known = {_CLASSIFIERS[one] for one in spoken if one in _CLASSIFIERS}
    return known.pop() if len(known) == 1 and len(spoken) == 1 else None


def spdx_of_name(name: str) -> str | None:
    """From a short name as people write it: `Apache 2.0`, `MIT license`, `MPL-2.0 AND MIT`."""
    name = name.strip()
    if len(name) > 60 or "\n" in name:
        return None
    if _EXPRESSION.fullmatch(name):
        return name
    found = {spdx for words, spdx in _NAMES.items() if re.match(rf"(?:the )?{re.escape(words)}(?![a-z])", name.lower())}
    return found.pop() if len(found) == 1 else None


def spdx_of_text(text: str) -> str | None:
    """From the sentences that only one licence has, looked for in the first 20,000 characters."""
    text = re.sub(r"\s+", " ", text[:20_000]).lower()
    if "redistribution and use in source and binary forms" in text:
        return "BSD-3-Clause" if "neither the name" in text or "may not be used to endorse" in text else "BSD-2-Clause"
    if "apache license version 2.0" in text:
        return "Apache-2.0"
    if "permission is hereby granted, free of charge, to any person obtaining a copy" in text:
        return "MIT"
    if "permission to use, copy, modify, and/or distribute this software for any purpose" in text:
        return "ISC"
    return "MPL-2.0" if "mozilla public license version 2.0" in text else None


def licence_of_folder(folder: str) -> str | None:
    """What a repository's own metadata says: pyproject.toml, Cargo.toml or package.json at its top."""
    for name, sections in (
        ("pyproject.toml", ("project", "tool.poetry")),
        ("Cargo.toml", ("package",)),
        ("package.json", ("",)),
    ):
        try:
            with open(os.path.join(folder, name), "rb") as stream:
                text = stream.read(MAX_METADATA_BYTES).decode("utf-8")
            data = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
        except (OSError, ValueError, RecursionError):  # no such file, or no metadata: then it says nothing
            continue
        for section in sections:
            table = data
            for key in filter(None, section.split(".")):
                table = table.get(key) if isinstance(table, dict) else None
            value = table.get("license") if isinstance(table, dict) else None
            value = value.get("text") if isinstance(value, dict) else value
            if isinstance(value, str) and value.strip():
                return spdx_of_name(value) or (
                    value.strip() if re.fullmatch(r"[A-Za-z0-9.+-]+", value.strip()) else None
                )
    return None
