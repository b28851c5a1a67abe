"""Every code block of the documentation runs; what needs downloads runs in ``nox -s readme``."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.pages import (
    BENCH,
    BLOCKS,
    COMMANDS,
    CURL_LISTEN,
    CURL_PUBLISH,
    PAGES,
    PING,
    PUB,
    ROOT,
    SERVE,
    SUB,
    TESTS,
    TIMEOUT,
    blocks_of,
    run_block,
    started,
    users_environment,
)
from support.programs import needs_program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def env() -> dict[str, str]:
    return users_environment()


def test_every_block_is_run_or_is_no_code() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "python", "text"}
    assert {block.code for block in BLOCKS if block.language == "sh"} == COMMANDS


def test_links_lead_somewhere() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing


def test_the_readme_is_short_and_needs_no_file_beside_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    assert "![" not in readme


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


def test_how_a_hub_is(env: dict[str, str]) -> None:
    with started(SERVE, env, "listening at"):
        done = subprocess.run(
            ["bash", "-e", "-c", PING], env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
    assert (done.returncode, done.stderr) == (0, "")
    *answers, summary, told = done.stdout.splitlines()
    assert len(answers) == 3
    assert summary.startswith("3 sent, 3 answered, 0 lost")
    page = (ROOT / "docs" / "guides" / "command-line.md").read_text("utf-8")
    [rows] = re.findall(
        r"^\| key of `hyps info --json`.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE
    )
    keys = [key for row in rows.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert keys == list(json.loads(told))


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


@pytest.mark.parametrize("code", blocks_of(needs_web=False))
def test_examples(code: str, env: dict[str, str], tmp_path: Path) -> None:
    run_block(code, env, tmp_path)
