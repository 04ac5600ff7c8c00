"""Web service reference manuals out of the API descriptions that botocore ships: one book per service.

Each description holds the service's overview, its operations and its data types with their documentation as HTML: 100 to 300 kB
of prose per service, some 40 MB in all, which is where long documents come from on a machine that has only Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from resiliparse.extract.html2text import extract_plain_text

from pipeline.ingest.paths import Defect

MANUAL = re.compile(r"botocore/data/[^/]+/[^/]+/service-2\.json(?:\.gz)?")


def manual(description: bytes) -> str:
    """The book of one service as text. Raises Defect when the description is none."""
    try:
        service = json.loads(description)
        html = "\n".join(_chapters(service))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = "not a service description"
        raise Defect(msg) from error
    return str(extract_plain_text(html, main_content=False, alt_texts=False, links=False))


def _chapters(service: Mapping[str, Any]) -> Iterator[str]:
    about = service["metadata"]
    yield f"<h1>{escape(about.get('serviceFullName') or about['endpointPrefix'])}, API version {escape(about['apiVersion'])}</h1>"
    yield service.get("documentation") or ""
    yield "<h2>Operations</h2>"
    for name, operation in service["operations"].items():
        if documentation := operation.get("documentation"):
            yield f"<h3>{escape(name)}</h3>\n{documentation}"
    yield "<h2>Data types</h2>"
    for name, shape in service["shapes"].items():
        members = [(key, one.get("documentation")) for key, one in (shape.get("members") or {}).items()]
        told = [f"<h4>{escape(key)}</h4>\n{text}" for key, text in members if text]
        if shape.get("documentation") or told:
            yield f"<h3>{escape(name)}</h3>\n{shape.get('documentation') or ''}\n" + "\n".join(told)
