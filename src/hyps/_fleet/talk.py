"""Commands and replies in steps: how a connection begins, and how nodes and Sentinels are asked."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from .._errors import ConnectionRefused
from .._net.dialling import dial_socket
from .._net.sockets import reason_of
from .._text import one_line
from ..protocol import HypsError
from .wire import EngineLost, EngineProtocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from .._net.sockets import Transport
    from ..protocol._fleet.engine import EngineError, Reply
    from .addresses import Node

#: Seconds that each step may take: connecting with TLS, and each time that something is asked.
STEP_TIME: Final = 2.0

#: What is read at once is handed out at once, while others wait: it is some 600 small messages.
READ_SIZE: Final = 65_536

#: The bound of a reason, in characters.
_MAX_REASON: Final = 300

#: What a stream raises when the connection is gone.
BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class EngineUnavailable(HypsError):
    """An engine cannot be used; the text says which one and why, without a secret."""


def reason_of_break(error: BaseException) -> str:
    """Say why a connection broke, in the system's words."""
    cause = error.__cause__ or error
    return reason_of(cause) if isinstance(cause, OSError) else "the connection broke"


def _ignore(_: object = None) -> None:
    pass


class Talk:
    """A connection of which one task waits for each reply.

    :param transport: the connection
    :param node: what is at its other end
    """

    def __init__(self, transport: Transport, node: Node) -> None:
        self.transport = transport
        self.node = node
        self.protocol = EngineProtocol(_ignore, _ignore)

    async def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Send commands together, and wait for the replies.

        :raises EngineUnavailable: if they do not all come in time
        """
        replies: list[Reply] = []
        protocol, stream = self.protocol, self.transport.stream
        with anyio.move_on_after(STEP_TIME) as scope:
            try:
                for command in commands:
                    protocol.send(command, replies.append)
                data = protocol.data_to_send(protocol.backlog)
                protocol.note_sent(len(data))
                await stream.send(data)
                while len(replies) < len(commands):
                    protocol.receive_data(await stream.receive(READ_SIZE))
            except anyio.EndOfStream:
                raise self.failure("it closed the connection") from None
            except EngineLost as error:
                raise self.failure(str(error)) from None
            except BROKEN as error:
                raise self.failure(reason_of_break(error)) from error
        if scope.cancelled_caught:
            raise self.failure(f"it did not answer for {STEP_TIME:g} seconds")
        return replies

    def failure(self, why: str) -> EngineUnavailable:
        """Make the error that says why the engine cannot be used."""
        # Most of it may be what the other end has sent.
        return EngineUnavailable(f"no engine at {self.node}: {one_line(why, _MAX_REASON)}")


@asynccontextmanager
async def talk_to(node: Node, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Talk]:
    """Connect to a node, or to a Sentinel.

    :param ssl_context: for TLS; None trusts whom the system trusts
    :raises EngineUnavailable: if nobody is there
    """
    async with AsyncExitStack() as stack:
        talk: Talk | None = None
        try:
            with anyio.move_on_after(STEP_TIME):
                dialled = dial_socket(node, ssl_context, peer="engine")
                talk = Talk(await stack.enter_async_context(dialled), node)
        except ConnectionRefused as error:
            raise EngineUnavailable(str(error)) from error
        if talk is None:
            # An engine that does not speak TLS waits for the end of a line.
            hint = "; perhaps there is no TLS there" if node.scheme == "rediss" else ""
            raise EngineUnavailable(
                f"no engine at {node}: nobody has answered for {STEP_TIME:g} seconds{hint}"
            )
        try:
            yield talk
        finally:
            with anyio.move_on_after(STEP_TIME, shield=True):
                await anyio.aclose_forcefully(talk.transport.stream)


def explain(error: EngineError) -> str | None:
    """Say what errors mean that any command may be answered; None if it is another one."""
    match error.code:
        case "NOPERM":
            # Before these words stands the user, in some versions.
            at = max(0, error.text.lower().rfind("no permissions"))
            return f"the user lacks a permission: {error.text[at:]}"
        case "NOAUTH":
            return "it wants a password"
        case "WRONGPASS":
            return "the password is wrong, or the user"
        case "LOADING" | "BUSY" | "MASTERDOWN":
            return f"it is not ready: {error.text}"
        case "DENIED":
            return "it is in protected mode, which lets in only its own machine"
    return None
