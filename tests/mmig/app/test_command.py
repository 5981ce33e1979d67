"""`python -m mmig.app`: loopback unless it is told otherwise, and mistakes end in one line."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mmig.app.__main__ import main
from mmig.app.serve import is_loopback, listen


def test_it_serves_loopback_alone_and_ends_with_a_signal_leaving_nothing_behind(root: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    program = subprocess.Popen(
        [sys.executable, "-m", "mmig.app"], cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = program.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + program.stderr.read()
        assert "tiny_instruction" in line
        assert httpx.get(found[0], timeout=120).status_code == 200
        name = socket.gethostbyname(socket.gethostname())
        if not is_loopback(name):
            with pytest.raises(OSError):
                socket.create_connection((name, int(found[1])), timeout=5)
    finally:
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=120)
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.glob("mmig-app-*")] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoint", "runs/absent"], "runs/absent"),
        (["--checkpoint", "configs/data/plain.yaml"], "expected one section"),
        (["--examples", "absent.yaml"], "absent.yaml"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert said in str(ended.value)
    assert "\n" not in str(ended.value)


def test_a_port_that_is_taken_is_said_and_none_takes_the_next_free_one() -> None:
    with listen("127.0.0.1", 0) as first, listen("127.0.0.1", 0) as second:
        ports = first.getsockname()[1], second.getsockname()[1]
        assert ports[0] < ports[1]
        with pytest.raises(ValueError, match=f"--port {ports[0]}"):
            listen("127.0.0.1", ports[0])


def test_which_addresses_are_of_this_machine_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.3.2.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.4", "example.org")))
