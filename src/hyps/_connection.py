"""A client's connection: a task of its own that outlives the calls of its users, and every link.

What is known about the connection lives here and not in the :class:`Client`, so that a client
that nobody refers to any more can be noticed. Every change of state is made in one go, without
waiting; users wait only for an answer, for room, or for the connection to open or to end.

A link is lost: its operations are told, the channels' positions are noted. A link is had again:
all channels are subscribed in one batch, and when that is answered the connection is open.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from ._backend import spawn, waiter_type
from ._errors import AuthenticationFailed, ConnectionLost, ConnectionRefused
from ._link import Link, Unheard
from ._logs import Log
from ._losses import LossLog
from ._routes import Routes
from ._status import Connected, Disconnected, Reconnected, Status
from ._transport import dial, make_wire, name_of
from ._version import __version__
from .protocol import (
    Acked,
    ClientProtocol,
    Closed,
    ErrorCode,
    Gap,
    GoingAway,
    HypsError,
    Messages,
    PeerError,
    Refusal,
    Rejected,
    State,
    Welcome,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from ._link import ErrorFactory
    from ._routes import AnySubscription
    from ._transport import Address
    from .protocol import ClientEvent, Limits, RemoteProtocolError, ServerEvent


#: Seconds that a connection must have been open, to count as a success.
_STABLE_TIME: Final = 1.0

#: Channels that a hub restores in a second, at the very least.
_RESTORES_PER_SECOND: Final = 10_000

#: Seconds that the first wait before connecting again takes at most; each further one takes up to
#: twice as long. A hub that restarts is back in some tenths of a second.
_FIRST_DELAY: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a client connects.

    :param addresses: where hubs are, in the order in which they are tried
    :param token: what the hub knows the client by
    :param ssl_context: for TLS
    :param limits: the client's own bounds
    :param waits: whether operations wait for a connection that was lost
    :param reconnect_max_delay: seconds to wait before connecting again, at most
    """

    addresses: tuple[Address, ...]
    token: str | None
    ssl_context: ssl.SSLContext | None
    limits: Limits
    waits: bool
    reconnect_max_delay: float


