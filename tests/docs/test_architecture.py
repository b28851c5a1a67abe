"""The layers are as ``docs/architecture.md`` has them, and no modules import each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "architecture.md"


def find_modules() -> dict[str, Path]:
    """All modules of the package, by their names."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = find_modules()


def find_imports(module: str) -> set[str]:
    """The modules of the package that a module imports, anywhere in it, for types too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names if names <= MODULES.keys() else {base}
    return (found & MODULES.keys()) - {module}


IMPORTS = {module: find_imports(module) for module in MODULES}


def read_table() -> dict[str, set[str]]:
    """The rooms of the page, in its order, and which ones each may import."""
    [table] = re.findall(
        r"^\| Room \| May import \|\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE
    )
    rows = [row.strip("|").split("|") for row in table.splitlines()]
    return {
        name: set(re.findall(r"`([\w.]+)`", others))
        for [name], others in [(re.findall(r"`([\w.]+)`", first), rest) for first, rest in rows]
    }


ROOMS = read_table()


def room_of(module: str) -> str:
    """The room that a module is in: the most special one with its name."""
    inside = module.removeprefix("hyps.")
    fitting = [room for room in ROOMS if f"{inside}.".startswith(f"{room}.")]
    assert fitting, f"{module} is in no room of the table"
    return max(fitting, key=len)


def test_every_room_is_there() -> None:
    assert {room_of(module) for module in MODULES} == ROOMS.keys()


def test_rooms_import_only_rooms_above_them() -> None:
    above: set[str] = set()
    for room, others in ROOMS.items():
        assert others <= above, f"{room} may import what is not above it"
        above.add(room)


def test_modules_import_what_their_room_may() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, imports in IMPORTS.items()
        for other in imports
        if room_of(other) != room_of(module) and room_of(other) not in ROOMS[room_of(module)]
    ]
    assert not wrong


def test_what_a_room_may_import_it_does() -> None:
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, imports in IMPORTS.items():
        used[room_of(module)] |= {room_of(other) for other in imports}
    unused = [f"{room}: {other}" for room, may in ROOMS.items() for other in may - used[room]]
    assert not unused


def test_no_modules_import_each_other() -> None:
    left = {module: set(imports) for module, imports in IMPORTS.items()}
    while free := {module for module, imports in left.items() if not imports}:
        left = {module: imports - free for module, imports in left.items() if module not in free}
    assert not left, f"these import each other: {sorted(left)}"


def test_the_core_imports_nothing_else() -> None:
    code = (
        "import sys; import hyps.protocol; print(*sorted("
        "name for name in sys.modules if name.split('.')[0] in ('anyio', 'click', 'h2', 'hyps')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside = {
        name
        for name in done.stdout.split()
        if not f"{name}.".startswith("hyps.protocol.") and name not in ("hyps", "hyps._version")
    }
    assert not outside


def test_modules_are_small() -> None:
    sizes = {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, path in MODULES.items()
    }
    assert {module: size for module, size in sizes.items() if size > 530} == {}
