"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
#: Seconds after which a command has hung.
TIMEOUT = 300


class Block(NamedTuple):
    page: str
    language: str
    code: str


def find_blocks() -> list[Block]:
    """All code blocks, but for what is Sphinx's own."""
    return [
        Block(str(page.relative_to(ROOT)), language, code)
        for page in PAGES
        for language, code in re.findall(
            r"^```(\S+).*?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        if not language.startswith("{")
    ]


BLOCKS = find_blocks()


def find(language: str, start: str) -> str:
    """The block that begins so, on whatever pages it stands: the same everywhere."""
    [code] = {
        block.code
        for block in BLOCKS
        if block.language == language and block.code.startswith(start)
    }
    return code


DEMO = find("sh", "python3 -m venv .venv && .venv/bin/pip install . &&")
TESTS = find("sh", "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox\n")
SPEED = find("sh", ".venv/bin/pip install nox && .venv/bin/nox -s bench")
SERVE = find("sh", "hyps serve")
SUB = find("sh", "hyps sub")
PUB = find("sh", "hyps pub")
PING = find("sh", "hyps ping")
BENCH = find("sh", "hyps bench")
CURL_LISTEN = find("sh", "curl")
CURL_PUBLISH = find("sh", "printf")
COMMANDS = {DEMO, TESTS, SPEED, SERVE, SUB, PUB, PING, BENCH, CURL_LISTEN, CURL_PUBLISH}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def users_environment() -> dict[str, str]:
    """The environment of a user whose port 8787 may be taken."""
    port = str(free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HYPS_PORT": port, "HYPS_URL": f"hyps://127.0.0.1:{port}"}


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


#: What examples of frameworks import, which ``nox -s web`` has installed.
_WEB = re.compile(
    r"^(?:from|import) (?:fastapi|litestar|quart|sse_starlette|starlette.testclient)\b",
    re.MULTILINE,
)


def blocks_of(*, needs_web: bool) -> list[Any]:
    """The Python blocks that need frameworks, or those that do not, as parameters of a test."""
    return [
        pytest.param(block.code, id=f"{block.page}-{number}")
        for number, block in enumerate(BLOCKS)
        if block.language == "python" and bool(_WEB.search(block.code)) == needs_web
    ]


def run_block(code: str, env: dict[str, str], folder: Path) -> None:
    """Run a Python block beside a hub: as a program, or as tests if it has some."""
    has_tests = "def test_" in code
    if has_tests:
        path = folder / "test_example.py"
        path.write_text(code, encoding="utf-8")
        program = ["-m", "pytest", "-q", str(path)]
        # Those with AnyIO's mark run on asyncio and on trio.
        expected = "2 passed" if "pytest.mark.anyio" in code else "1 passed"
    else:
        program = ["-c", code]
        expected = ""
    with started(SERVE, env, "listening at"):
        done = subprocess.run(
            [sys.executable, "-W", "error", *program],
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert expected in done.stdout
    assert bool(done.stdout) == ("print(" in code or has_tests)
