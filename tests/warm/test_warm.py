"""A warm program is a process of its own that begins and ends as a cold one; what cannot be warm is cold."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

SAYS = """
import os, sys
print(os.getcwd(), sys.argv[1:], os.environ["SAYS"], sys.stdin.read(), sys.path[0], __name__, "torch" in sys.modules)
print("also", file=sys.stderr)
"""
IS_WARM = 'import sys\nprint("torch" in sys.modules)\n'


def run(interpreter: str, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([interpreter, *words], capture_output=True, text=True, check=False, **settings)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


@pytest.mark.parametrize("words", [["program.py"], ["-m", "program"], ["-u", "program.py"]], ids=" ".join)
def test_words_folder_environment_and_streams_are_its_own(program: Path, words: list[str]) -> None:
    program.write_text(SAYS, encoding="utf-8")
    given = {"cwd": program.parent, "env": {**os.environ, "SAYS": "赤"}, "input": "read"}
    found, expected = (run(each, *words, "a b", "--c", **given) for each in (warm.python(), sys.executable))
    assert (found.returncode, found.stderr) == (0, "also\n") == (expected.returncode, expected.stderr)
    assert found.stdout == expected.stdout.replace("False", "True")


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit()",
        "sys.exit(3)",
        "sys.exit('why')",
        "sys.exit(256 + 7)",
        "raise KeyError('x')",
        "os._exit(9)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "import atexit; atexit.register(print, 'last')",
        "import threading; threading.Thread(target=print, args=('other',)).start()",
    ],
)
def test_it_ends_as_a_cold_one(program: Path, end: str) -> None:
    program.write_text(f"import os, signal, sys\nprint('first')\n{end}\n", encoding="utf-8")
    found, expected = (run(each, str(program)) for each in (warm.python(), sys.executable))
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
    assert found.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_signals_reach_it(program: Path) -> None:
    program.write_text(
        "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\nsignal.pause()\n",
        encoding="utf-8",
    )
    with subprocess.Popen([warm.python(), str(program)], stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.wait(60) == 5


def test_it_is_killed_with_whoever_asked(program: Path) -> None:
    program.write_text("import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()\n", encoding="utf-8")
    with subprocess.Popen([warm.python(), str(program)], stdout=subprocess.PIPE) as running:
        end = os.pidfd_open(int(running.stdout.readline()))
        running.kill()
        assert running.stdout.read() == b""  # nobody holds the other end any more
        os.close(end)


def test_one_who_asks_and_is_gone_does_no_harm_to_the_next(program: Path) -> None:
    program.write_text("print('next')\n", encoding="utf-8")
    for sent in (b"", b"0", b"0{"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(Path(warm.python()).with_name("socket")))
            if sent:
                socket.send_fds(connection, [sent], [0, 1, 2])
    assert run(warm.python(), str(program)).stdout == "next\n"


def test_who_asks_first_does_not_decide_what_is_warm(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.write_text(IS_WARM, encoding="utf-8")
    with monkeypatch.context() as changed:
        changed.setenv("XDG_CACHE_HOME", str(program.parent))
        asked_first = warm.python.__wrapped__()
    assert run(asked_first, str(program)).stdout == "True\n"


def test_what_it_starts_is_warm_and_runs_beside_it(program: Path) -> None:
    program.write_text(
        "import subprocess, sys\n"
        "if len(sys.argv) == 1: sys.exit(subprocess.run([sys.executable, __file__, 'torch'], check=False).returncode)\n"
        "print(sys.argv[1] in sys.modules)\n",
        encoding="utf-8",
    )
    assert run(warm.python(), str(program)).stdout == "True\n"


@pytest.mark.parametrize(("environment", "words"), [({"OMP_NUM_THREADS": "2"}, []), ({}, ["-X", "dev"])])
def test_what_imports_would_show_is_cold(program: Path, environment: dict[str, str], words: list[str]) -> None:
    program.write_text(IS_WARM, encoding="utf-8")
    assert run(warm.python(), *words, str(program), env={**os.environ, **environment}).stdout == "False\n"


def test_a_copy_of_the_repository_runs_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "mmig").mkdir()
    (tmp_path / "mmig" / "__init__.py").write_text("print('the copy')\n", encoding="utf-8")
    (tmp_path / "program.py").write_text("import mmig\n", encoding="utf-8")
    assert run(warm.python(), "program.py", cwd=tmp_path).stdout == "the copy\n"


def test_random_numbers_are_not_those_of_the_one_before(program: Path) -> None:
    program.write_text(
        "import random\nimport numpy as np\nprint(random.random(), np.random.rand())\n", encoding="utf-8"
    )
    one, other = (run(warm.python(), str(program)).stdout.split() for _ in range(2))
    assert len({*one, *other}) == 4
