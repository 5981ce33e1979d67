"""What mkdocs calls while it builds the site: pages made of other files, and links to files without a page."""

import os
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from experiments.site import claims_page, equations, links, maths, reference

DOCS = PurePosixPath("docs")
_origins: dict[str, PurePosixPath] = {}
"""Page of the site -> the file whose links its own are."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the generated pages in the navigation, where it has their folders; draw blocks of formulas."""
    drawn = {"name": "math", "class": "formula", "format": maths.fence}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [drawn]
    made = {
        f"{equations.FOLDER}/": [f"{equations.FOLDER}/index.md", *(each.page for each in equations.equations())],
        f"{reference.FOLDER}/": [f"{reference.FOLDER}/index.md", *map(reference.page, reference.packages())],
    }
    config.nav = [_filled(entry, made) for entry in config.nav or []]
    return config


def _filled(entry: Any, made: dict[str, list[str]]) -> Any:
    if isinstance(entry, list):
        return [_filled(each, made) for each in entry]
    if isinstance(entry, dict):
        return {title: _filled(value, made) for title, value in entry.items()}
    return made.get(entry, entry)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and those of the files of the repository that documents lead to."""
    _origins.clear()
    waiting = []
    for file in files.documentation_pages():
        _origins[file.src_uri] = DOCS / file.src_uri
        waiting.append((file.src_uri, file.content_string))
    for uri, text, origin in _made():
        files.append(File.generated(config, uri, content=text))
        _origins[uri] = origin
        waiting.append((uri, text))
    while waiting:
        uri, text = waiting.pop()
        for link in links.linked(text, _origins[uri]):
            target = links.place(link.target)
            if files.get_file_from_path(target) or not (links.ROOT / link.target).exists():
                continue
            if link.target.suffix in links.PICTURES:
                files.append(File.generated(config, target, abs_src_path=str(links.ROOT / link.target)))
                continue
            content = links.page_of(link.target)
            files.append(File.generated(config, target, content=content))
            _origins[target] = link.target
            if link.target.suffix == ".md":
                waiting.append((target, content))
    return files


def _made() -> list[tuple[str, str, PurePosixPath]]:
    """Path, text, and the file whose links they are, of every page that is made of other files."""
    pages = {f"{equations.FOLDER}/index.md": equations.overview(), f"{reference.FOLDER}/index.md": reference.overview()}
    pages |= {reference.page(name): reference.markdown(name) for name in reference.packages()}
    made = [(uri, text, DOCS / uri) for uri, text in pages.items()]
    return [*made, *((each.page, equations.markdown(each), equations.DOCUMENT) for each in equations.equations())]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to their pages, and fill in what is made of other files."""
    uri = page.file.src_uri
    if uri == equations.DOCUMENT.name:
        markdown = equations.with_links(markdown)
    if claims_page.MARK in markdown:
        markdown = markdown.replace(claims_page.MARK, claims_page.tables())
    markdown = links.with_sources(markdown, _origins[uri])

    def led(link: links.Link) -> str:
        target = links.place(link.target)
        if not files.get_file_from_path(target):  # mkdocs warns of it
            return f"{link.target}{link.anchor}"
        return os.path.relpath(target, os.path.dirname(uri)) + (link.anchor or links.line_anchor(link))

    return links.replaced(markdown, _origins[uri], led)
