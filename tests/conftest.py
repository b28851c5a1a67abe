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
from support.helpers import SCHEMES, TRANSPORTS, Http2Server, hub_at
from support.programs import IN_CI, needs_module

import hyps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

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
        marker = pyfuncitem.get_closest_marker("patience")
        timeout = TEST_TIMEOUT if marker is None else marker.args[0]

        @functools.wraps(function)
        async def bounded(**arguments: Any) -> None:
            with anyio.fail_after(timeout):
                await function(**arguments)

        pyfuncitem.obj = bounded


# A hub and a client for tests that need no particular ones.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a hub or a client over HTTP/2 too, unless it cannot."""
    if "scheme" in metafunc.fixturenames:
        is_native = metafunc.definition.get_closest_marker("native_wire") is not None
        metafunc.parametrize("scheme", ["hyps"] if is_native else SCHEMES)


@pytest.fixture
async def server(anyio_backend: object, scheme: str) -> AsyncIterator[hyps.Server]:
    """A hub at a port of its own, whose clients speak each wire in turn."""
    kind = hyps.Server if scheme == "hyps" else Http2Server
    async with kind(port=0) as server:
        yield server


@pytest.fixture
async def client(server: hyps.Server) -> AsyncIterator[hyps.Client]:
    """A client of the hub."""
    async with hyps.connect(server.urls[0]) as client:
        yield client


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    """The event loop's name, for the other process to run on the same."""
    name, options = anyio_backend
    return "uvloop" if options.get("use_uvloop") else name


@pytest.fixture(params=TRANSPORTS)
async def url(
    request: pytest.FixtureRequest, anyio_backend: object, socket_folder: Path
) -> AsyncIterator[str]:
    """The URL of a hub, at each transport in turn."""
    async with hub_at(request.param, socket_folder) as url:
        yield url


# In CI a check that is skipped is none, whatever it was skipped for.


def pytest_configure(config: pytest.Config) -> None:
    """Register markers, and let SIGINT be what it usually is.

    Where this runs in the background of a script SIGINT is ignored, and commands that tests start
    would ignore it too, as they should.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for marker in (
        "needs_machine: may be skipped in CI too, because no package provides what it needs",
        "patience(seconds): an async test that takes longer has hung; the default is 30",
        "native_wire: cannot run over HTTP/2: it speaks the native wire itself, or needs its words",
    ):
        config.addinivalue_line("markers", marker)


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
