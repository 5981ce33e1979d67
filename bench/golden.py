r"""Whether two commits train alike, bit for bit: the golden curves of both on this machine.

`python bench/golden.py REV [NAME ...]` compares the working tree with a commit; each runs its own
tests/golden/curves.py on its own code. Prints the largest relative difference of each method, 0 where every number and
every trained weight is the same to the bit, and ends with status 1 where one is not.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def curves(tree: Path, out: Path, names: list[str]) -> dict[str, dict[str, list[float]]]:
    """What the code in `tree` computes."""
    command = [sys.executable, "-m", "tests.golden.curves", "--weights", "--out", str(out), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=tree, env=environment, check=True)
    return json.loads(out.read_text(encoding="utf-8"))


def difference(here: dict[str, list[float]], there: dict[str, list[float]]) -> float:
    """Largest relative difference of two methods' curves; infinite where they hold other numbers."""
    if {name: len(values) for name, values in here.items()} != {name: len(values) for name, values in there.items()}:
        return math.inf
    pairs = [pair for name in here for pair in zip(here[name], there[name], strict=True)]
    return max(0.0 if str(a) == str(b) else abs(a - b) / (max(abs(a), abs(b)) or 1.0) for a, b in pairs)


def main() -> None:
    """Compare and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rev", nargs="?", default="HEAD", help="commit to compare the working tree with")
    parser.add_argument("names", nargs="*", help="methods, all by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", other, options.rev], cwd=ROOT, check=True)
        try:
            there = curves(other, Path(folder) / "there.json", options.names)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", other], cwd=ROOT, check=True)
        here = curves(ROOT, Path(folder) / "here.json", options.names)
    worst = 0.0
    for method in sorted(here.keys() | there.keys()):
        found = math.inf if method not in here or method not in there else difference(here[method], there[method])
        print(f"golden {method}: largest relative difference to {options.rev} {found:g}")
        worst = max(worst, found)
    sys.exit(worst > 0)


if __name__ == "__main__":
    main()
