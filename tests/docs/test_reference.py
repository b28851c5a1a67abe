"""The reference has every public name, and each says what it is."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import hyps
import hyps.asgi
import hyps.ops
import hyps.protocol
import hyps.starlette
import hyps.sync
import hyps.testing

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
MODULES = (hyps, hyps.asgi, hyps.ops, hyps.protocol, hyps.starlette, hyps.sync, hyps.testing)
NAMES = [
    pytest.param(getattr(module, name), name, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
    if name != "__version__"
]


def find_documented() -> set[tuple[str, str]]:
    """The modules and names that the reference describes."""
    found = set()
    for page in REFERENCE.glob("*.md"):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.removeprefix(".. currentmodule:: ")
            elif match := re.match(r"\.\. (?:auto|py:)\w+:: (\w+)$", line):
                found.add((module, match[1]))
    return found


def test_every_public_name_is_in_the_reference() -> None:
    # The core's names that users meet in hyps are described there.
    shared = set(hyps.__all__) & set(hyps.protocol.__all__)
    public = {(module.__name__, name) for module in MODULES for name in module.__all__}
    public -= {("hyps.protocol", name) for name in shared} | {("hyps", "__version__")}
    # A type without a name of its own is one that events refer to.
    assert find_documented() == public | {("hyps.protocol", "NeedData")}


def members(kind: type) -> dict[str, Any]:
    """What users of a class may call or read, of what the project itself defines."""
    found = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.startswith("hyps"):
            found.update(
                {
                    name: member
                    for name, member in vars(owner).items()
                    if not name.startswith("_")
                    and (inspect.isfunction(member) or isinstance(member, property))
                }
            )
    return found


@pytest.mark.parametrize(("what", "name"), NAMES)
def test_every_public_name_says_what_it_is(what: Any, name: str) -> None:
    if not (inspect.isclass(what) or inspect.isfunction(what)):
        return  # a constant or a type alias, which the reference describes itself
    assert what.__doc__, name
    assert not what.__doc__.startswith(f"{name}("), "a dataclass has a docstring of its own"
    if inspect.isfunction(what):
        check_parameters(what, what.__doc__)
        return
    for member, found in members(what).items():
        assert inspect.getdoc(getattr(what, member)), f"{name}.{member}"
        if inspect.isfunction(found):
            check_parameters(found, inspect.getdoc(getattr(what, member)) or "")
    if "__init__" in vars(what) and not issubclass(what, Enum | Exception):
        check_parameters(what.__init__, what.__doc__)


def check_parameters(function: Any, text: str) -> None:
    """A docstring that describes a parameter describes all of them."""
    described = set(re.findall(r":param (\w+):", text))
    parameters = set(inspect.signature(function).parameters) - {"self", "cls"}
    if described:
        assert described == parameters
