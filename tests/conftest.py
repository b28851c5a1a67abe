"""Every async test runs on asyncio in debug mode, on asyncio with uvloop, and on trio."""

from __future__ import annotations

import functools
import inspect
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from programs import IN_CI, needs_module

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

#: Seconds after which an async test has hung. Tests wait for events and never for seconds, so
#: this is only ever reached by a failure.
TEST_TIMEOUT: Final = 30


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"debug": True}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=needs_module("uvloop")),
        pytest.param(("trio", {}), id="trio", marks=needs_module("trio")),
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


# In CI a check that is skipped is none, whatever it was skipped for.


def pytest_configure(config: pytest.Config) -> None:
    """Name the exception, and let SIGINT be what it usually is.

    Where this runs in the background of a script SIGINT is ignored, and commands that tests start
    would ignore it too, as they should.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "needs_machine: may be skipped in CI too, as no package gives what it needs"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let a test fail that was skipped."""
    report = yield
    if item.get_closest_marker("needs_machine") is None:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Let a module fail that was skipped."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is not allowed where CI=true: {report.longreprtext}"
