"""Which nodes an engine has: the one of its URL, whom Sentinels name, or those of a Cluster."""

from __future__ import annotations

from binascii import crc_hqx
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from .._net.addresses import TCPAddress
from ..protocol._fleet.engine import EngineError
from .addresses import Kind
from .login import read_credentials, say_hello
from .talk import EngineUnavailable, explain, talk_to

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from .addresses import EngineURL, Node
    from .talk import Talk

T = TypeVar("T")

#: Slots of an engine. A single node has all of them.
SLOTS: Final = 16_384

#: How many reasons an error gives; they are mostly the same.
_REASONS: Final = 3


def slot_of(key: bytes) -> int:
    """Return the slot of a key or of a shard channel: that of its hash tag, if it has one."""
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    # What Redis calls CRC16 is CRC-CCITT with 0 as its initial value.
    return crc_hqx(key, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class Layout:
    """Which node has which slots.

    :param ranges: first slot, last slot, and the node; in the order of the slots
    """

    ranges: tuple[tuple[int, int, Node], ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that have slots."""
        return tuple(dict.fromkeys(node for _, _, node in self.ranges))

    def node_of(self, slot: int) -> Node | None:
        """Return who has a slot; None if nobody has."""
        index = bisect_right(self.ranges, slot, key=lambda each: each[0]) - 1
        if index >= 0 and slot <= self.ranges[index][1]:
            return self.ranges[index][2]
        return None


def parse_moved(error: EngineError, asked: Node) -> tuple[int, Node] | None:
    """Read where a slot has moved to.

    :param asked: which node said so
    :return: the slot and who has it; None if this is another error
    """
    slot, _, address = error.text.partition(" ")
    host, colon, port = address.rpartition(":")
    if error.code != "MOVED" or not (colon and _is_number(slot, SLOTS - 1)):
        return None
    node = _other_node(asked, host, port)
    return None if node is None else (int(slot), node)


async def discover(
    url: EngineURL, *, known: Iterable[Node] = (), ssl_context: ssl.SSLContext | None = None
) -> Layout:
    """Find out which nodes there are. Whether they are masters is for who connects to them.

    Sentinels, and nodes of a Cluster, are asked all at once: those that do not answer hold up
    nobody, and the majority outvotes one that is cut off from the others.

    :param known: nodes of an earlier layout, which may know more than those of the URL
    :param ssl_context: for TLS; None trusts whom the system trusts
    :raises EngineUnavailable: if nobody tells
    """
    match url.kind:
        case Kind.SINGLE:
            return Layout(((0, SLOTS - 1, url.hosts[0]),))
        case Kind.SENTINEL:
            votes = await _ask_all(url, url.hosts, _ask_sentinel, _most_votes, ssl_context)
            [(node, _)] = Counter(votes).most_common(1)
            return Layout(((0, SLOTS - 1, node),))
        case Kind.CLUSTER:
            hosts = tuple(dict.fromkeys([*url.hosts, *known]))
            layouts = await _ask_all(url, hosts, _ask_cluster, len, ssl_context)
            _, layout = max(layouts, key=lambda each: each[0])
            return layout


async def _ask_all(
    url: EngineURL,
    hosts: Sequence[Node],
    ask: Callable[[Talk, EngineURL], Coroutine[Any, Any, T]],
    count: Callable[[list[T]], int],
    ssl_context: ssl.SSLContext | None,
) -> list[T]:
    """Ask hosts at once, until enough have answered or all have had their time.

    :param ask: asks one of them
    :param count: how much the answers count; more than half of the number of hosts is enough
    :return: at least one answer
    """
    answers: list[T] = []
    reasons: list[str] = []

    async def ask_one(host: Node) -> None:
        try:
            async with talk_to(host, ssl_context) as talk:
                answers.append(await ask(talk, url))
        except EngineUnavailable as error:
            reasons.append(str(error))
        if answers and count(answers) * 2 > len(hosts):
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for host in hosts:
            tasks.start_soon(ask_one, host)
    if not answers:
        raise EngineUnavailable("; ".join(reasons[:_REASONS]))
    return answers


def _most_votes(votes: list[Node]) -> int:
    return max(Counter(votes).values())


async def _ask_sentinel(talk: Talk, url: EngineURL) -> Node:
    # The password is the engine's; a Sentinel gets to know it only if it wants one.
    [reply] = await talk.ask([b"PING"])
    wants_login = isinstance(reply, EngineError) and reply.code == "NOAUTH"
    if await say_hello(talk, read_credentials(talk, url) if wants_login else None) != "sentinel":
        raise talk.failure("that is no Sentinel")
    command = [b"SENTINEL", b"get-master-addr-by-name", url.name.encode()]
    match (await talk.ask(command))[0]:
        case None:
            raise talk.failure(f"this Sentinel knows nothing of {url.name!r}")
        case EngineError() as error:
            raise talk.failure(explain(error) or f"it refused SENTINEL: {error}")
        case [bytes(host), bytes(port)] if node := _other_node(talk.node, _text(host), _text(port)):
            return node
    raise talk.failure("what this Sentinel answers is no address")


async def _ask_cluster(talk: Talk, url: EngineURL) -> tuple[int, Layout]:
    """Ask a node for the Cluster's epoch, which grows with each change, and for its layout."""
    await say_hello(talk, read_credentials(talk, url))
    info, slots = await talk.ask([b"CLUSTER", b"INFO"], [b"CLUSTER", b"SLOTS"])
    for reply in (info, slots):
        if isinstance(reply, EngineError):
            raise talk.failure(explain(reply) or f"it refused CLUSTER: {reply}")
    epoch = 0
    for line in _text(info).splitlines():
        name, _, value = line.partition(":")
        if name == "cluster_current_epoch" and _is_number(value, 2**64):
            epoch = int(value)
    ranges = [_read_range(each, talk.node) for each in slots] if isinstance(slots, list) else []
    found = [each for each in ranges if each is not None]
    if not found:
        raise talk.failure("no node of its Cluster has slots")
    if len(found) < len(ranges):
        raise talk.failure("what it answers to CLUSTER SLOTS is no layout")
    return epoch, Layout(tuple(sorted(found, key=lambda each: each[0])))


def _read_range(entry: object, asked: Node) -> tuple[int, int, Node] | None:
    match entry:
        case [int(first), int(last), [host, int(port), *more], *_] if 0 <= first <= last < SLOTS:
            if host == b"?":
                # It has no name that it could be called by, but perhaps an address.
                details = more[1] if len(more) > 1 else None
                host = details.get(b"ip", b"") if isinstance(details, dict) else b""
            node = _other_node(asked, _text(host), str(port))
            return None if node is None else (first, last, node)
    return None


def _other_node(asked: Node, host: str, port: str) -> Node | None:
    """Return a node that another one names; without a host it is where the other one is."""
    if not isinstance(asked, TCPAddress) or not _is_number(port, 65_535):
        return None
    return replace(asked, host=host or asked.host, port=int(port))


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= most


def _text(reply: object) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
