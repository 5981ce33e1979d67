"""Links of pages to files of the repository that are no pages: code, configurations, pictures outside of docs/.

In docs/ they are relative paths, so that they work where the files themselves are read. The site has a page for each of
these files, with its text and its lines numbered, and a copy of what is no text.
"""

import ast
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?P<text>\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
SOURCE = re.compile(r"^<!-- source: (?P<path>\S+) (?P<name>\S+) -->$", re.MULTILINE)
"""Where a document shows a function or class of a program."""
LINE = "line"
FOLDER = "repository"
"""Of the site, where these files are."""
PAGES = ("docs", "docs/equations", "docs/reference")
PICTURES = (".png", ".svg", ".jpg", ".webp")


@dataclass(frozen=True)
class Link:
    """A link of a document: what it says, the file that it leads to (relative to the root), and its anchor."""

    text: str
    target: PurePosixPath
    anchor: str


def is_page(path: PurePosixPath) -> bool:
    """Whether a path is a page of the site, or a picture of one: a file of docs/, or made while the site is built."""
    return str(path.parent) in PAGES and path.suffix in (".md", *PICTURES)


def resolve(source: PurePosixPath, target: str) -> PurePosixPath:
    """The file that a relative link leads to, relative to the root."""
    return PurePosixPath(os.path.normpath(source.parent / target))


def is_foreign(target: str) -> bool:
    """Whether a link leads out of the repository, or stays on its page."""
    return not target or "://" in target or target.startswith("mailto:")


def replaced(text: str, source: PurePosixPath, new: Callable[[Link], str]) -> str:
    """A document with every link to a file of the repository, outside of code blocks, replaced by `new(link)`."""

    def one(match: re.Match[str]) -> str:
        if is_foreign(match["target"]):
            return match[0]
        link = Link(match["text"], resolve(source, match["target"]), match["anchor"] or "")
        return f"{match['text']}({new(link)})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(one, part) for part in parts)


def linked(text: str, source: PurePosixPath) -> Iterator[Link]:
    """The links of a document to files of the repository."""
    found: list[Link] = []

    def keep(link: Link) -> str:
        found.append(link)
        return ""

    replaced(text, source, keep)
    yield from found


def place(path: PurePosixPath) -> str:
    """Where the site has a file or folder of the repository: of a page itself, of others below FOLDER."""
    if is_page(path):
        return str(path.relative_to("docs"))
    if path.suffix in PICTURES:
        return f"{FOLDER}/{path}"
    return f"{FOLDER}/{path}.md" if path.suffix != ".md" else f"{FOLDER}/{path}"


def page_of(path: PurePosixPath) -> str:
    """The page that shows a text of the repository, or what is in a folder of it."""
    file = ROOT / path
    if path.suffix == ".md":
        return file.read_text(encoding="utf-8")
    head = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# `{path}`\n\n"
    if file.is_dir():
        return head + "".join(f"- `{child.name}`\n" for child in sorted(file.iterdir()))
    return f"{head}{highlighted(path)}\n"


def highlighted(path: PurePosixPath) -> str:
    """HTML of a text of the repository with numbered lines; line 7 has the anchor `line-7`."""
    text = (ROOT / path).read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    form = HtmlFormatter(cssclass="highlight", linenos="table", lineanchors=LINE, anchorlinenos=True)
    return highlight(text, lexer, form)


@cache
def definitions(path: PurePosixPath) -> dict[str, tuple[int, int]]:
    """First and last line of every function and class of a program, methods as Class.method; of values their line."""
    lines: dict[str, tuple[int, int]] = {}

    def visit(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lines[prefix + node.name] = first, node.end_lineno or node.lineno
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                names = [target.id for target in ast.walk(node) if isinstance(target, ast.Name)]
                lines.update(
                    {prefix + name: (node.lineno, node.lineno) for name in names if prefix + name not in lines}
                )

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")).body, "")
    return lines


def line_anchor(link: Link) -> str:
    """The anchor of the line where a program defines the name that the link's text is; "" where it defines none."""
    name = link.text.strip("[]`")
    if link.target.suffix != ".py" or name not in definitions(link.target):
        return ""
    return f"#{LINE}-{definitions(link.target)[name][0]}"


def source_of(path: PurePosixPath, name: str) -> str:
    """Text of a function or class of a program, decorators with it."""
    first, last = definitions(path)[name]
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()[first - 1 : last]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def with_sources(text: str, source: PurePosixPath) -> str:
    """A document with the functions and classes that it asks to show."""

    def shown(match: re.Match[str]) -> str:
        path = resolve(source, match["path"])
        return f'````{{.python title="{path}"}}\n{source_of(path, match["name"])}\n````'

    return SOURCE.sub(shown, text)
