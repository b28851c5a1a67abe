"""Clients for code that is not async: threads, forks, timeouts."""

from __future__ import annotations

import gc
import os
import pickle
import ssl
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from anyio.from_thread import start_blocking_portal
from support.processes import TIMEOUT, running, serving

import hyps
import hyps.sync
from hyps import Gap, Message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"


@contextmanager
def hub(*args: Any, **options: Any) -> Iterator[hyps.Server]:
    """Run a hub in a thread of its own."""
    server = hyps.Server(*args, **{"port": 0, **options})
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server) as server:
        yield server


@pytest.fixture
def server() -> Iterator[hyps.Server]:
    with hub() as server:
        yield server


@pytest.fixture
def client(server: hyps.Server) -> Iterator[hyps.sync.Client]:
    with hyps.sync.connect(server.urls[0]) as client:
        yield client


def test_publishing_and_reading(client: hyps.sync.Client, server: hyps.Server) -> None:
    with client.subscribe("a", gaps=True, timeout=TIMEOUT) as subscription:
        client.publish("a", "1")
        client.publish_many(Message("a", b"%d" % number) for number in (2, 3))
        assert [next(subscription) for _ in range(3)] == [
            Message("a", b"1"),
            Message("a", b"2"),
            Message("a", b"3"),
        ]
        subscription.subscribe("b")
        assert subscription.channels == {"a", "b"}
        subscription.unsubscribe("a")
        client.publish_many([("a", "4"), ("b", "5")])
        assert subscription.receive(timeout=TIMEOUT) == Message("b", b"5")
        assert (subscription.missed, subscription.missed_unknown) == (0, False)
    assert list(subscription) == []
    assert server.broker.published == 5
    assert client.connected
    assert "connected" in repr(client)


def test_it_connects_at_the_first_call(server: hyps.Server) -> None:
    client = hyps.sync.connect(server.urls[0], name="lazy")
    assert not client.connected
    assert "not used yet" in repr(client)
    assert len(server.broker.sessions) == 0
    client.publish("a", "")
    assert client.connected
    client.close()
    assert not client.connected
    with pytest.raises(hyps.ConnectionLost, match="was closed"):
        client.publish("a", "")
    client.connect()
    client.publish("a", "")
    client.close()
    client.close()


def test_waiting_is_bounded(client: hyps.sync.Client) -> None:
    with client.subscribe("a", timeout=0.01) as subscription:
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"0\.01 seconds"):
                next(subscription)
        client.publish("a", "1")
        assert subscription.receive(timeout=TIMEOUT).data == b"1"
        with pytest.raises(TimeoutError):
            subscription.receive(timeout=0.01)


def test_there_is_no_hub() -> None:
    with hub() as server:
        url = server.urls[0]
    with pytest.raises(hyps.ConnectionRefused):
        hyps.sync.connect(url).publish("a", "")
    waiting = hyps.sync.connect(url, wait=True, timeout=0.3, reconnect_max_delay=0.01)
    with pytest.raises(TimeoutError, match=r"0\.3 seconds: .*connection refused"):
        waiting.publish("a", "")
    # What is wrong by itself is told all the same.
    with pytest.raises(hyps.InvalidChannel):
        waiting.publish("a\nb", "")
    with pytest.raises(TypeError):
        waiting.publish("a", 5)  # type: ignore[arg-type]
    waiting.close()
    with pytest.raises(hyps.InvalidURL):
        hyps.sync.connect("nothing://")


def test_every_call_is_bounded_while_the_hub_is_away() -> None:
    with serving() as (url, process), hyps.sync.connect(url, reconnect_max_delay=0.05) as client:
        client.publish("a", "")
        process.process.kill()
        process.process.wait()
        # The first one may be told that the connection was lost, and others wait.
        outcomes = [outcome(client, timeout=0.05) for _ in range(3)]
        assert outcomes[-1] is TimeoutError
        port = url.rpartition(":")[2]
        with running("serve", "--port", port) as again:
            again.read_url()
            client.publish("a", "", timeout=TIMEOUT)


def outcome(client: hyps.sync.Client, timeout: float) -> type[BaseException] | None:
    try:
        client.publish("a", "", timeout=timeout)
    except (hyps.HypsError, TimeoutError) as error:
        return type(error)
    return None


def test_many_threads_share_a_client(client: hyps.sync.Client) -> None:
    threads, each = 8, 100
    with client.subscribe("a", gaps=True, timeout=TIMEOUT) as subscription:

        def publish(thread: int) -> None:
            for number in range(each):
                client.publish("a", f"{thread} {number}")

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(publish, range(threads)))
        found = [next(subscription) for _ in range(threads * each)]
    numbers: Counter[bytes] = Counter()
    for item in found:
        assert isinstance(item, Message)
        thread, number = item.data.split()
        # Each thread's messages keep their order.
        assert int(number) == numbers[thread]
        numbers[thread] += 1


def test_losses_are_told(client: hyps.sync.Client) -> None:
    options: Any = {"gaps": True, "max_messages": 2, "timeout": TIMEOUT}
    with client.subscribe("a", **options) as subscription:
        client.publish_many([("a", str(number)) for number in range(5)])
        found = [next(subscription) for _ in range(3)]
        assert found == [Message("a", b"0"), Message("a", b"1"), Gap("a", 3, "client")]
        assert subscription.missed == 3


