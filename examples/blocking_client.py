"""A client of Hyps in plain blocking Python, written from docs/wire.md alone.

    python examples/blocking_client.py sub news weather
    python examples/blocking_client.py pub news "it rains"

It connects to HYPS_HOST and HYPS_PORT (127.0.0.1:8787), with HYPS_TOKEN if that is set.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFACE = b"HYPS/1\r\n"
HELLO, WELCOME, PUBLISH, PUBLISH_ACK, SUBSCRIBE, SUBSCRIBE_ACK = range(0x01, 0x07)
MESSAGES, GAP, PING, PONG, GOAWAY, ERROR = range(0x09, 0x0F)
FIRST_IGNORABLE = 0x80
CODES = {"d": "denied", "s": "message too large", "n": "bad channel name", "u": "unavailable"}


class HubError(Exception):
    """The hub refused something, left, or is no hub."""


def pack_record(channel: str, message: bytes) -> bytes:
    name = channel.encode()
    if not name or b"\n" in name:
        raise ValueError(f"not a channel: {channel!r}")
    return struct.pack(">I", len(name) + len(message) + 2) + name + b"\n" + message + b"\n"


def unpack_records(body: bytes) -> Iterator[tuple[str, bytes]]:
    position = 0
    while position < len(body):
        (length,) = struct.unpack_from(">I", body, position)
        record = body[position + 4 : position + 4 + length]
        name, _, rest = record.partition(b"\n")
        yield name.decode(), rest[:-1]
        position += 4 + length


class Client:
    """One connection. It does one thing at a time: subscribe, publish, or read messages."""

    def __init__(self, host: str, port: int, token: str | None = None) -> None:
        self._socket = socket.create_connection((host, port), timeout=10)
        self._file = self._socket.makefile("rb")
        self._max_frame = 16_384
        #: Messages that arrived while the client waited for an answer.
        self._unread: list[tuple[str, bytes]] = []
        #: For each channel its generation, and how many messages it has had.
        self._positions: dict[str, tuple[str, int]] = {}
        self.missed = 0
        self.missed_unknown = False
        hello = {"client": "blocking-example/1.0"}
        if token is not None:
            hello["token"] = token
        self._socket.sendall(PREFACE)
        self._send(HELLO, json.dumps(hello).encode())
        kind, body = self._receive()
        if kind != WELCOME:
            raise HubError(f"a frame of kind {kind:#x} instead of WELCOME")
        welcome = json.loads(body)
        self._max_frame = welcome["max_frame"]
        # The hub sends PING after this time, so a longer silence means that it is gone.
        self._socket.settimeout(2 * welcome["heartbeat"] + 10)

    def subscribe(self, *channels: str) -> None:
        """Hold channels from now on."""
        self._send(SUBSCRIBE, b"".join([pack_record(channel, b"") for channel in channels]))
        left = len(channels)
        while left:
            for channel, answer in unpack_records(self._wait_for(SUBSCRIBE_ACK)):
                code, position = chr(answer[0]), answer[1:].decode()
                if code != "k":
                    raise HubError(f"{channel}: {CODES.get(code, code)}")
                self._compare(channel, position, is_new=True)
                left -= 1

    def publish(self, channel: str, message: bytes) -> None:
        """Publish one message; returns when the hub has taken it."""
        self._send(PUBLISH, pack_record(channel, message))
        code = chr(self._wait_for(PUBLISH_ACK)[0])
        if code != "k":
            raise HubError(f"{channel}: {CODES.get(code, code)}")

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over messages until the hub ends the connection."""
        while True:
            while self._unread:
                yield self._unread.pop(0)
            kind, body = self._receive()
            if kind == MESSAGES:
                self._take_messages(body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with self._socket, self._file:
            if error is None:
                # Say goodbye: half-close, and read on until the hub closes too.
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.settimeout(5)
                while self._file.read(65_536):
                    pass

    def _compare(self, channel: str, position: str, *, is_new: bool = False) -> None:
        generation, _, count = position.partition(":")
        before = self._positions.get(channel)
        if before is not None and before != (generation, int(count)):
            known, had = before
            if generation == known and int(count) > had:
                self.missed += int(count) - had
            else:
                self.missed_unknown = True
        if before is not None or is_new:
            self._positions[channel] = generation, int(count)

    def _take_messages(self, body: bytes) -> None:
        for channel, message in unpack_records(body):
            generation, count = self._positions[channel]
            self._positions[channel] = generation, count + 1
            self._unread.append((channel, message))

    def _wait_for(self, answer: int) -> bytes:
        while True:
            kind, body = self._receive()
            if kind == answer:
                return body
            if kind == MESSAGES:
                self._take_messages(body)

    def _send(self, kind: int, body: bytes) -> None:
        if len(body) + 1 > self._max_frame:
            raise ValueError("too much for one frame")
        self._socket.sendall(struct.pack(">IB", len(body) + 1, kind) + body)

    def _receive(self) -> tuple[int, bytes]:
        """Return the next frame that is of interest; the others are dealt with here."""
        while True:
            kind, body = self._receive_frame()
            if kind == PING:
                self._send(PONG, body)
            elif kind == GAP:
                for channel, position in unpack_records(body):
                    self._compare(channel, position.decode())
            elif kind == GOAWAY:
                raise HubError(f"the hub is leaving: {json.loads(body)['reason']}")
            elif kind == ERROR:
                error = json.loads(body)
                raise HubError(f"{error['code']}: {error['message']}")
            elif kind < FIRST_IGNORABLE:
                return kind, body

    def _receive_frame(self) -> tuple[int, bytes]:
        head = self._file.read(5)
        if len(head) < 5:
            raise HubError("the connection has ended")
        length, kind = struct.unpack(">IB", head)
        if not 1 <= length <= self._max_frame:
            raise HubError(f"a frame of {length} bytes")
        body = self._file.read(length - 1)
        if len(body) < length - 1:
            raise HubError("the connection has ended within a frame")
        return kind, body


def main() -> None:
    match sys.argv[1:]:
        case ["pub", channel, message]:
            with connect() as client:
                client.publish(channel, message.encode())
        case ["sub", *channels] if channels:
            with connect() as client:
                client.subscribe(*channels)
                print("subscribed", *channels, file=sys.stderr, flush=True)
                for channel, data in client.messages():
                    print(channel, data.decode(errors="replace"), flush=True)
        case _:
            sys.exit(__doc__)


def connect() -> Client:
    host, port = os.environ.get("HYPS_HOST", "127.0.0.1"), int(os.environ.get("HYPS_PORT", "8787"))
    return Client(host, port, os.environ.get("HYPS_TOKEN"))


if __name__ == "__main__":
    try:
        main()
    except (HubError, OSError) as error:
        sys.exit(f"blocking_client: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
