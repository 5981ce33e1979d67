"""The version stands in one place of the code, and the citation follows it."""

import configparser
from pathlib import Path

import yaml

from mmig import __version__


def test_package_and_citation_have_the_version_of_the_code(root: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["version"] == "attr: mmig.__version__"
    assert yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