def test_an_iteration_ends_with_the_client(server: hyps.Server) -> None:
    client = hyps.sync.connect(server.urls[0])
    with client.subscribe("a") as subscription:
        reading = threading.Thread(target=lambda: ended.append(list(subscription)))
        ended: list[object] = []
        reading.start()
        client.close()
        reading.join(TIMEOUT)
        assert ended == [[]]


def test_a_subscription_that_was_not_left_because_of_an_error(client: hyps.sync.Client) -> None:
    with pytest.raises(KeyError), client.subscribe("a"):
        raise KeyError("a bug")
    with pytest.raises(hyps.InvalidChannel), client.subscribe("a\nb"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(server: hyps.Server) -> None:
    program = f"""
import os, hyps.sync
client = hyps.sync.connect({server.urls[0]!r})
with client.subscribe("a", timeout={TIMEOUT}) as subscription:
    for number in range(3):
        child = os.fork()
        if not child:
            try:
                next(subscription)
            except RuntimeError as error:
                assert "fork" in str(error), error
                client.publish("a", f"child {{number}}")
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert next(subscription).data == b"child %d" % number
    client.publish("a", "parent")
    assert next(subscription).data == b"parent"
# A child that ends in the usual way.
if not os.fork():
    client.publish("a", "another")
    raise SystemExit
assert os.wait()[1] == 0
client.publish("a", "still there")
"""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.broker.published == 6


def test_a_process_ends_without_closing(server: hyps.Server) -> None:
    program = f"""
import hyps.sync
client = hyps.sync.connect({server.urls[0]!r})
subscription = client.subscribe("a").__enter__()
client.publish("a", "1")
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.broker.published == 1


# Transports


def test_tls_and_a_token() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with hub(ssl_context=context, token="secret") as server:
        url = server.urls[0]
        with hyps.sync.connect(url, token="secret", ssl_context=trust) as client:
            client.publish("a", "")
        with pytest.raises(hyps.AuthenticationFailed):
            hyps.sync.connect(url, token="wrong", ssl_context=trust).connect()


def test_a_unix_socket(socket_folder: Path) -> None:
    with hub(uds=socket_folder / "hub") as server, hyps.sync.connect(server.urls[0]) as client:
        client.publish("a", "")


# What must not hang, or be left


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    options = ("-W", "error", "-W", "ignore::DeprecationWarning")
    command = [sys.executable, *options, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)


def test_a_signal_handler_must_not_call_it(server: hyps.Server) -> None:
    done = run_program(f"""
import signal, hyps.sync
client = hyps.sync.connect({server.urls[0]!r})
def handle(number, frame):
    try:
        client.publish("a", "")
    except RuntimeError as error:
        assert "in the middle of another call" in str(error), error
        print("told")
signal.signal(signal.SIGALRM, handle)
with client.subscribe("a") as subscription:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        subscription.receive(timeout=0.5)
    except TimeoutError:
        pass
# All goes on.
client.publish("a", "")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")


def test_leaving_in_the_middle_of_another_call(server: hyps.Server) -> None:
    done = run_program(f"""
import signal, hyps.sync
client = hyps.sync.connect({server.urls[0]!r})
subscription = client.subscribe("a").__enter__()
# What a garbage collector may do at any moment.
signal.signal(signal.SIGALRM, lambda *_: subscription.__exit__(None, None, None))
with client.subscribe("b") as other:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        other.receive(timeout=0.5)
    except TimeoutError:
        pass
assert list(subscription) == []
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_daemon_thread_that_reads_holds_nobody(server: hyps.Server) -> None:
    done = run_program(f"""
import threading, hyps.sync
reading = threading.Event()
def listen():
    with hyps.sync.connect({server.urls[0]!r}).subscribe("a") as subscription:
        reading.set()
        list(subscription)
threading.Thread(target=listen, daemon=True).start()
reading.wait()
""")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_the_first_call(server: hyps.Server) -> None:
    done = run_program(f"""
import os, threading, hyps.sync
client = hyps.sync.connect({server.urls[0]!r})
threading.Thread(target=client.publish, args=("a", "")).start()
for _ in range(5):
    if not os.fork():
        client.publish("a", "")
        os._exit(0)
assert [os.wait()[1] for _ in range(5)] == [0] * 5
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.broker.published == 6


def test_clients_that_are_dropped_leave_nothing(server: hyps.Server) -> None:
    for _ in range(5):
        hyps.sync.connect(server.urls[0]).publish("a", "")
    gc.collect()
    with hyps.sync.connect(server.urls[0]) as client:
        for _ in range(1_000):
            client.publish("a", "")
            if len(server.broker.sessions) == 1:
                break
    assert server.broker.published < 1_005


def test_a_subscription_of_a_client_that_was_closed(server: hyps.Server) -> None:
    client = hyps.sync.connect(server.urls[0])
    subscription = client.subscribe("a")
    client.close()
    with pytest.raises(hyps.ConnectionLost, match="was closed"), subscription:
        pass
    assert not server.broker.sessions


def test_a_client_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="make one there"):
        pickle.dumps(hyps.sync.connect())


def test_stats_ping_and_the_greeting(server: hyps.Server) -> None:
    client = hyps.sync.connect(server.urls[0])
    assert not client.stats().connected
    assert client.welcome is None
    with client:
        seconds = client.ping()
        client.publish("a", "1")
        with client.subscribe("a"):
            stats = client.stats()
            assert (stats.connected, stats.published, stats.subscriptions) == (True, 1, 1)
            assert stats.round_trip == seconds
        assert client.welcome is not None
    assert client.welcome is None
    assert client.stats().subscriptions == 0
    with pytest.raises(hyps.ConnectionLost):
        client.ping()
