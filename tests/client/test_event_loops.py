"""A client in another thread, in another event loop, after its own has ended, and after a fork."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import current_token
from support.helpers import PATIENCE, begin, drain, let_others_run, take_data, wait_until
from support.processes import PYTHON, in_thread, running, serving

import hyps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

pytestmark = pytest.mark.anyio


async def receive_nowait(subscription: hyps.Subscription) -> None:
    subscription.receive_nowait()


async def publish_nowait(client: hyps.Client) -> None:
    client.publish_nowait("a", b"")


def every_use(
    client: hyps.Client, subscription: hyps.Subscription
) -> list[Callable[[], Awaitable[object]]]:
    """Give every way to use a client that is for one event loop."""
    return [
        lambda: client.publish("a", b""),
        lambda: client.publish_many([("a", b"")]),
        lambda: publish_nowait(client),
        client.flush,
        client.connect,
        client.shutdown,
        client.aclose,
        client.__aenter__,
        lambda: client.__aexit__(None, None, None),
        client.subscribe("b").__aenter__,
        lambda: anext(client.events()),
        lambda: subscription.subscribe("b"),
        lambda: subscription.unsubscribe("a"),
        subscription.receive,
        subscription.receive_many,
        subscription.receive_raw,
        lambda: receive_nowait(subscription),
        lambda: anext(subscription),
        lambda: subscription.__aexit__(None, None, None),
    ]


@contextmanager
def hub_elsewhere() -> Iterator[hyps.Server]:
    """Run a hub in a thread of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(hyps.Server(port=0)) as server,
    ):
        yield server


URLS = ["tcp", "memory"]


@contextmanager
def url_of(transport: str) -> Iterator[str]:
    if transport == "memory":
        yield "memory://event-loops"
    else:
        with hub_elsewhere() as server:
            yield server.urls[0]


# While the client's own event loop runs


@pytest.mark.parametrize("other", ["asyncio", "trio"])
@pytest.mark.parametrize("transport", URLS)
async def test_another_event_loop_in_another_thread(other: str, transport: str) -> None:
    if find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    with url_of(transport) as url:
        async with hyps.connect(url) as client, client.subscribe("a") as subscription:
            events = client.events()
            await anext(events)

            async def use() -> None:
                for call in every_use(client, subscription):
                    with pytest.raises(RuntimeError, match=r"another event loop.*hyps\.connect\("):
                        await call()
                with pytest.raises(RuntimeError, match="another event loop"):
                    await anext(events)
                assert client.connected
                # What the error says.
                async with hyps.connect(url) as own:
                    await own.publish("b", b"")

            await anyio.to_thread.run_sync(lambda: anyio.run(use, backend=other))
            assert client.connected
            assert subscription.channels == {"a"}
            await client.flush()
            await client.publish("a", b"1")
            assert await take_data(subscription, 1) == [b"1"]
            assert subscription.missed == 0


@pytest.mark.parametrize("transport", URLS)
async def test_a_thread_without_an_event_loop(transport: str) -> None:
    with url_of(transport) as url:
        async with hyps.connect(url) as client, client.subscribe("a") as subscription:
            token = current_token()
            told: list[str] = []

            def use() -> None:
                with pytest.raises(RuntimeError, match="from_thread") as caught:
                    client.publish_nowait("a", b"")
                told.append(str(caught.value))
                assert client.connected
                # What the error says.
                anyio.from_thread.run(client.publish, "a", b"1", token=token)

            # One of AnyIO's own, and one that it does not know.
            await anyio.to_thread.run_sync(use)
            failed: list[BaseException] = []

            def use_and_tell() -> None:
                try:
                    use()
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=use_and_tell)
            thread.start()
            await in_thread(thread.join)
            assert failed == []
            assert "anyio.from_thread.run(client.publish, channel, data, token=token)" in told[0]
            assert "anyio.lowlevel.current_token()" in told[0]
            assert await take_data(subscription, 2) == [b"1", b"1"]


async def test_who_watches_in_one_event_loop_is_told_when_it_connects_in_another() -> None:
    with hub_elsewhere() as server:
        client = hyps.connect(server.urls[0])
        async with anyio.create_task_group() as tasks:
            watching = begin(tasks, lambda: anext(client.events()))
            await let_others_run()

            was_told = threading.Event()

            async def use() -> None:
                async with client:
                    assert await anext(client.events()) == hyps.Connected(server.urls[0])
                    # As long as it is connected there.
                    assert await anyio.to_thread.run_sync(was_told.wait, PATIENCE)

            tasks.start_soon(anyio.to_thread.run_sync, anyio.run, use)
            try:
                with pytest.raises(RuntimeError, match="event loop"):
                    await watching.get()
            finally:
                was_told.set()


