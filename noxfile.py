"""Runs everything that has to hold, on every Python that is installed: ``nox``.

``nox -l`` lists the sessions; ``nox -s bench`` runs the benchmarks, which are not among the checks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
TEST = nox.project.dependency_groups(PROJECT, "test")
VERSIONS = ("3.11", "3.12", "3.13")
#: On all cores: many tests wait.
PYTEST = ("pytest", "-q", "-n", "auto", "--dist", "worksteal")


def find_python(version: str) -> bool:
    """Tell whether a Python can be run, and let nox find it if pyenv hides it."""
    name = f"python{version}"
    if shutil.which(name) and not subprocess.run([name, "-c", ""], capture_output=True).returncode:
        return True
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in sorted(pyenv.glob(f"versions/{version}.*/bin/{name}")):
        os.environ["PATH"] = f"{found.parent}{os.pathsep}{os.environ['PATH']}"
        return True
    return False


#: Tests that start processes take long. A Python between the oldest and the newest one adds nothing
#: to what they tell.
WITHOUT_COMMANDS = ("--deselect=tests/cli", "--deselect=tests/end_to_end", "--deselect=tests/fleet")

PYTHONS = [version for version in VERSIONS if find_python(version)]
NEWEST = PYTHONS[-1] if PYTHONS else None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# On each Python the tests run once: on the oldest one with the oldest dependencies, and on the
# newest one to measure the coverage.
nox.options.sessions = [
    "lint",
    "types",
    "oldest",
    *(f"tests-{version}" for version in PYTHONS[1:-1]),
    "coverage",
    "web",
    *(["browser"] if CHROMIUM else []),
    "deploy",
    "docs",
    "readme",
]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on asyncio, uvloop and trio."""
    session.install(".", *TEST)
    is_between = session.python not in (PYTHONS[0], PYTHONS[-1])
    session.run(*PYTEST, *(WITHOUT_COMMANDS if is_between else ()), *session.posargs)


@nox.session(python=PYTHONS[:1] or None)
def oldest(session: nox.Session) -> None:
    """Run the tests on the oldest Python, with the oldest dependencies that are allowed."""
    project = PROJECT["project"]
    optional = project["optional-dependencies"].values()
    allowed = [*project["dependencies"], *(each for extra in optional for each in extra)]
    session.install(".", *TEST, *(each.replace(">=", "==") for each in allowed))
    session.run(*PYTEST, *session.posargs)


@nox.session(python=NEWEST)
def coverage(session: nox.Session) -> None:
    """Measure which branches the tests take."""
    session.install(".", *TEST)
    env = {"COVERAGE_FILE": str(Path(session.virtualenv.location).resolve() / ".coverage")}
    session.run("coverage", "erase", env=env)
    session.run("coverage", "run", "-m", *PYTEST, *session.posargs, env=env)
    session.run("coverage", "combine", "-q", env=env)
    session.run("coverage", "report", "--fail-under=95", env=env)


@nox.session(python=NEWEST)
def web(session: nox.Session) -> None:
    """Run the examples, and streams on the servers that people use."""
    session.install(".[starlette]", *TEST, *nox.project.dependency_groups(PROJECT, "web"))
    session.run(*PYTEST, "tests/web", *session.posargs)


@nox.session(python=NEWEST)
def browser(session: nox.Session) -> None:
    """Run the examples' pages in Chromium."""
    session.install(".[starlette]", *TEST, *nox.project.dependency_groups(PROJECT, "browser"))
    session.run("pytest", "-q", "tests/browser", *session.posargs)


@nox.session(python=NEWEST)
def deploy(session: nox.Session) -> None:
    """Let the tools that read them check the files in deploy/."""
    session.install(".[ops,jwt]", *nox.project.dependency_groups(PROJECT, "deploy"))
    session.run("pytest", "-q", "tests/deploy", *session.posargs)


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """Build the documentation, to build/docs: warnings are errors."""
    session.install(".[http2,ops,starlette]", *nox.project.dependency_groups(PROJECT, "docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "build/docs")


@nox.session(python=NEWEST)
def readme(session: nox.Session) -> None:
    """Run the README's commands that download something, in a fresh clone."""
    session.install(".", *TEST)
    session.run("pytest", "-q", "tests/readme", *session.posargs)


@nox.session(python=NEWEST)
def lint(session: nox.Session) -> None:
    """Check the style."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python=NEWEST)
def types(session: nox.Session) -> None:
    """Check the types, and that the public ones are complete."""
    groups = nox.project.dependency_groups(PROJECT, "types", "bench")
    session.install("-e", ".", *groups)
    session.run("mypy")
    session.run("basedpyright", "--verifytypes", "hyps", "--ignoreexternal")


@nox.session(python=NEWEST)
def bench(session: nox.Session) -> None:
    """Measure the speed, beside Redis and NATS where they are installed: -- --quick."""
    session.install(".", *nox.project.dependency_groups(PROJECT, "bench"))
    quick = ["--quick"] if "--quick" in session.posargs else []
    session.run("python", "-m", "benchmarks.count")
    session.run("python", "-m", "benchmarks.core", *quick)
    session.run("python", "-m", "benchmarks.end_to_end", *session.posargs)


@nox.session(python=NEWEST)
def soak(session: nox.Session) -> None:
    """Let clients come and go under faults, and account for every message: -- --minutes 5."""
    session.install(".", *TEST)
    session.run("python", "-m", "soak", *session.posargs, env={"PYTHONPATH": "tests"})
