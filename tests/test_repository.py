"""Rules of the house that hold for every file: import directions, dependencies, lengths, what may not be there."""

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

MAX_LINES = 300
MAX_FUNCTION_LINES = 50
"""Of code: a docstring says what it must."""
FORBIDDEN = {
    "a registry's host": re.compile(r"pypi\.org|python[h]osted|npmjs\.org|deb\.debian"),
    "a path of one machine": re.compile(r"(?<![\w.])/(work|farm|root)/"),
}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
NOT_INSTALLED = {"cv2": ["opencv-python-headless"], "sklearn": ["scikit-learn"]}
"""Distributions of modules that tests do without."""
LAYERS = (
    ("base",),
    ("backbones",),
    ("editor", "diffusion", "language", "metrics"),
    ("training",),
    ("cache", "checkpoints"),
    ("evaluation",),
    ("callbacks",),
    ("run",),
    ("doctor", "app"),
)
"""Rooms of mmig/; each may import those before it, and none that stands beside it."""
OWN = {"mmig", "datamodules", "experiments", "bench", "tests", "train", "evaluate", "edit"}


@pytest.fixture(scope="module")
def python_files(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix == ".py"]


@pytest.fixture(scope="module")
def trees(root: Path, python_files: list[Path]) -> dict[Path, ast.Module]:
    return {path: ast.parse((root / path).read_text(encoding="utf-8"), str(path)) for path in python_files}


