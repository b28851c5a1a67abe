"""Every async test runs on asyncio in debug mode, on asyncio with uvloop, and on trio."""

from __future__ import annotations

import functools
import inspect
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds after which an async test has hung. Tests wait for events and never for seconds, so
#: this is only ever reached by a failure.
TEST_TIMEOUT: Final = 30


def _backend(test_id: str, name: str, options: dict[str, Any], *, needs: str | None = None) -> Any:
    is_missing = needs is not None and find_spec(needs) is None
    return pytest.param(
        (name, options),
        id=test_id,
        marks=pytest.mark.skipif(is_missing, reason=f"{needs} is not installed"),
    )


@pytest.fixture(
    params=[
        _backend("asyncio", "asyncio", {"debug": True}),
        _backend("uvloop", "asyncio", {"use_uvloop": True}, needs="uvloop"),
        _backend("trio", "trio", {}, needs="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Name and options of the event loop, for AnyIO's plugin."""
    return request.param


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder for Unix sockets: their paths are bounded, and pytest's folders may lie deep."""
    with tempfile.TemporaryDirectory(prefix="hyps-", dir="/tmp") as folder:
        yield Path(folder).resolve()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Let an async test that hangs fail."""
    function = pyfuncitem.obj
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def bounded(**arguments: Any) -> None:
            with anyio.fail_after(TEST_TIMEOUT):
                await function(**arguments)

        pyfuncitem.obj = bounded
