"""A connection to one node of the engine: it moves bytes until it is lost."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from .._net.backend import waiter_type, wake
from .._net.tls import TLSStream
from .login import EngineInfo, log_in
from .talk import BROKEN, READ_SIZE, reason_of_break, talk_to
from .wire import EngineLost

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from .._net.backend import Waiter
    from .._net.engine import Alarm, Engine
    from ..protocol._fleet.engine import OnReply
    from .addresses import EngineURL, Node
    from .talk import Talk
    from .wire import OnPush

_WRITE_SIZE: Final = 4 * 65_536

_CLOSED: Final = "the hub has closed it"


class EngineConnection:
    """A connection that has logged in. :meth:`open` makes one, :meth:`run` moves its bytes.

    It sends as the hub's sessions do: at the end of each pass of the event loop, on the socket
    and without waiting. A task of its own sends what the socket does not take, and all of TLS.
    """

    def __init__(self, talk: Talk, flusher: Engine, info: EngineInfo) -> None:
        #: What is at the other end.
        self.node = talk.node
        self.info = info
        self._transport = talk.transport
        self._protocol = talk.protocol
        self._flusher = flusher
        self._scope = anyio.CancelScope()
        self._alarm: Alarm | None = None
        self._broken: str | None = None
        # The writer's scope once it has started, and what it waits for when it has nothing to do.
        self._writer: anyio.CancelScope | None = None
        self._parked: Waiter | None = None
        # True before run() and after it, so that nothing is sent then.
        self._is_writing = True

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: EngineURL,
        node: Node,
        on_push: OnPush,
        flusher: Engine,
        *,
        name: str = "hyps",
        channel: str = "hyps",
        ssl_context: ssl.SSLContext | None = None,
    ) -> AsyncIterator[EngineConnection]:
        """Connect to a node, log in, and check that it is a master that will do.

        :param url: who logs in, and the database
        :param node: where to connect to
        :param on_push: takes pushes, as it stands in the bytes between replies; it must not raise
        :param flusher: the engine of the event loop that flushes the hub's sessions too
        :param name: of the connection: CLIENT LIST shows it to operators
        :param channel: the name of a channel that the user must be permitted
        :param ssl_context: for TLS; None trusts whom the system trusts
        :raises EngineUnavailable: if there is none or it will not do, in at most some seconds
        """
        async with talk_to(node, ssl_context) as talk:
            connection = cls(talk, flusher, await log_in(talk, url, name, channel))
            talk.protocol.on_push = on_push
            try:
                yield connection
            finally:
                connection.close()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._protocol.backlog

    def send(self, *command: bytes, on_reply: OnReply) -> None:
        """Queue a command, without waiting.

        :param on_reply: called exactly once, in the order of the commands: with the reply, with an
            :class:`~hyps._fleet.wire.EngineError`, or with :class:`~hyps._fleet.wire.Lost`. If
            there is no room or no connection any more, it is called before this returns. It must
            not raise. Commands that subscribe or unsubscribe are replied None behind their pushes.
        """
        self._protocol.send(command, on_reply)

    def close(self) -> None:
        """End the connection now. All commands without a reply are lost."""
        self._protocol.close(_CLOSED)
        self._scope.cancel()

    async def run(self) -> str:
        """Move bytes until the connection is lost. Call this once.

        :return: why it was lost, in words
        """
        protocol = self._protocol
        stream = self._transport.stream
        try:
            with self._scope:
                self._is_writing = False
                protocol.on_output = self._wake
                if isinstance(stream, TLSStream):
                    stream.on_pending = self._wake
                self._wake()
                await self.tick()
                await self._read()
        finally:
            self._is_writing = True
            if self._writer is not None:
                self._writer.cancel()
            if self._alarm is not None:
                self._flusher.cancel(self._alarm)
            self._protocol.close(self._broken or _CLOSED)
        assert protocol.lost is not None
        return protocol.lost

    async def _read(self) -> None:
        receive_data, receive = self._protocol.receive_data, self._transport.stream.receive
        try:
            while True:
                receive_data(await receive(READ_SIZE))
                self._flusher.flush(self)
        except EngineLost:
            pass
        except anyio.EndOfStream:
            self._break("it closed the connection")
        except BROKEN as error:
            self._break(reason_of_break(error))

    def _break(self, reason: str) -> None:
        """Let :meth:`run` end. It tells whose commands are lost, and not who happens to flush."""
        self._broken = reason
        self._is_writing = True
        self._scope.cancel()

    async def tick(self) -> None:
        """Judge the time; the flusher calls this."""
        self._alarm = None
        try:
            deadline = self._protocol.tick(self._flusher.clock.now())
        except EngineLost:
            self._scope.cancel()
        else:
            self._alarm = self._flusher.watch(self, deadline)

    # Sending

    def _wake(self) -> None:
        self._flusher.note_output(self)

    @property
    def _tls_has_pending(self) -> bool:
        stream = self._transport.stream
        return isinstance(stream, TLSStream) and stream.has_pending

    def flush(self) -> None:
        """Send what the socket takes at once, and leave the rest to the writer."""
        if self._is_writing:
            return
        try:
            if (raw := self._transport.socket) is not None and self._protocol.backlog:
                try:
                    self._protocol.note_sent(raw.send(self._protocol.data_to_send(_WRITE_SIZE)))
                except BlockingIOError:
                    pass
            if self._protocol.backlog or self._tls_has_pending:
                self._leave_to_writer()
        except BROKEN as error:
            self._break(reason_of_break(error))

    def _leave_to_writer(self) -> None:
        self._is_writing = True
        if self._writer is None:
            self._writer = self._flusher.start(self._write)
        elif self._parked is not None:
            wake(self._parked)

    async def _write(self) -> None:
        protocol, send = self._protocol, self._transport.stream.send
        try:
            while True:
                if (data := protocol.data_to_send(_WRITE_SIZE)) or self._tls_has_pending:
                    # From here on nobody knows what has left.
                    protocol.note_sent(len(data))
                    await send(data)
                else:
                    self._is_writing = False
                    self._parked = waiter_type()()
                    await self._parked
        except (*BROKEN, anyio.EndOfStream) as error:
            # TLS may have to read in order to write, and find the end of the stream.
            self._break(reason_of_break(error))
