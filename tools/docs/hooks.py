"""What `mkdocs build` does beside reading docs/: pages made from the code, the rest of the nav."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import command_line
import http_api
import python_api
import settings_table

GENERATED = {
    "reference/cli.md": command_line.page,
    "reference/http.md": http_api.page,
    "reference/python.md": python_api.page,
    "reference/settings.md": settings_table.page,
}
GUIDES = "Guides"
SECURITY_HERE = "<!-- SECURITY.md -->"
SECURITY_FROM = "## The boundary"
DECISIONS = "decisions"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages that mkdocs.yml does not name: decisions, and guides."""
    docs = Path(config.docs_dir)
    nav: list[Any] = config.nav or []
    decisions = sorted(path.relative_to(docs) for path in (docs / DECISIONS).glob("*.md"))
    nav = _replace(nav, DECISIONS, [{_title(docs / path): str(path)} for path in decisions])
    named = set(_pages(nav))
    for section in nav:
        if isinstance(section, dict) and GUIDES in section:
            section[GUIDES] += [
                {_title(path): path.name}
                for path in sorted(docs.glob("*.md"))
                if path.name not in named
            ]
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages made from the code."""
    for name, page in GENERATED.items():
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Puts SECURITY.md, below its chapter on reporting, where a page has a place for it."""
    if SECURITY_HERE not in markdown:
        return markdown
    text = (Path(config.config_file_path).parent / "SECURITY.md").read_text()
    boundary = text[text.index(SECURITY_FROM) :]
    return markdown.replace(SECURITY_HERE, boundary.replace("](docs/", "]("))


def _title(path: Path) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", path.read_text(), re.MULTILINE)
    return found[1] if found else path.stem


def _replace(nav: Any, name: str, pages: list[Any]) -> Any:
    """A nav in which an entry has become pages."""
    if isinstance(nav, list):
        return [_replace(each, name, pages) for each in nav]
    if isinstance(nav, dict):
        return {title: _replace(each, name, pages) for title, each in nav.items()}
    return pages if nav == name else nav


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for each in entries for page in _pages(each)]
