"""Every code block of the README runs, in a copy of the repository or against a hub."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import needs_program

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TIMEOUT = 300


def find_blocks() -> dict[str, list[str]]:
    blocks: dict[str, list[str]] = defaultdict(list)
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        blocks[language].append(code)
    return blocks


BLOCKS = find_blocks()
DEMO, TESTS, SERVE, SUB, PUB, BENCH, SPEED, CURL_LISTEN, CURL_PUBLISH = BLOCKS["sh"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def started(command: str, env: dict[str, str], until: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command, from the line that says it is ready until it ends."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert any(until in line for line in process.stdout)
            yield process
        finally:
            process.terminate()


@pytest.fixture
def env() -> dict[str, str]:
    """The environment of a user whose port 8787 may be taken."""
    port = str(free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HYPS_PORT": port, "HYPS_URL": f"hyps://127.0.0.1:{port}"}


def test_all_blocks_are_known() -> None:
    assert BLOCKS.keys() == {"sh", "python", "text"}
    assert len(BLOCKS["python"]) == 7


def test_demo_and_benchmarks_run_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "hyps"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    # All of it would take twenty minutes.
    a_part = "-- --quick --systems hyps --only 'stream 16 B equal'"
    for command, expected in (
        (DEMO, "50,000 of 50,000 messages arrived, 0 missed"),
        (f"{SPEED.strip()} {a_part}", "stream 16 B equal, rate"),
    ):
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_ci_runs_the_test_command() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nexport CI=true\n" in ci
    assert ci.endswith(f"\n{TESTS}")


def test_commands(env: dict[str, str]) -> None:
    with started(SERVE, env, "listening at"), started(SUB, env, "subscribed") as sub:
        subprocess.run(["bash", "-e", "-c", PUB], env=env, check=True, timeout=TIMEOUT)
        output, _ = sub.communicate(timeout=TIMEOUT)
        assert output.splitlines() == ["news: hello", "news: from a pipe"]
        assert sub.returncode == 0


def test_bench(env: dict[str, str]) -> None:
    with started(SERVE, env, "listening at"):
        done = subprocess.run(
            ["bash", "-e", "-c", BENCH], env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
    assert done.returncode == 0, done.stderr
    assert "Delivered 40,000 of 40,000, missed 0" in done.stdout


@needs_program("curl")
def test_curl(env: dict[str, str]) -> None:
    listen, publish = (
        code.replace("8787", env["HYPS_PORT"]) for code in (CURL_LISTEN, CURL_PUBLISH)
    )
    with (
        started(SERVE, env, "listening at"),
        # In a group of its own, as it ends with what it is told to.
        subprocess.Popen(
            ["bash", "-c", listen], stdout=subprocess.PIPE, start_new_session=True
        ) as listener,
    ):
        try:
            assert listener.stdout is not None
            # Nothing tells when it has subscribed, so it is told until it hears.
            while True:
                told = subprocess.run(
                    ["bash", "-e", "-c", publish], stdout=subprocess.PIPE, timeout=TIMEOUT
                )
                assert (told.returncode, told.stdout) == (0, b"k")
                if select.select([listener.stdout], [], [], 0.1)[0]:
                    break
            assert listener.stdout.readline() == b"^@^@^@^Knews\n"
            assert listener.stdout.readline() == b"hello\n"
        finally:
            os.killpg(listener.pid, signal.SIGKILL)


TEST_EXAMPLES = [code for code in BLOCKS["python"] if "pytest" in code]


@pytest.mark.parametrize("code", TEST_EXAMPLES)
def test_examples_of_tests(code: str, tmp_path: Path) -> None:
    path = tmp_path / "test_example.py"
    path.write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout  # on asyncio and on trio


@pytest.mark.parametrize("code", [code for code in BLOCKS["python"] if code not in TEST_EXAMPLES])
def test_examples(code: str, env: dict[str, str]) -> None:
    with started(SERVE, env, "listening at"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert bool(done.stdout) == ("print(" in code)
