"""Peers that are scripted by tests: they send any bytes, valid or not, over real sockets."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from anyio.abc import SocketAttribute
from support.helpers import PATIENCE, begin

import hyps
from hyps.protocol import PREFACE, FrameDecoder, Kind, Limits, encode, encode_frame, records

AnySubscription = TypeVar("AnySubscription", bound=hyps.Subscription[Any])

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteStream, SocketListener, SocketStream

#: What a hub answers with to a SUBSCRIBE: done, and the channel's position.
GRANTED = b"kscript:0"

#: A frame larger than any in these tests.
_MAX_FRAME = 64 * 1024 * 1024


def frame(kind: Kind, **fields: object) -> bytes:
    """Encode a frame with a JSON object."""
    return encode_frame(kind, json.dumps(fields).encode())


HELLO = frame(Kind.HELLO, client="a test")
OPENING = PREFACE + HELLO
GOAWAY = frame(Kind.GOAWAY, reason="a test", reconnect_after=0)


def publish_frame(channel: str, *messages: bytes) -> bytes:
    return encode_frame(Kind.PUBLISH, b"".join(encode(channel, data) for data in messages))


def subscribe_frame(*channels: str) -> bytes:
    return encode_frame(Kind.SUBSCRIBE, b"".join(encode(channel, b"") for channel in channels))


def welcome_frame(**fields: object) -> bytes:
    limits = Limits()
    return frame(
        Kind.WELCOME,
        **{
            "server": "a test",
            "session": "1",
            "features": [],
            "heartbeat": limits.heartbeat,
            "max_message": limits.max_message,
            "max_channel": limits.max_channel,
            "max_frame": limits.max_frame,
            "max_channels": limits.max_channels,
            "max_in_flight": limits.max_in_flight,
            **fields,
        },
    )


def reset_when_closed(raw: socket.socket) -> None:
    """Let a socket's end be a reset."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Peer:
    """One end of a connection.

    :param stream: what it speaks over
    :param is_hub: the other end opens with a preface
    """

    def __init__(self, stream: ByteStream, *, is_hub: bool) -> None:
        self.stream = stream
        self._decoder = FrameDecoder(_MAX_FRAME, preface=is_hub)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def send(self, *data: bytes) -> None:
        with anyio.fail_after(PATIENCE):
            await self.stream.send(b"".join(data))

    async def next_frame(self) -> tuple[Kind, bytes]:
        """Give the next frame.

        :raises anyio.EndOfStream: if there is none
        """
        with anyio.fail_after(PATIENCE):
            while (found := self._decoder.next_frame()) is None:
                self._decoder.receive_data(await self.stream.receive())
        kind, body = found
        return Kind(kind), body

    async def expect(self, kind: Kind) -> bytes:
        """Give the body of the next frame, which must be of this kind."""
        found, body = await self.next_frame()
        assert found is kind, f"{found.name} came instead of {kind.name}: {body!r}"
        return body

    async def expect_fields(self, kind: Kind) -> dict[str, Any]:
        """Give the object of the next frame, which must be of this kind."""
        fields = json.loads(await self.expect(kind))
        assert isinstance(fields, dict)
        return fields

    async def expect_channels(self, kind: Kind) -> list[str]:
        """Give the channels in the next frame, which must be of this kind."""
        return [channel for channel, _ in records(await self.expect(kind))]

    async def expect_messages(self, kind: Kind = Kind.MESSAGES) -> list[tuple[str, bytes]]:
        """Give the records of the next frame, which must be of this kind."""
        return list(records(await self.expect(kind)))

    async def expect_end(self) -> None:
        """Wait for the other side to close; nothing may come before."""
        assert await self.rest() == b""

    async def rest(self) -> bytes:
        """Give the bytes that are left, to the end."""
        assert self._decoder.buffered == 0
        data = bytearray()
        with anyio.fail_after(PATIENCE):
            try:
                while True:
                    data += await self.stream.receive()
            except anyio.EndOfStream:
                return bytes(data)

    async def reset(self) -> None:
        """Reset the connection: what was sent and not read is lost."""
        reset_when_closed(self.stream.extra(SocketAttribute.raw_socket))
        await self.stream.aclose()

    # A client

    async def open(self) -> None:
        """Open a session with a hub."""
        await self.send(OPENING)
        await self.expect(Kind.WELCOME)

    async def subscribe(self, *channels: str) -> None:
        await self.send(subscribe_frame(*channels))
        assert await self.expect_channels(Kind.SUBSCRIBE_ACK) == list(channels)

    # A hub

    async def welcome(self, **fields: object) -> None:
        """Open a session with a client."""
        await self.expect(Kind.HELLO)
        await self.send(welcome_frame(**fields))

    async def grant(self, *channels: str, answer: bytes = GRANTED) -> None:
        """Expect a SUBSCRIBE of these channels, and answer it."""
        assert await self.expect_channels(Kind.SUBSCRIBE) == list(channels)
        await self.answer_subscribe(*channels, answer=answer)

    async def answer_subscribe(self, *channels: str, answer: bytes = GRANTED) -> None:
        body = b"".join(encode(channel, answer) for channel in channels)
        await self.send(encode_frame(Kind.SUBSCRIBE_ACK, body))

    async def enter(self, subscription: AnySubscription, *channels: str) -> AnySubscription:
        """Grant a subscription its channels while it is entered."""
        async with anyio.create_task_group() as tasks:
            entering = begin(tasks, subscription.__aenter__)
            await self.grant(*channels)
        return await entering.get()

    async def release(self, *channels: str) -> None:
        """Expect an UNSUBSCRIBE of these channels, and answer it."""
        assert await self.expect_channels(Kind.UNSUBSCRIBE) == list(channels)
        await self.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k" * len(channels)))

    async def answer_publish(self, codes: bytes = b"k") -> list[bytes]:
        """Expect a PUBLISH for each code, in any number of frames, and answer it."""
        found: list[bytes] = []
        while len(found) < len(codes):
            found += [data for _, data in await self.expect_messages(Kind.PUBLISH)]
        assert len(found) == len(codes)
        await self.send(encode_frame(Kind.PUBLISH_ACK, codes))
        return found

    async def deliver(self, channel: str, *messages: bytes) -> None:
        body = b"".join(encode(channel, data) for data in messages)
        await self.send(encode_frame(Kind.MESSAGES, body))

    async def gap(self, channel: str, position: bytes) -> None:
        await self.send(encode_frame(Kind.GAP, encode(channel, position)))


