"""Pages of indexes, with their addresses replaced by those of the gate.

Formats: the simple repository API (PEP 503 as HTML, PEP 691 as JSON), flat lists of links, and
npm's package documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

JSON = "application/vnd.pypi.simple.v1+json"
_KEPT = ("filename", "hashes", "requires-python", "yanked", "size", "upload-time", "core-metadata")
_HASH = re.compile(r"(md5|sha1|sha224|sha256|sha384|sha512)=([0-9a-f]+)")

Replace = Callable[[str, str], str]
"""The gate's address for a file, by its own (absolute) address and its name."""


class PageError(Exception):
    """A page that is none."""


class _Links(HTMLParser):
    """The anchors of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base: str | None = None
        self.found: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a" and given.get("href"):
            self.found.append(given)
        elif tag == "base" and self.base is None:
            self.base = given.get("href")


def simple_page(body: bytes, content_type: str, url: str, project: str, replace: Replace) -> bytes:
    """A project's page of an index, as JSON.

    Args:
        body, content_type: as the index answered.
        url: where from.
        project: its normal name.
        replace: see ``Replace``.

    Raises:
        PageError: the index answered something else.
    """
    files = _of_json(body) if "json" in content_type else _of_html(body)
    kept = []
    for each in files:
        address, name = urljoin(url, each["url"]), each["filename"]
        entry = {key: each[key] for key in _KEPT if key in each}
        entry.setdefault("hashes", {})
        kept.append({**entry, "url": replace(address, name)})
    page = {"meta": {"api-version": "1.0"}, "name": project, "files": kept}
    return json.dumps(page).encode()


def _of_json(body: bytes) -> list[dict[str, Any]]:
    try:
        page = json.loads(body)
        files: list[dict[str, Any]] = page["files"]
        for each in files:
            if not (isinstance(each["url"], str) and isinstance(each["filename"], str)):
                raise PageError("a file without a name")
            if "core-metadata" not in each and each.get("dist-info-metadata"):
                each["core-metadata"] = each["dist-info-metadata"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PageError(f"no page of an index: {type(error).__name__}") from None
    return files


def _of_html(body: bytes) -> list[dict[str, Any]]:
    links = _Links()
    links.feed(body.decode("utf-8", "replace"))
    files = []
    for given in links.found:
        address, fragment = urldefrag(urljoin(links.base or "", given["href"]))
        entry: dict[str, Any] = {
            "url": address,
            "filename": unquote(urlsplit(address).path.rpartition("/")[2]),
        }
        digest = _HASH.fullmatch(fragment)
        entry["hashes"] = {digest[1]: digest[2]} if digest else {}
        if "data-requires-python" in given:
            entry["requires-python"] = given["data-requires-python"]
        if "data-yanked" in given:
            entry["yanked"] = given["data-yanked"] or True
        metadata = given.get("data-core-metadata", given.get("data-dist-info-metadata"))
        if metadata:
            found = _HASH.fullmatch(metadata)
            entry["core-metadata"] = {found[1]: found[2]} if found else True
        files.append(entry)
    return files


def links_page(body: bytes, url: str, replace: Replace) -> bytes:
    """A flat list of links, as HTML."""
    lines = []
    for each in _of_html(body):
        name = each["filename"]
        if not name:
            continue
        digests = "".join(f"#{kind}={value}" for kind, value in each["hashes"].items())
        address = replace(urljoin(url, each["url"]), name)
        lines.append(f'<a href="{address}{digests}">{_escaped(name)}</a>')
    return ("<!DOCTYPE html><html><body>\n" + "\n".join(lines) + "\n</body></html>\n").encode()


def npm_document(body: bytes, url: str, replace: Replace) -> bytes:
    """A package's document of a registry.

    Raises:
        PageError: the registry answered something else.
    """
    try:
        document = json.loads(body)
        for version in document.get("versions", {}).values():
            dist = version["dist"]
            address = urljoin(url, dist["tarball"])
            dist["tarball"] = replace(address, urlsplit(address).path.rpartition("/")[2])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PageError(f"no document of a registry: {type(error).__name__}") from None
    return json.dumps(document).encode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