class Connection:
    """The connection to a hub, from dialling to its end, over one link after the other.

    :param settings: how to connect
    :param status: is told what becomes of it
    """

    def __init__(self, settings: Settings, status: Status) -> None:
        self._settings = settings
        self._status = status
        #: Everything that is logged of this client.
        self.log = Log("hyps.client")
        self._thread = get_ident()
        #: Makes what one task waits for.
        self.new_waiter = waiter_type()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        # Set while it is open, and when it never will be again.
        self._decided = anyio.Event()
        # Calls that wait for it to open, and whether one has seen it open.
        self._openers = 0
        self._is_taken = False
        self._is_closing = False
        #: Why nothing new can be begun ever again.
        self.over: ErrorFactory | None = None
        # Why it was lost when it had been open the last time.
        self._lost: ErrorFactory | None = None
        self._was_open = False
        self._routes = Routes()
        #: Errors of operations that nobody awaits.
        self.unheard = Unheard()
        self._losses = LossLog(self.log)
        #: The link, if there is one.
        self.link: Link | None = None
        #: The same, if operations can be begun on it.
        self.open_link: Link | None = None
        self._url = name_of(settings.addresses)
        # Why nothing new can be begun on the link, whether it was open before, and whether all who
        # waited for it were told.
        self._why: ErrorFactory | None = None
        self._has_opened = False
        self._is_dropped = False
        # The operation that restores the channels on it.
        self._restoring = 0
        self._refusals: list[HypsError] = []
        # Ends a link that does not open in time.
        self._patience = anyio.CancelScope()
        self._opened_at = math.inf
        self._failures = 0
        self._reconnect_after = 0.0

    # Lifetime

    @property
    def is_open(self) -> bool:
        """Whether something new can be begun."""
        return self.open_link is not None

    def check_thread(self) -> None:
        """Raise if this is not the thread of the connection's event loop: nobody would be woken."""
        if get_ident() != self._thread:
            raise RuntimeError(
                "a client is for the event loop in which it was connected; "
                "from a thread: anyio.from_thread.run(client.publish, channel, data)"
            )

    @property
    def is_over(self) -> bool:
        """Whether it is closing or has ended."""
        return self.over is not None

    def start(self) -> None:
        """Start to dial, in a task of its own."""
        spawn(self._run, f"hyps client of {self._url}")

    async def wait_open(self) -> Link:
        """Wait until something can be begun.

        :raises HypsError: if that is not going to happen
        """
        if self.open_link is not None:
            await checkpoint()
        while self.open_link is None:
            if self.over is not None:
                raise self.over()
            self._openers += 1
            try:
                await self._decided.wait()
            except BaseException:
                if self._openers == 1 and not self._is_taken:
                    # Nobody else wants it, or has it: not even if it opened in this very moment.
                    self.close_nowait()
                raise
            finally:
                self._openers -= 1
        self._is_taken = True
        return self.open_link

    async def close(self) -> None:
        """Begin to close, and wait until the connection has ended."""
        self.close_nowait()
        await self._ended.wait()

    def close_nowait(self) -> None:
        """Send what is queued, end every iteration, and close, all in bounded time."""
        self._routes.end(None)
        self._is_closing = True
        self._end(partial(ConnectionLost, "the client was shut down"))
        if self.link is not None and self.link.protocol.state is not State.OPENING:
            self.link.close()
        else:
            self._scope.cancel()

    async def _run(self) -> None:
        # The root. Everything that happens to the connection happens below it, and nothing that
        # happens there may come out: there is nobody above.
        error: ErrorFactory = partial(ConnectionLost, "the client was shut down")
        try:
            with self._scope:
                while self.over is None:
                    await self._try_hosts()
                    if self.over is None:
                        await anyio.sleep(self._next_delay())
            if self._was_open and self.over is not None and not self._is_closing:
                self.log.error("%s; not connecting again", self.over())
        except Exception as caught:
            # A defect of this client. Users see what it means for them.
            error = partial(self._loss, f"internal error: {caught!r}")
        finally:
            self._drop(error)
            self._end(error)
            self._ended.set()

    def _next_delay(self) -> float:
        # Full jitter, so that the clients of a hub do not all come back at once.
        most = self._settings.reconnect_max_delay
        delay = random.uniform(0, min(most, _FIRST_DELAY * 2 ** min(self._failures, 32)))
        # That the hub asks for more is believed up to the user's bound.
        delay = max(delay, min(most, self._reconnect_after))
        self._failures += 1
        self._reconnect_after = 0.0
        return delay

    async def _try_hosts(self) -> None:
        """Dial the hosts in order, and run the first link that opens until it is lost."""
        for address in self._settings.addresses:
            await self._run_link(address)
            if self._has_opened or self.over is not None:
                return
            self.log.debug("%s", self._why and self._why())

    async def _run_link(self, address: Address) -> None:
        """Run one link until it has ended, or could not be had."""
        self._url = str(address)
        self._why = None
        self._has_opened = self._is_dropped = False
        self._opened_at = math.inf
        error = partial(self._loss, f"the connection to {address} has ended")
        patience = anyio.move_on_after(self._settings.limits.hello_timeout)
        try:
            with patience as self._patience:
                async with dial(address, self._settings.ssl_context) as transport:
                    # For its first frame the protocol object waits as long.
                    patience.deadline = math.inf
                    self.link = Link(transport, partial(self._make_protocol, address), self.unheard)
                    broken = await self.link.run(self._on_event, self._on_violation)
                if broken is not None:
                    why = str(broken) or "it was reset"
                    error = partial(self._loss, f"the connection to {address} broke: {why}")
            if patience.cancelled_caught:
                error = partial(self._loss, f"no hub at {address}: no answer in time")
        except HypsError as caught:
            error = partial(type(caught), str(caught))
        finally:
            if anyio.current_time() - self._opened_at >= _STABLE_TIME:
                self._failures = 0
            self._drop(error)
            self._losses.write(self._hub)
            self.link = None

    def _make_protocol(self, address: Address, on_output: Callable[[], None]) -> ClientProtocol:
        return ClientProtocol(
            client=f"hyps-py/{__version__}",
            token=self._settings.token,
            limits=self._settings.limits,
            on_output=on_output,
            wire=make_wire(address, self._settings.limits),
        )

    @property
    def _hub(self) -> str:
        return f"the hub at {self._url}"

    @property
    def _loss(self) -> type[HypsError]:
        return ConnectionLost if self._was_open else ConnectionRefused

    def _open(self, link: Link) -> None:
        """Let operations be begun on a link, unless it is being lost already."""
        if self._why is not None:
            return
        self.open_link = link
        self._patience.deadline = math.inf
        self._opened_at = anyio.current_time()
        self._losses.write(self._hub)
        if self._was_open:
            self.log.info("connected to %s again", self._hub)
        self._status.post(Reconnected(self._url) if self._was_open else Connected(self._url))
        self._was_open = self._has_opened = True
        self._decided.set()

    def _lose(self, error: ErrorFactory) -> None:
        """Begin nothing new on the link. The first reason stays."""
        if self._why is None:
            self._why = error
        if self.link is not None:
            self.link.end(self._why)
        if self.open_link is not None:
            self.open_link = None
            self._lost = self._why
            self._decided = anyio.Event()
            self._status.post(Disconnected(self._url, str(self._why())))
            if self.over is None:
                self.log.warning("%s; connecting again", self._why())

    def _drop(self, error: ErrorFactory) -> None:
        """Tell all who wait for the link that it is lost, or could not be had."""
        self._lose(error)
        if self._is_dropped or self._why is None:
            return
        self._is_dropped = True
        if self.link is not None:
            self.link.drop(self._why)
            self._routes.on_lost(self.link.protocol)
        if not self._was_open:
            self._on_refused(self._why())

    def _on_refused(self, error: HypsError) -> None:
        """Take it that a host could not be had for the first connection; the last one ends it."""
        self._refusals.append(error)
        if len(self._refusals) == len(self._settings.addresses):
            kind = type(error) if len(self._refusals) == 1 else ConnectionRefused
            self._end(partial(kind, "; ".join(map(str, self._refusals))))

    def _end(self, error: ErrorFactory) -> None:
        """Begin nothing new ever again. The first reason stays."""
        if self.over is not None:
            return
        self.over = error
        was_lost = self.open_link is None
        self._lose(error)
        self._decided.set()
        self._routes.end(error)
        if self._was_open:
            if was_lost and not self._is_closing:
                self._status.post(Disconnected(self._url, str(error())))
            self._status.end()

    # Events

    def _on_event(self, event: ClientEvent | ServerEvent) -> None:
        match event:
            case Messages():
                if self._losses:
                    self._losses.write(self._hub)
                unwanted = self._routes.deliver(event.batches)
                if unwanted:
                    self._unsubscribe(unwanted)
            case Acked(operations):
                self._routes.on_answered(operations.stop)
                if self._restoring in operations:
                    self._on_restored()
            case Rejected(operation, refusals):
                self._on_rejected(operation, refusals)
            case Gap():
                self._losses.note(event)
                self._routes.miss(event)
            case Welcome():
                self._on_welcome(event)
            case GoingAway(reason, reconnect_after):
                self._reconnect_after = reconnect_after
                # What it flushes may still come, if there is anything.
                lose = self._lose if self._was_open else self._drop
                lose(partial(self._loss, f"{self._hub} is leaving: {reason}"))
            case PeerError(code, text):
                self._on_peer_error(code, text)
            case Closed():
                self._drop(partial(self._loss, f"{self._hub} closed the connection"))

    def _on_welcome(self, welcome: Welcome) -> None:
        link = self.link
        assert link is not None
        operation = self._routes.restore(link.protocol, welcome)
        self._restoring = link.begun(operation)
        if operation is None:
            self._open(link)
        else:
            seconds = self._settings.limits.hello_timeout + len(self._routes) / _RESTORES_PER_SECOND
            self._patience.deadline = anyio.current_time() + seconds

    def _on_restored(self) -> None:
        assert self.link is not None
        self._open(self.link)

    def _on_rejected(self, operation: int, refusals: tuple[Refusal, ...]) -> None:
        is_restored = operation == self._restoring
        if is_restored and any(refusal.code == b"u" for refusal in refusals):
            # Not now, or not there: the channels are wanted still.
            assert self.link is not None
            self._lose(partial(self._loss, f"{self._hub} did not take the subscriptions"))
            self.link.close()
            return
        self._unsubscribe(self._routes.on_refused(operation, refusals))
        if is_restored:
            self._on_restored()

    def _on_peer_error(self, code: str, text: str) -> None:
        kind = AuthenticationFailed if code == ErrorCode.AUTH else self._loss
        error = partial(kind, f"{self._hub} refused ({code}): {text}")
        if code in ErrorCode.FINAL:
            self._end(error)
        self._drop(error)

    def _on_violation(self, error: RemoteProtocolError) -> None:
        if self._was_open:
            self._drop(partial(ConnectionLost, f"{self._hub}: {error}"))
        elif error.code == ErrorCode.TIMEOUT:
            self._drop(partial(ConnectionRefused, f"{self._hub} does not answer"))
        else:
            self._drop(partial(ConnectionRefused, f"{self._url} does not speak Hyps: {error}"))

    # Operations

    async def ready(self) -> Link:
        """Wait for the connection, and for room in it to publish. Then call ``let_in()``."""
        while True:
            link = await self.get_link()
            if not link.is_full or await link.wait_for_room():
                return link

    async def get_link(self) -> Link:
        """Give the link that operations can be begun on; wait for it as the user wants it."""
        if self.open_link is not None:
            return self.open_link
        self.check_may_wait()
        return await self.wait_open()

    def check_may_wait(self) -> None:
        """Raise why the connection was lost, if that is not to be waited out."""
        if self.over is None and self._lost is not None and not self._settings.waits:
            raise self._lost()

    # Subscriptions

    async def join(self, subscription: AnySubscription, channels: Iterable[str]) -> None:
        """Add channels to a subscription, all or none."""
        link = await self.get_link()
        subscription.check_open()
        joining, operation = self._routes.join(subscription, channels, link.protocol)
        link.begun(operation)
        try:
            await link.expect(joining.operation, is_own=False).wait()
            joining.finish()
        except BaseException:
            self.leave(subscription, joining.give_up())
            raise

    def leave(self, subscription: AnySubscription, channels: Iterable[str]) -> int | None:
        """Remove channels from a subscription, without waiting.

        :return: the id of the operation, if there was one
        """
        return self._unsubscribe(self._routes.leave(subscription, channels))

    async def leave_and_wait(self, subscription: AnySubscription, channels: Iterable[str]) -> None:
        """Remove channels from a subscription, and wait for the answer."""
        link = self.link
        operation = self.leave(subscription, channels)
        if link is None or operation is None:
            await checkpoint()
        else:
            await link.answered(operation)

    def forget(self, subscription: AnySubscription) -> None:
        """Remove a subscription, without waiting."""
        self._unsubscribe(self._routes.forget(subscription))

    def _unsubscribe(self, channels: list[str]) -> int | None:
        """Tell the hub, if there is one, that channels are not wanted any more."""
        link = self.link
        if not channels or link is None or link.protocol.state is not State.OPEN:
            return None
        return link.begun(link.protocol.unsubscribe(channels))
