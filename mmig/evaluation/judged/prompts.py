"""What a judge is asked, in the benchmark's own words where the user has its file, else in ours.

No benchmark's prompts are in this repository. A file that is given is read and never run: constants of a Python file,
or a JSON of texts. Numbers by other words than the official ones are not comparable with published ones, and say so.
"""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmig.evaluation.judged.items import JudgedError
from mmig.evaluation.settings import read_yaml

OWN = Path(__file__).parent / "own_prompts.yaml"
ANY = "any"
"""Among our own words: for questions that have none for themselves."""


@dataclass(frozen=True)
class Prompts:
    """Texts by name, with placeholders.

    Attributes:
        texts: of a benchmark's file under its own names, or ours by the name of the question.
        origin: the file, for messages.
        sha256: of the file, or of our words.
        source: which published file has this hash; "" for any other.
        is_own: whether the words are ours.
    """

    texts: Mapping[str, str]
    origin: str
    sha256: str
    source: str = ""
    is_own: bool = False

    def text(self, name: str, parts: Sequence[str] = ()) -> str:
        """The words of a question.

        Args:
            name: of the question.
            parts: texts of the benchmark's file that stand under one another there; default: the one of that name.

        Raises:
            JudgedError: the file has no such text.
        """
        if self.is_own:
            return self.texts.get(name, self.texts.get(ANY, ""))
        return "\n".join(self._named(part) for part in parts or (name,))

    def _named(self, name: str) -> str:
        if name not in self.texts:
            some = ", ".join(sorted(self.texts)[:8])
            raise JudgedError(f"--prompts {self.origin}: expected a text {name!r}, found {some or 'none'}")
        return self.texts[name]

    def describe(self) -> dict[str, Any]:
        """For the results: where the words come from, and whether numbers by them may be compared."""
        return {"origin": self.origin, "sha256": self.sha256, "official": bool(self.source), "source": self.source}


def own_prompts(benchmark: str) -> Prompts:
    """Our words for a benchmark, with the hash of just these."""
    texts = read_yaml(OWN)[benchmark]
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return Prompts(texts, f"own words for {benchmark}", digest, is_own=True)


def read_prompts(path: Path, known: Sequence[Mapping[str, str]] = ()) -> Prompts:
    """A benchmark's file: a Python file's constants of text, or a JSON object of texts.

    Args:
        path: of the file.
        known: `sha256` and `source` of published files.

    Raises:
        JudgedError: it cannot be read as either.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JudgedError(
            f"--prompts {path}: cannot be read ({error.strerror}); expected a .py or .json file"
        ) from error
    try:
        found = _constants(content) if path.suffix == ".py" else json.loads(content)
    except (SyntaxError, ValueError) as error:
        raise JudgedError(f"--prompts {path}: cannot be read as {path.suffix or 'JSON'} ({error})") from error
    if not isinstance(found, dict):
        raise JudgedError(f"--prompts {path}: expected a JSON object of texts, found {type(found).__name__}")
    texts = {name: text for name, text in found.items() if isinstance(text, str)}
    digest = hashlib.sha256(content).hexdigest()
    source = next((entry["source"] for entry in known if entry["sha256"] == digest), "")
    return Prompts(texts, str(path), digest, source)


def _constants(content: bytes) -> dict[str, Any]:
    """Texts that a Python file assigns to names at its top, read without running it."""
    return {
        target.id: node.value.value
        for node in ast.parse(content).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def filled(text: str, origin: str, **values: str) -> str:
    """A text whose `{name}` are replaced, `{{` being a brace, as `str.format` does.

    Raises:
        JudgedError: it has another placeholder.
    """
    try:
        return text.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        expected = ", ".join(f"{{{name}}}" for name in values)
        raise JudgedError(f"--prompts {origin}: expected no other placeholders than {expected} ({error!r})") from error