async def connect_raw(url: str) -> Peer:
    """Connect to a hub, and say nothing."""
    host, _, port = url.removeprefix("hyps://").rpartition(":")
    return Peer(await anyio.connect_tcp(host.strip("[]"), int(port)), is_hub=False)


@asynccontextmanager
async def raw_client(url: str) -> AsyncIterator[Peer]:
    """Open a session with a hub."""
    async with await connect_raw(url) as peer:
        await peer.open()
        yield peer


class ScriptedHub:
    """A listener that does what the test says."""

    def __init__(self, listener: SocketListener) -> None:
        self._listener = listener
        port = listener.extra(SocketAttribute.local_port)
        self.url = f"hyps://127.0.0.1:{port}"
        self._peers: list[Peer] = []

    async def accept(self) -> Peer:
        with anyio.fail_after(PATIENCE):
            stream: SocketStream = await self._listener.accept()
        peer = Peer(stream, is_hub=True)
        self._peers.append(peer)
        return peer

    async def close(self) -> None:
        """Close every connection."""
        for peer in self._peers:
            await peer.stream.aclose()


@asynccontextmanager
async def scripted_hub() -> AsyncIterator[ScriptedHub]:
    """Listen."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with multi:
        hub = ScriptedHub(multi.listeners[0])  # type: ignore[arg-type]
        try:
            yield hub
        finally:
            await hub.close()


@asynccontextmanager
async def connected_to_script(
    *, limits: Limits | None = None, **fields: object
) -> AsyncIterator[tuple[hyps.Client, Peer]]:
    """Connect a client to a scripted hub; give the client and the hub's end.

    The hub takes no second connection, and operations do not wait for one.

    :param limits: the client's own
    :param fields: what the hub's WELCOME says
    """
    async with scripted_hub() as hub:
        client = hyps.connect(hub.url, limits=limits, when_disconnected="raise")
        async with anyio.create_task_group() as tasks:
            opening = begin(tasks, client.connect)
            peer = await hub.accept()
            await peer.welcome(**fields)
            await opening.get()
        try:
            yield client, peer
        finally:
            # The hub's end first: then the client need not wait for it.
            await hub.close()
            await client.shutdown()
