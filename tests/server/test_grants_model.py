"""No message reaches or leaves a channel outside the grants, whatever clients and operators do."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.helpers import PATIENCE

import hyps
from hyps import Credentials, Grants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHANNELS = ("a", "ab", "b")
PATTERNS = ("a", "a*", "ab", "b", "*")
CLIENTS = ("0", "1", "2")


def names(pattern: str, channel: str) -> bool:
    """Say what a pattern means, in other words than the hub's."""
    return fnmatchcase(channel, pattern)


patterns = st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple)


@dataclass(frozen=True)
class Allowed:
    """What one client may do."""

    subscribe: tuple[str, ...]
    publish: tuple[str, ...]


allowed = st.builds(Allowed, patterns, patterns)
tables = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(CLIENTS, allowed)),
    st.dictionaries(st.sampled_from(CLIENTS), allowed),
)
clients = st.sampled_from(CLIENTS)
channels = st.sampled_from(CHANNELS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), clients, channels),
        st.tuples(st.just("publish_many"), clients),
        st.tuples(st.just("subscribe"), clients, channels),
        st.tuples(st.just("leave"), clients, channels),
        st.tuples(st.just("reconnect"), clients),
        st.tuples(st.just("reload"), tables),
    ),
    max_size=25,
)

EVERYTHING = {name: Allowed(("*",), ("*",)) for name in CLIENTS}


class Table:
    """The clients of one configuration."""

    def __init__(self, table: Mapping[str, Allowed]) -> None:
        self._grants = {
            name: Grants(name=name, subscribe=allowed.subscribe, publish=allowed.publish)
            for name, allowed in table.items()
        }

    async def __call__(self, credentials: Credentials) -> Grants | None:
        return self._grants.get(credentials.token or "")

    def review(self, credentials: Credentials, grants: Grants) -> Grants | None:
        return self._grants.get(grants.name)


@dataclass
class World:
    """A hub, its clients, and what was allowed when."""

    server: hyps.Server
    tasks: Any
    url: str
    #: The configurations so far, and who published what under which one.
    tables: list[Mapping[str, Allowed]] = field(default_factory=lambda: [dict(EVERYTHING)])
    published: list[tuple[int, str, str]] = field(default_factory=list)
    received: set[tuple[str, int]] = field(default_factory=set)
    clients: dict[str, hyps.Client] = field(default_factory=dict)
    subscriptions: dict[tuple[str, str], hyps.Subscription] = field(default_factory=dict)

    def may(self, table: int, name: str, verb: str, channel: str) -> bool:
        allowed = self.tables[table].get(name)
        return allowed is not None and any(
            names(pattern, channel) for pattern in getattr(allowed, verb)
        )

    async def read(self, name: str, subscription: hyps.Subscription) -> None:
        with suppress(hyps.HypsError):
            async for message in subscription:
                number = int(message.data)
                table, publisher, channel = self.published[number]
                assert message.channel == channel
                assert self.may(table, name, "subscribe", channel), (name, channel)
                assert self.may(table, publisher, "publish", channel), (publisher, channel)
                self.received.add((name, number))

    def number(self, name: str, channel: str) -> bytes:
        self.published.append((len(self.tables) - 1, name, channel))
        return b"%d" % (len(self.published) - 1)

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("publish", name, channel):
                may = self.may(-1, name, "publish", channel)
                try:
                    await self.clients[name].publish(channel, self.number(name, channel))
                except hyps.PermissionDenied:
                    assert not may
                except hyps.HypsError:
                    pass  # it is not connected
                else:
                    assert may
            case ("publish_many", name):
                messages = [(each, self.number(name, each)) for each in CHANNELS * 2]
                with suppress(hyps.HypsError):
                    await self.clients[name].publish_many(messages)
            case ("subscribe", name, channel):
                subscription = self.clients[name].subscribe(channel)
                may = self.may(-1, name, "subscribe", channel)
                try:
                    await subscription.__aenter__()
                except hyps.PermissionDenied:
                    assert not may
                except hyps.HypsError:
                    pass
                else:
                    assert may
                    self.leave(name, channel)
                    self.subscriptions[name, channel] = subscription
                    self.tasks.start_soon(self.read, name, subscription)
            case ("leave", name, channel):
                self.leave(name, channel)
            case ("reconnect", name):
                await self.clients[name].shutdown()
                # A hub answers late if it refuses.
                with suppress(hyps.HypsError), anyio.move_on_after(0.2):
                    await self.clients[name].connect()
            case ("reload", table):
                self.tables.append(table)
                await self.server.set_authentication(authenticate=Table(table))
                # Whoever still may publishes everywhere.
                for name in CLIENTS:
                    await self.do(("publish_many", name))

    def leave(self, name: str, channel: str) -> None:
        subscription = self.subscriptions.pop((name, channel), None)
        if subscription is not None:
            subscription.leave()


async def live(scheme: str, script: list[tuple[Any, ...]]) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            hyps.Server(
                port=0, authenticate=Table(EVERYTHING), limits=hyps.Limits(hello_timeout=2.0)
            )
        )
        tasks = await stack.enter_async_context(anyio.create_task_group())
        world = World(server, tasks, server.urls[0].replace("hyps:", f"{scheme}:"))
        for name in CLIENTS:
            client = hyps.connect(
                world.url, token=name, when_disconnected="raise", reconnect_max_delay=0.01
            )
            await client.connect()
            stack.push_async_callback(client.shutdown)
            world.clients[name] = client
            for channel in CHANNELS:
                await world.do(("subscribe", name, channel))
        with anyio.fail_after(PATIENCE):
            for step in script:
                await world.do(step)
            # In the end everybody may do everything again, and does.
            await world.do(("reload", EVERYTHING))
            for name, client in world.clients.items():
                await until_connected(client)
                await world.do(("subscribe", name, "ab"))
            number = len(world.published)
            await world.do(("publish", "0", "ab"))
            while not {(name, number) for name in CLIENTS} <= world.received:
                await checkpoint()


async def until_connected(client: hyps.Client) -> None:
    while not client.connected:
        with suppress(hyps.HypsError):
            await client.connect()
        await checkpoint()


def test_no_message_outside_the_grants(
    scheme: str, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    name, options = anyio_backend
    options = {**options, "debug": False} if name == "asyncio" else options

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )
    @given(script=steps)
    def check(script: list[tuple[Any, ...]]) -> None:
        anyio.run(live, scheme, script, backend=name, backend_options=options)

    run: Callable[[], None] = check
    run()