@pytest.fixture(scope="module")
def settings(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(root / "setup.cfg", encoding="utf-8")
    return parser


def imported(path: Path, tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file, `from a import b` as `a.b`."""
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def breaches(trees: dict[Path, ast.Module], folder: str, *forbidden: str, but: tuple[str, ...] = ()) -> list[str]:
    """Imports of `forbidden` packages (except `but`) in the files of a folder, as 'file: name'."""
    return [
        f"{path}: {name}"
        for path, tree in trees.items()
        if path.as_posix().startswith(folder)
        for name in imported(path, tree)
        if is_in(name, *forbidden) and not is_in(name, *but)
    ]


def requirements(settings: configparser.ConfigParser, *extras: str) -> list[Requirement]:
    texts = [settings["options"]["install_requires"]]
    texts += [settings["options.extras_require"][extra] for extra in extras]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_datamodules_never_import_mmig(trees: dict[Path, ast.Module]) -> None:
    assert breaches(trees, "datamodules/", "mmig") == []


def test_mmig_imports_only_the_schema_and_programs_also_the_shards(trees: dict[Path, ast.Module]) -> None:
    programs = {
        path
        for path, tree in trees.items()
        if any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in tree.body)
    }
    library = {path: tree for path, tree in trees.items() if path not in programs}
    schema = ("datamodules.schema",)
    assert breaches(library, "mmig/", "datamodules", but=schema) == []
    assert breaches(trees, "mmig/", "datamodules", but=(*schema, "datamodules.shards")) == []


def test_rooms_import_only_what_lies_below_them(trees: dict[Path, ast.Module]) -> None:
    levels = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
    rooms = {
        path: path.parts[1].removesuffix(".py") for path in trees if path.parts[0] == "mmig" and len(path.parts) > 1
    }
    assert set(rooms.values()) - {"__init__", "methods"} == levels.keys()
    wrong = [
        f"{path}: {name}"
        for path, room in rooms.items()
        for name in imported(path, trees[path])
        if is_in(name, "mmig") and room in levels
        if (other := name.split(".")[1]) in levels and other != room and levels[other] >= levels[room]
    ]
    assert wrong == []


def test_the_app_is_a_leaf_that_nothing_imports_but_its_own_tests(trees: dict[Path, ast.Module]) -> None:
    others = {
        path: tree for path, tree in trees.items() if not path.as_posix().startswith(("mmig/app/", "tests/mmig/app/"))
    }
    assert breaches(others, "", "mmig.app") == []


def test_methods_import_no_command_line(trees: dict[Path, ast.Module]) -> None:
    assert breaches(trees, "mmig/methods/", "mmig.run") == []


def test_nothing_outside_methods_imports_a_method(trees: dict[Path, ast.Module]) -> None:
    core = {path: tree for path, tree in trees.items() if not path.as_posix().startswith("mmig/methods/")}
    assert breaches(core, "mmig/", "mmig.methods") == []
    for folder in ("datamodules/", "train.py", "evaluate.py", "edit.py"):
        assert breaches(core, folder, "mmig.methods") == []


def test_nothing_imports_experiments(trees: dict[Path, ast.Module]) -> None:
    for folder in ("mmig/", "datamodules/", "bench/", "train.py", "evaluate.py", "edit.py"):
        assert breaches(trees, folder, "experiments") == []


def test_methods_never_import_each_other(root: Path, trees: dict[Path, ast.Module]) -> None:
    methods = sorted(path.name for path in (root / "mmig/methods").iterdir() if (path / "__init__.py").exists())
    for method in methods:
        own = f"mmig.methods.{method}"
        assert breaches(trees, f"mmig/methods/{method}/", "mmig.methods", but=(own,)) == []


def test_nothing_but_tests_imports_tests(trees: dict[Path, ast.Module]) -> None:
    for folder in ("mmig/", "datamodules/", "experiments/", "bench/", "train.py", "evaluate.py", "edit.py"):
        assert breaches(trees, folder, "tests") == []


def test_every_folder_of_code_is_a_package(root: Path, python_files: list[Path]) -> None:
    folders = {path.parent for path in python_files if path.parts[0] in ("mmig", "datamodules", "experiments")}
    assert [str(folder) for folder in sorted(folders) if not (root / folder / "__init__.py").exists()] == []


def test_every_import_is_a_declared_dependency(
    trees: dict[Path, ast.Module], settings: configparser.ConfigParser
) -> None:
    declared = {canonical(requirement.name) for requirement in requirements(settings)}
    extras = {"tests": "test", "bench": "bench", "experiments": "bench", "datamodules/audio.py": "audio"}
    for folder, extra in (("mmig/app/", "app"), ("experiments/site/", "docs")):
        extras |= {path.as_posix(): extra for path in trees if path.as_posix().startswith(folder)}
    more = {
        place: {canonical(requirement.name) for requirement in requirements(settings, extra)}
        for place, extra in extras.items()
    }
    distributions = packages_distributions()
    missing = []
    for path, tree in trees.items():
        allowed = declared | more.get(path.parts[0], set()) | more.get(path.as_posix(), set())
        for top in {name.split(".")[0] for name in imported(path, tree)} - OWN - set(sys.stdlib_module_names):
            names = {canonical(name) for name in distributions.get(top, NOT_INSTALLED.get(top, [top]))}
            if not names & allowed:
                missing.append(f"{path}: {top}")
    assert missing == []


def test_every_dependency_is_pinned_to_a_version_in_its_range(root: Path, settings: configparser.ConfigParser) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonical(name): version for name, version in pins.items()}
    for requirement in requirements(settings, "test", "dev", "docs"):
        version = versions.get(canonical(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version} of constraints.txt"


def test_compromised_releases_of_lightning_are_excluded(settings: configparser.ConfigParser) -> None:
    lightning = next(requirement for requirement in requirements(settings) if requirement.name == "lightning")
    assert not any(lightning.specifier.contains(version) for version in ("2.6.2", "2.6.3"))


def test_every_yaml_file_parses(root: Path, files: list[Path]) -> None:
    found = [path for path in files if path.suffix in (".yaml", ".yml", ".cff")]
    assert found
    for path in found:
        assert yaml.safe_load((root / path).read_text(encoding="utf-8")) is not None, f"{path} is empty"


def test_files_are_short(root: Path, python_files: list[Path]) -> None:
    lengths = {str(path): len((root / path).read_text(encoding="utf-8").splitlines()) for path in python_files}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_functions_fit_on_a_screen(trees: dict[Path, ast.Module]) -> None:
    functions = (
        (path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    long = [f"{path}:{node.lineno} {node.name}" for path, node in functions if code_lines(node) > MAX_FUNCTION_LINES]
    assert long == []


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def test_no_registry_and_no_path_of_one_machine_is_named(root: Path, files: list[Path]) -> None:
    found = [
        f"{path}:{number} {what}"
        for path in files
        for number, line in enumerate(read_text(root / path).splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if pattern.search(line)
    ]
    assert found == []


def test_nothing_is_left_unfinished(root: Path, python_files: list[Path]) -> None:
    own = Path(__file__).resolve()
    assert [
        f"{path}:{number} {line.strip()}"
        for path in python_files
        if root / path != own
        for number, line in enumerate(read_text(root / path).splitlines(), 1)
        if UNFINISHED.search(line)
    ] == []


def read_text(path: Path) -> str:
    """The text of a file, empty for binary ones."""
    content = path.read_bytes()
    return "" if b"\0" in content[:8000] else content.decode("utf-8")
