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
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from .._errors import AuthenticationFailed, ConnectionLost, ConnectionRefused
from .._logs import Log
from .._net.addresses import name_of
from .._net.backend import here, spawn, waiter_type
from .._net.dialling import dial, make_wire
from .._server.local import dial_memory
from .._version import __version__
from ..protocol import (
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
from .connection import Link, Unheard
from .losses import LossLog
from .routes import Routes
from .status import Connected, Disconnected, Reconnected, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._errors import ErrorFactory
    from .._net.addresses import Address
    from ..protocol import ClientEvent, RemoteProtocolError, ServerEvent
    from .inbox import Inbox
    from .settings import Settings


#: Seconds that a connection must have been open, to count as a success.
_STABLE_TIME: Final = 1.0

#: Channels that a hub restores in a second, at the very least.
_RESTORES_PER_SECOND: Final = 10_000

#: Seconds in which losses are summed up before the log is told.
_LOSSES_TIME: Final = 1.0

#: Reasons why a connection cannot be had again that are told, until there is one.
_MAX_REASONS: Final = 10

#: Seconds that the first wait before connecting again takes at most; each further one takes up to
#: twice as long. A hub that restarts is back in some tenths of a second.
_FIRST_DELAY: Final = 0.1


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
        self._home = here()
        #: Whether the caller runs in the event loop of the connection. Others wake nobody, and
        #: would do things in between.
        self.is_here = self._home.is_here
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
        # Whether its event loop is known to be gone, and whether that has ended the root.
        self._is_abandoned = False
        self._is_interrupted = False
        #: Why nothing new can be begun ever again.
        self.over: ErrorFactory | None = None
        # Why it was lost when it had been open the last time, and of which hub it was.
        self._lost: ErrorFactory | None = None
        self._had = ""
        self._was_open = False
        # Why there is no other one: the last reason, and all that were told.
        self._trouble: str | None = None
        self._told: set[str] = set()
        self._routes = Routes()
        #: Errors of operations that nobody awaits.
        self.unheard = Unheard()
        #: Is told what is missed.
        self.losses = LossLog(self.log, self._remind_of_losses)
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
        """Whether something new can be begun. It may be asked from anywhere."""
        return self.open_link is not None and not self._home.is_gone

    @property
    def trouble(self) -> str | None:
        """Why it is not open, if it ever was."""
        if self.over is not None:
            return str(self.over())
        if self.open_link is not None or self._lost is None:
            return None
        return self._trouble or str(self._lost())

    @property
    def is_over(self) -> bool:
        """Whether it is closing or has ended."""
        return self.over is not None

    @property
    def is_inherited(self) -> bool:
        """Whether it is the parent's, and this process was forked from that."""
        return self._home.is_inherited

    def start(self) -> None:
        """Start to dial, in a task of its own."""
        spawn(self._run, f"hyps client of {self._url}")

    def check_here(self) -> None:
        """Raise if the caller runs elsewhere, before anything changes.

        :raises RuntimeError: with what works there
        :raises HypsError: if the connection has ended, wherever that was
        """
        if not self.is_here():
            if self.over is not None and (self._is_abandoned or self._has_ended_itself):
                raise self.over()
            raise RuntimeError(self._home.advice())

    @property
    def _has_ended_itself(self) -> bool:
        return self._ended.is_set() and not self._is_interrupted

    def abandon_if_gone(self) -> bool:
        """Take it that the event loop is gone, if it is. Then nothing of it is touched any more.

        Nobody who waits is woken, and the tasks stay as they are. The socket is shut down, so that
        the hub notices; but not in a child, where it is the parent's.
        """
        if self.is_here() or not self._home.is_gone:
            return False
        self._is_abandoned = True
        self.open_link = None
        if self.over is None:
            self.over = partial(ConnectionLost, "the event loop of this connection is gone")
        if self.link is not None and not self.is_inherited:
            self.link.cut()
        self.losses.write(self._hub, is_end=True)
        return True

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
                if self._openers == 1 and not self._is_taken and self.is_here():
                    # Nobody else wants it, or has it: not even if it opened in this very moment.
                    self.close_nowait()
                raise
            finally:
                self._openers -= 1
        self._is_taken = True
        return self.open_link

    async def close(self) -> None:
        """Begin to close, and wait until the connection has ended. See :meth:`check_may_close`."""
        if self._ended.is_set() or self._is_abandoned:
            await checkpoint()
        else:
            self.close_nowait()
            await self._ended.wait()

    def check_may_close(self) -> None:
        """Raise if only another place can close it, or leave a subscription."""
        if not self.abandon_if_gone() and not self._ended.is_set():
            self.check_here()

    def close_nowait(self) -> None:
        """Send what is queued, end every iteration, and close, all in bounded time."""
        self._is_closing = True
        try:
            self._routes.end(None)
            self._end(partial(ConnectionLost, "the client was shut down"))
            if self.link is not None and self.link.protocol.state is not State.OPENING:
                self.link.close()
            else:
                self._scope.cancel()
        except Exception:
            self.log.exception("internal error while closing; the connection is cut")
            self._scope.cancel()

    async def _run(self) -> None:
        # The root. Everything that happens to the connection happens below it, and nothing that
        # happens there may come out: there is nobody above.
        try:
            with self._scope:
                while self.over is None:
                    try:
                        await self._try_hosts()
                    except Exception as caught:
                        # Not even the end of the link could be told.
                        self.log.exception("%s: internal error", self._hub)
                        if not self._was_open:
                            self._end(self._loss(f"internal error: {caught!r}"))
                    if self.over is None:
                        await anyio.sleep(self._next_delay())
        finally:
            # Whatever fails here, nobody waits for the end for ever.
            try:
                # Otherwise it is cancelled, and by nobody here.
                self._is_interrupted = self.over is None
                end = partial(ConnectionLost, "the event loop of this connection has ended")
                self._end(end)
                self._settle(end)
                self.losses.write(self._hub, is_end=True)
                self.log.tell_omitted()
            except Exception:
                self.log.exception("internal error")
            finally:
                self._ended.set()
                self._decided.set()

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
        reasons: list[str] = []
        for address in self._settings.addresses:
            self._url = str(address)
            self._why = None
            self._has_opened = self._is_dropped = False
            self._opened_at = math.inf
            try:
                error = await self._run_link(address)
            except Exception as caught:
                # A defect of this client. It costs the link, and no more.
                self.log.exception("%s: internal error", self._hub)
                error = self._loss(f"internal error: {caught!r}")
            self._settle(error)
            if self._has_opened or self.over is not None:
                return
            reasons.append(str((self._why or error)()))
            self.log.debug("%s", reasons[-1])
        self._on_failure("; ".join(reasons))

    async def _run_link(self, address: Address) -> ErrorFactory:
        """Run one link until it has ended, or could not be had.

        :return: why
        """
        patience = anyio.move_on_after(self._settings.limits.hello_timeout)
        broken: BaseException | None = None
        try:
            with patience as self._patience:
                async with dial(
                    address,
                    dial_memory,
                    self._settings.ssl_context,
                    self._settings.server_hostname,
                ) as transport:
                    # For its first frame the protocol object waits as long.
                    patience.deadline = math.inf
                    self.link = Link(transport, partial(self._make_protocol, address), self.unheard)
                    broken = await self.link.run(self._on_event, self._on_violation)
        except ConnectionRefused as error:
            return self._loss(str(error))
        if patience.cancelled_caught:
            return self._loss(f"no hub at {address}: no answer in time")
        if broken is not None:
            why = str(broken) or "it was reset"
            return self._loss(f"the connection to {address} broke: {why}")
        return self._loss(f"the connection to {address} has ended")

    def _settle(self, error: ErrorFactory) -> None:
        """Take it that the link has ended, if there was one."""
        if anyio.current_time() - self._opened_at >= _STABLE_TIME:
            self._failures = 0
        try:
            self._drop(error)
            self._write_losses()
        finally:
            self.link = None

    def _on_failure(self, reason: str) -> None:
        """Tell why the client is not connected again: once for each reason."""
        self._trouble = reason
        if reason not in self._told and len(self._told) < _MAX_REASONS:
            self._told.add(reason)
            self.log.warning("cannot connect again: %s; trying on", reason)
            self._status.post(Disconnected(self._had, reason))

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

    def _remind_of_losses(self) -> None:
        if self.link is not None and self.is_here():
            self.link.remind(self._write_losses, _LOSSES_TIME)

    def _write_losses(self) -> None:
        self.losses.write(self._hub)

    def _loss(self, text: str) -> ErrorFactory:
        """Make the error that the end of the link is, whose kind is known when it is raised."""
        return lambda: (ConnectionLost if self._was_open else ConnectionRefused)(text)

    def _open(self, link: Link) -> None:
        """Let operations be begun on a link, unless it is being lost already."""
        if self._why is not None:
            return
        self.open_link = link
        self._patience.deadline = math.inf
        self._opened_at = anyio.current_time()
        self._had = self._url
        self._trouble = None
        self._told.clear()
        self._reconnect_after = 0.0
        self._write_losses()
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
            self._status.post(Disconnected(self._had, str(self._why())))
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
                self._status.post(Disconnected(self._had, str(error())))
            self._status.end()
        else:
            self._status.home = None

    # Events

    def _on_event(self, event: ClientEvent | ServerEvent) -> None:
        match event:
            case Messages():
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
                self.losses.note(event)
                self._routes.miss(event)
            case Welcome():
                self._on_welcome(event)
            case GoingAway(reason, reconnect_after):
                self._reconnect_after = reconnect_after
                # What it flushes may still come, if there is anything.
                lose = self._lose if self._was_open else self._drop
                lose(self._loss(f"{self._hub} is leaving: {reason}"))
            case PeerError(code, text):
                self._on_peer_error(code, text)
            case Closed():
                self._drop(self._loss(f"{self._hub} closed the connection"))

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
            self._lose(self._loss(f"{self._hub} did not take the subscriptions"))
            self.link.close()
            return
        self._unsubscribe(self._routes.on_refused(operation, refusals))
        if is_restored:
            self._on_restored()

    def _on_peer_error(self, code: str, text: str) -> None:
        error = self._loss(f"{self._hub} refused ({code}): {text}")
        if code in ErrorCode.FINAL:
            if self._was_open:
                # It was right before, so it is the hub that may be wrong for a while.
                self._reconnect_after = math.inf
            else:
                if code == ErrorCode.AUTH:
                    error = partial(AuthenticationFailed, str(error()))
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

    async def join(self, subscription: Inbox, channels: Iterable[str]) -> None:
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

    def leave(self, subscription: Inbox, channels: Iterable[str]) -> int | None:
        """Remove channels from a subscription, without waiting.

        :return: the id of the operation, if there was one
        """
        return self._unsubscribe(self._routes.leave(subscription, channels))

    async def leave_and_wait(self, subscription: Inbox, channels: Iterable[str]) -> None:
        """Remove channels from a subscription, and wait for the answer."""
        link = self.link
        operation = self.leave(subscription, channels)
        if link is None or operation is None:
            await checkpoint()
        else:
            await link.answered(operation)

    def leave_for_good(self, subscription: Inbox) -> None:
        """Remove a subscription and end it, without waiting."""
        self._unsubscribe(self._routes.forget(subscription))
        subscription.end(None)

    def leave_soon(self, subscription: Inbox) -> None:
        """Do the same when the event loop comes to it. Any thread may ask, at any moment."""
        self._home.call(partial(self.leave_for_good, subscription))

    def _unsubscribe(self, channels: list[str]) -> int | None:
        """Tell the hub, if there is one, that channels are not wanted any more."""
        link = self.link
        if not channels or link is None or link.protocol.state is not State.OPEN:
            return None
        if not self.is_here():
            # A coroutine that nobody awaits any more is closed wherever it is found.
            self._home.call(partial(self._unsubscribe, channels))
            return None
        return link.begun(link.protocol.unsubscribe(channels))
