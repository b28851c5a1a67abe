"""Which nodes there are: slots, a Sentinel's failover, a Cluster, and slots that move."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Final

import anyio
import pytest
from fleet.resp import HELLO, scripted, spell
from fleet.seats import seated
from hypothesis import given
from hypothesis import strategies as st
from support.helpers import PATIENCE, wait_until
from support.redis import SLOTS, Redis, cluster, free_port, join, needs_redis, redis, sentinel

from hyps._fleet.addresses import parse_engine
from hyps._fleet.discovery import Layout, discover, parse_moved, slot_of
from hyps._fleet.talk import EngineUnavailable
from hyps.protocol._fleet.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hyps._fleet.addresses import EngineURL, Node

pytestmark = [needs_redis]


def node(host: str) -> Node:
    [found] = parse_engine(f"redis://{host}").hosts
    return found


ONE, TWO = node("one:1"), node("two:2")


# Slots


@pytest.mark.parametrize(
    ("key", "tag"),
    [(b"{a}b", b"a"), (b"x{a}{b}", b"a"), (b"{{a}", b"{a"), (b"x{a}}", b"a")],
)
def test_a_hash_tag_decides(key: bytes, tag: bytes) -> None:
    assert slot_of(key) == slot_of(tag)


@pytest.mark.parametrize("key", [b"{}a", b"{a", b"a}b{", b"}{"])
def test_what_is_no_hash_tag_decides_nothing(key: bytes) -> None:
    assert slot_of(key) != slot_of(b"a")


def test_who_has_a_slot() -> None:
    layout = Layout(((1, 5, ONE), (6, 6, TWO), (10, 16_383, ONE)))
    assert layout.nodes == (ONE, TWO)
    found = {slot: layout.node_of(slot) for slot in (0, 1, 5, 6, 7, 9, 10, 16_383)}
    assert [slot for slot, each in found.items() if each == ONE] == [1, 5, 10, 16_383]
    assert [slot for slot, each in found.items() if each is None] == [0, 7, 9]
    assert Layout(()).node_of(0) is None


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("1 two:2", (1, TWO)),
        ("16383 ::1:7", (16_383, node("[::1]:7"))),
        # Whoever does not know its own name means the host that was asked.
        ("0 :7", (0, node("one:7"))),
    ],
)
def test_where_a_slot_has_moved_to(text: str, moved: tuple[int, Node]) -> None:
    assert parse_moved(EngineError("MOVED", text), ONE) == moved


@pytest.mark.parametrize(
    "text", ["", "1", "1 two", "1 two:x", "1 two:65536", "16384 two:2", "-1 two:2", "x two:2"]
)
def test_what_does_not_say_where_a_slot_is(text: str) -> None:
    assert parse_moved(EngineError("MOVED", text), ONE) is None


def test_a_slot_that_is_asked_for_has_not_moved() -> None:
    assert parse_moved(EngineError("ASK", "1 two:2"), ONE) is None


@given(st.text())
def test_any_text_of_an_error_can_be_read(text: str) -> None:
    parse_moved(EngineError("MOVED", text), ONE)


# One node


@pytest.mark.anyio
async def test_a_single_node_has_all_slots(server: Redis) -> None:
    layout = await discover(parse_engine(server.url))
    assert layout.nodes == (node(server.host),)
    assert layout.node_of(0) == layout.node_of(16_383) == node(server.host)


# Sentinels


def url_of(guards: Sequence[Redis], name: str = "main", login: str = "") -> EngineURL:
    hosts = ",".join(guard.host for guard in guards)
    return parse_engine(f"redis+sentinel://{login}{hosts}/{name}")


async def failure(url: EngineURL) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        await discover(url)
    return str(caught.value)


@pytest.mark.anyio
async def test_a_failover(socket_folder: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(redis(socket_folder))
        replica_of = (
            "--replicaof",
            "127.0.0.1",
            str(first.port),
            "--repl-diskless-sync-delay",
            "0",
        )
        second = stack.enter_context(redis(socket_folder, *replica_of))
        with anyio.fail_after(PATIENCE):
            while b"state=online" not in await first.call("INFO", "replication"):
                pass
        guard = stack.enter_context(sentinel(socket_folder, "main", first))
        url = url_of([guard])
        assert (await discover(url)).nodes == (node(first.host),)
        # What is promoted must be known as a replica.
        with anyio.fail_after(PATIENCE):
            while not await guard.call("SENTINEL", "replicas", "main"):
                pass
        async with seated(url, node(first.host)) as seat:
            before = seat.connection.info
            first.kill()
            await seat.outcome.get()
        with anyio.fail_after(25):
            while (await discover(url)).nodes == (node(first.host),):
                pass
        async with seated(url, node(second.host)) as seat:
            after = seat.connection.info
            assert await seat.ask(b"SET", b"a", b"1") == b"OK"
        assert before.replid != after.replid


@pytest.mark.anyio
async def test_sentinels_that_are_gone_hold_up_nobody(server: Redis, socket_folder: Path) -> None:
    with ExitStack() as stack:
        guards = [stack.enter_context(sentinel(socket_folder, "main", server)) for _ in range(3)]
        guards[0].kill()
        assert (await discover(url_of(guards))).nodes == (node(server.host),)
        guards[1].stop()
        assert (await discover(url_of(guards))).nodes == (node(server.host),)
        guards[2].kill()
        why = await failure(url_of(guards))
        assert f"no engine at {node(guards[0].host)}: connection refused" in why
        assert f"no engine at {node(guards[1].host)}: it did not answer for 2 seconds" in why


@pytest.mark.anyio
async def test_the_majority_of_sentinels_decides(server: Redis, socket_folder: Path) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(redis(socket_folder))
        guards = [
            stack.enter_context(sentinel(socket_folder, "main", master))
            for master in (other, server, server)
        ]
        assert (await discover(url_of(guards))).nodes == (node(server.host),)


@pytest.mark.anyio
async def test_a_sentinel_gets_the_password_if_it_wants_one(
    server: Redis, socket_folder: Path
) -> None:
    with sentinel(socket_folder, "main", server) as guard:
        # Without a need it would be refused: there is no such user.
        login = "user:s3cr3t@"
        assert (await discover(url_of([guard], login=login))).nodes == (node(server.host),)
        assert await guard.call("ACL", "SETUSER", "user", "on", ">s3cr3t", "+@all") == b"OK"
        assert await guard.call("ACL", "SETUSER", "default", "resetpass") == b"OK"
        assert (await discover(url_of([guard], login=login))).nodes == (node(server.host),)
        assert (await failure(url_of([guard]))).endswith("it wants a password")
        why = await failure(url_of([guard], login="user:other@"))
        assert why.endswith("the password is wrong, or the user")


@pytest.mark.anyio
async def test_what_sentinels_do_not_know(server: Redis, socket_folder: Path) -> None:
    with sentinel(socket_folder, "main", server) as guard:
        why = await failure(url_of([guard], "other"))
        assert why.endswith("this Sentinel knows nothing of 'other'")
    assert (await failure(url_of([server]))).endswith("that is no Sentinel")


# A Cluster


@pytest.mark.anyio
async def test_a_cluster(socket_folder: Path) -> None:
    with cluster(socket_folder) as nodes:
        with anyio.fail_after(PATIENCE):
            await join(nodes)
        url = parse_engine(f"redis+cluster://{nodes[1].host}")
        layout = await discover(url)
        assert layout.ranges == tuple(
            (first, last, node(each.host)) for (first, last), each in zip(SLOTS, nodes, strict=True)
        )
        for key in (b"a", b"b", b"{a}b", b"{}a", b"a{b", b"\xff"):
            assert slot_of(key) == await nodes[0].call("CLUSTER", "KEYSLOT", key)
            owner = layout.node_of(slot_of(key))
            stranger = next(each for each in layout.nodes if each != owner)
            async with seated(url, owner) as seat, seated(url, stranger) as other:
                assert seat.connection.info.is_cluster
                assert await seat.ask(b"SSUBSCRIBE", key) is None
                assert await seat.ask(b"SPUBLISH", key, b"data") == 1
                await wait_until(lambda: seat.pushes[1:] == [[b"smessage", key, b"data"]])  # noqa: B023
                for verb in (b"SSUBSCRIBE", b"SUNSUBSCRIBE"):
                    error = await other.ask(verb, key)
                    assert parse_moved(error, stranger) == (slot_of(key), owner)
        why = "it is a node of a Cluster, whose URL begins with redis+cluster://"
        assert (await opening_fails(nodes[0].url)).endswith(why)

        await _check_slots_that_move(url, nodes)
        await _check_nodes_without_names(nodes)

        # The URL's only node dies.
        known = (await discover(url)).nodes
        nodes[1].kill()
        assert "connection refused" in await failure(url)
        assert set((await discover(url, known=known)).nodes) == set(known)


async def _check_slots_that_move(url: EngineURL, nodes: Sequence[Redis]) -> None:
    """The engine unsubscribes the channels of a slot that moves; no reply goes astray."""
    channel, owner = b"a", node(nodes[2].host)
    assert slot_of(channel) == 15_495
    ids = [(await each.call("CLUSTER", "MYID")).decode() for each in nodes]
    async with seated(url, owner) as seat:
        assert await seat.ask(b"SSUBSCRIBE", channel) is None
        for each in (nodes[0], nodes[2]):
            reply = await each.call("CLUSTER", "SETSLOT", "15495", "NODE", ids[0])
            assert reply == b"OK"
        await wait_until(lambda: seat.pushes[1:] == [[b"sunsubscribe", channel, 0]])
        error = await seat.ask(b"SUNSUBSCRIBE", channel)
        assert parse_moved(error, owner) == (15_495, node(nodes[0].host))
        assert await seat.ask(b"ECHO", b"next") == b"next"
    with anyio.fail_after(PATIENCE):
        while (await discover(url)).node_of(15_495) != node(nodes[0].host):
            pass


async def _check_nodes_without_names(nodes: Sequence[Redis]) -> None:
    url = parse_engine(f"redis+cluster://{nodes[0].host}")
    for kind in ("unknown-endpoint", "hostname", "ip"):
        setting = ("cluster-preferred-endpoint-type", kind)
        assert await nodes[0].call("CONFIG", "SET", *setting) == b"OK"
        found = (await discover(url)).nodes
        assert set(found) == {node(each.host) for each in nodes}


async def opening_fails(url: str) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        async with seated(parse_engine(url)):
            pass
    return str(caught.value)


@pytest.mark.anyio
async def test_a_cluster_that_has_no_slots_yet(socket_folder: Path) -> None:
    with cluster(socket_folder) as nodes:
        url = parse_engine(f"redis+cluster://{nodes[0].host}")
        assert (await failure(url)).endswith("no node of its Cluster has slots")


@pytest.mark.anyio
async def test_what_is_no_cluster(server: Redis) -> None:
    why = await failure(parse_engine(f"redis+cluster://{server.host}"))
    assert why.endswith("it refused CLUSTER: ERR This instance has cluster support disabled")
    why = await failure(parse_engine(f"redis+cluster://127.0.0.1:{free_port()}"))
    assert why.endswith("connection refused")


#: What is no answer of a Sentinel, and no answer of a Cluster's node.
NO_ADDRESSES: Final[tuple[object, ...]] = (
    [],
    [b"one"],
    [b"one", b"port"],
    [b"one", b"1", b"2"],
    {},
    b"one:1",
    7,
)
NO_LAYOUTS: Final[tuple[object, ...]] = (
    *([], {}, 7, [7], [[]], [[0, 1]], [[0, 1, []]], [[0, 1, [b"one"]]], [[0, 1, [b"one", b"1"]]]),
    *([[2, 1, [b"one", 1]]], [[0, 16_384, [b"one", 1]]], [[0, 1, [b"one", 65_536]]]),
    [[0, 1, [b"one", 1]], [2, 3, [b"two", -1]]],
)


@pytest.mark.anyio
@pytest.mark.parametrize("reply", NO_ADDRESSES)
async def test_sentinels_that_answer_something_else(reply: object) -> None:
    hello = spell({b"mode": b"sentinel"})
    script = {b"PING": spell(b"PONG"), b"HELLO": hello, b"SENTINEL": spell(reply)}
    async with scripted(script) as host:
        why = await failure(parse_engine(f"redis+sentinel://{host}/main"))
        assert why.endswith("what this Sentinel answers is no address")


@pytest.mark.anyio
async def test_a_sentinel_that_refuses() -> None:
    hello = spell({b"mode": b"sentinel"})
    script = {b"PING": spell(b"PONG"), b"HELLO": hello, b"SENTINEL": b"-NOPERM no permissions\r\n"}
    async with scripted(script) as host:
        why = await failure(parse_engine(f"redis+sentinel://{host}/main"))
        assert why.endswith("the user lacks a permission: no permissions")


@pytest.mark.anyio
@pytest.mark.parametrize("reply", NO_LAYOUTS)
async def test_nodes_that_answer_something_else(reply: object) -> None:
    script = {b"HELLO": HELLO, b"CLUSTER": spell(b"cluster_current_epoch:x\r\n") + spell(reply)}
    async with scripted(script) as host:
        why = await failure(parse_engine(f"redis+cluster://{host}"))
        assert why.endswith(
            ("what it answers to CLUSTER SLOTS is no layout", "no node of its Cluster has slots")
        )


@pytest.mark.anyio
async def test_the_layout_of_the_latest_epoch_counts() -> None:
    async with AsyncExitStack() as stack:
        hosts = []
        for epoch, name in ((3, b"one"), (12, b"two"), (7, b"three")):
            answer = spell(b"cluster_current_epoch:%d\r\n" % epoch) + spell([[0, 9, [name, 1]]])
            script = {b"HELLO": HELLO, b"CLUSTER": answer}
            hosts.append(await stack.enter_async_context(scripted(script)))
        # Any two of them are enough, so that one that is behind never decides by itself.
        layout = await discover(parse_engine(f"redis+cluster://{','.join(hosts)}"))
        assert layout.node_of(9) in (node("two:1"), node("three:1"))