# One after the other


def test_event_loops_one_after_the_other(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """Each ends with a client that was not shut down, as ``asyncio.run()`` and others do."""
    backend, options = anyio_backend
    with hub_elsewhere() as server:
        client = hyps.connect(server.urls[0], reconnect_max_delay=0.01)
        left: list[hyps.Subscription] = []

        async def use() -> None:
            await client.connect()
            subscription = await client.subscribe("a").__aenter__()
            await client.publish("a", b"1")
            assert await take_data(subscription, 1) == [b"1"]
            left.append(subscription)

        async def misuse() -> None:
            assert not client.connected
            for call in every_use(client, left[-1]):
                if call in (client.connect, client.__aenter__, client.shutdown, client.aclose):
                    continue
                with pytest.raises((RuntimeError, hyps.ConnectionLost), match="event loop"):
                    await call()
                assert not client.connected

        async def end() -> None:
            with anyio.fail_after(5):
                await client.shutdown()
            assert not client.connected

        for _ in range(3):
            anyio.run(use, backend=backend, backend_options=options)
            assert not client.connected
        with pytest.raises(RuntimeError, match=r"has ended.*await client\.connect\(\)"):
            client.publish_nowait("a", b"")
        anyio.run(end, backend=backend, backend_options=options)
        anyio.run(use, backend=backend, backend_options=options)
        anyio.run(end, backend=backend, backend_options=options)
        # No session is left behind.
        anyio.run(wait_until, lambda: not server.broker.sessions)


LOOPS = ["asyncio", "uvloop"]


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("transport", URLS)
def test_an_event_loop_that_was_closed_without_a_goodbye(name: str, transport: str) -> None:
    loop = new_loop(name)
    with url_of(transport) as url, warnings.catch_warnings():
        # asyncio's, of the transports that the loop leaves.
        warnings.simplefilter("ignore", ResourceWarning)
        client = hyps.connect(url, reconnect_max_delay=0.01)
        watched: list[Any] = []
        before: list[hyps.Subscription] = []

        async def use() -> None:
            await client.connect()
            before.append(await client.subscribe("a").__aenter__())
            watched.append(client.events())
            await client.publish("a", b"1")
            # One that waits for ever.
            waiting.append(asyncio.ensure_future(client.subscribe("c").__aenter__()))
            waiting.append(asyncio.ensure_future(before[0].receive()))
            waiting.append(asyncio.ensure_future(anext(client.events())))

        waiting: list[Any] = []
        loop.run_until_complete(use())
        assert client.connected
        loop.close()
        assert not client.connected

        async def use_again() -> None:
            for call in (lambda: client.publish("a", b""), client.flush, before[0].receive):
                with pytest.raises(RuntimeError, match=r"has ended.*await client\.connect\(\)"):
                    await call()
            assert not client.connected
            async with client, client.subscribe("b") as subscription:
                await client.publish("b", b"2")
                assert await take_data(subscription, 1) == [b"2"]
                # The subscriptions of before are over, when they are empty.
                with pytest.raises(hyps.ConnectionLost, match="event loop"):
                    await drain(before[0])
                await before[0].__aexit__(None, None, None)
                assert [event async for event in watched[0]] == [hyps.Connected(url)]

        asyncio.run(use_again())
        # They are the user's own, and would be complained of.
        for task in waiting:
            task._log_destroy_pending = False
        del task
        waiting.clear()
        gc.collect()


@pytest.mark.parametrize("is_entered", [False, True])
@pytest.mark.parametrize("name", LOOPS)
def test_a_subscription_that_is_closed_while_its_event_loop_does_not_run(
    name: str, is_entered: bool
) -> None:
    loop = new_loop(name)
    with hub_elsewhere() as server:
        client = hyps.connect(server.urls[0])

        async def hold() -> None:
            async with client.subscribe("a"):
                await asyncio.get_running_loop().create_future()

        async def begin_it() -> Coroutine[Any, Any, None]:
            await client.connect()
            async with client.subscribe("b"):
                pass
            holding = hold()
            holding.send(None)
            await client.flush()
            if is_entered:
                holding.send(None)
            assert server.broker.channels == 1
            return holding

        holding = loop.run_until_complete(begin_it())
        holding.close()

        async def end() -> None:
            # It is left as soon as the event loop runs again.
            await wait_until(lambda: not server.broker.channels)
            await client.shutdown()

        loop.run_until_complete(end())
        loop.close()


@pytest.mark.parametrize("name", LOOPS)
def test_the_hub_notices_that_an_event_loop_is_gone(name: str) -> None:
    loop = new_loop(name)
    with hub_elsewhere() as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        client = hyps.connect(server.urls[0])
        loop.run_until_complete(client.connect())
        assert len(server.broker.sessions) == 1
        loop.close()

        async def end() -> None:
            with anyio.fail_after(5):
                await client.shutdown()
                await wait_until(lambda: not server.broker.sessions)
                # Harmless, and again.
                await client.shutdown()
            with pytest.raises(hyps.ConnectionLost):
                await client.publish("a", b"")

        asyncio.run(end())


@pytest.mark.parametrize("name", LOOPS)
def test_another_event_loop_in_the_same_thread(name: str) -> None:
    loop = new_loop(name)
    with hub_elsewhere() as server:
        client = hyps.connect(server.urls[0])
        entered = client.subscribe("a")

        async def begin_it() -> None:
            await client.connect()
            await entered.__aenter__()

        async def misuse() -> None:
            assert client.connected
            for call in every_use(client, entered):
                with pytest.raises(RuntimeError, match=r"another event loop.*hyps\.connect\("):
                    await call()

        async def go_on() -> None:
            await client.publish("a", b"1")
            assert await take_data(entered, 1) == [b"1"]
            await client.shutdown()

        loop.run_until_complete(begin_it())
        asyncio.run(misuse())
        with pytest.raises(RuntimeError, match="is not running; call this in a task"):
            client.publish_nowait("a", b"")
        assert client.connected
        loop.run_until_complete(go_on())
        loop.close()


# Fork

FORKS = """
import asyncio, gc, os, sys, anyio, hyps

url, backend, use_uvloop = sys.argv[1], sys.argv[2], sys.argv[3] == "1"
options = {"use_uvloop": True} if use_uvloop else {}


async def misuse(client, subscription):
    calls = [
        lambda: client.publish("a", b"child"),
        lambda: client.publish_many([("a", b"child")]),
        client.flush,
        lambda: anext(client.events()),
        client.subscribe("b").__aenter__,
        lambda: subscription.subscribe("b"),
        subscription.receive,
    ]
    for call in calls:
        with anyio.fail_after(5):
            try:
                await call()
            except RuntimeError as error:
                assert "forked" in str(error) and "await client.connect()" in str(error), error
            else:
                raise AssertionError("no error")
    assert not client.connected


async def child(client, subscription, ends):
    await misuse(client, subscription)
    if ends:
        with anyio.fail_after(5):
            await client.shutdown()
    else:
        # What the error says.
        async with client:
            await client.publish("b", b"child")
        try:
            await subscription.receive()
        except hyps.ConnectionLost:
            pass
    await subscription.__aexit__(None, None, None)


def check(status):
    assert os.waitstatus_to_exitcode(status) == 0, status


def in_child(function):
    pid = os.fork()
    if not pid:
        try:
            function()
            gc.collect()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid


def run_in_child(client, subscription, ends):
    assert not client.connected
    try:
        client.publish_nowait("a", b"child")
    except RuntimeError as error:
        assert "forked" in str(error)
    else:
        raise AssertionError("no error")
    # trio cannot be run within itself.
    if backend == "asyncio":
        asyncio.run(child(client, subscription, ends))
    del client, subscription


async def main():
    async with hyps.connect(url) as client, client.subscribe("a") as subscription:
        events = client.events()
        await anext(events)
        for number in range(6):
            pid = in_child(lambda: run_in_child(client, subscription, number % 2))
            while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                await client.publish("a", b"parent")
                assert (await subscription.receive()).data == b"parent"
                await anyio.sleep(0)
            check(found[1])
        assert client.connected
        assert subscription.missed == 0
        assert subscription.channels == {"a"}


anyio.run(main, backend=backend, backend_options=options)


# Between two runs of an event loop, with which the child goes on.
if backend == "asyncio":
    if use_uvloop:
        import uvloop as loops
    else:
        loops = asyncio
    loop = loops.new_event_loop()
    client = hyps.connect(url)
    subscription = client.subscribe("a")

    async def begin():
        await client.connect()
        await subscription.__aenter__()

    async def go_on():
        await client.publish("a", b"parent")
        assert (await subscription.receive()).data == b"parent"

    loop.run_until_complete(begin())
    pid = in_child(lambda: loop.run_until_complete(misuse(client, subscription)))
    check(os.waitpid(pid, 0)[1])
    loop.run_until_complete(go_on())
    loop.run_until_complete(client.shutdown())
    loop.close()
print("ok")
"""


def test_a_child_that_was_forked(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    backend, options = anyio_backend
    use_uvloop = str(int(options.get("use_uvloop", False)))
    with (
        serving() as (url, _),
        running("-c", FORKS, url, backend, use_uvloop, program=PYTHON) as program,
    ):
        code, out, err = program.end()
    assert (code, out, err) == (0, "ok\n", "")
