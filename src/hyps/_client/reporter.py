"""What the log and those who watch a client are told of its connection, and in which words."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from .._errors import ConnectionLost
from .status import Connected, Disconnected, Reconnected

if TYPE_CHECKING:
    from .._errors import ErrorFactory
    from .._logs import Log
    from .status import Status

#: The log has at most this many different reasons why there is no connection, until there is one.
_MAX_REASONS: Final = 10


class Reporter:
    """Tells each change of a client's connection once, and remembers the last one.

    :param log: the client's
    :param status: passes events to those who watch the client
    :param url: the client's, which stands for a hub until there is one
    """

    def __init__(self, log: Log, status: Status, url: str) -> None:
        self._log = log
        self._status = status
        #: Whether there ever was a connection.
        self.was_open = False
        # The hub of the last connection that opened, and why that connection was lost.
        self._last_url = url
        self._loss: ErrorFactory | None = None
        # Why there is no other connection: the last reason, and all reasons that were told.
        self._failure: str | None = None
        self._told: set[str] = set()

    @property
    def loss(self) -> ErrorFactory | None:
        """Makes the error for those who do not want to wait for a connection.

        None if no connection was lost and no attempt has failed.
        """
        if self._loss is None and self._failure is not None:
            return partial(ConnectionLost, self._failure)
        return self._loss

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, in words, if that is known."""
        if self._failure is not None:
            return self._failure
        return None if self._loss is None else str(self._loss())

    def opened(self, url: str) -> None:
        """Tell that operations can begin at this hub."""
        self._failure = None
        self._told.clear()
        if self.was_open:
            self._log.info("connected to the hub at %s again", url)
            self._status.post(Reconnected(url))
        else:
            self._status.post(Connected(url))
        self._last_url = url
        self.was_open = True

    def lost(self, why: ErrorFactory, *, is_final: bool) -> None:
        """Tell why the connection was lost.

        :param is_final: there will be no other one, which the user knows already
        """
        self._loss = why
        self._status.post(Disconnected(self._last_url, str(why())))
        if not is_final:
            self._log.warning("%s; connecting again", why())

    def failed(self, reason: str) -> None:
        """Tell why there could not be a connection, once for each reason."""
        self._failure = reason
        if reason not in self._told and len(self._told) < _MAX_REASONS:
            self._told.add(reason)
            again = " again" if self.was_open else ""
            self._log.warning(f"cannot connect{again}: %s; trying on", reason)
            self._status.post(Disconnected(self._last_url, reason))

    def ended(self, why: str | None) -> None:
        """Tell that there will be no connection any more.

        :param why: None if that is known
        """
        if not self.was_open:
            # Nobody was told of a connection. There may be one when the client is connected anew.
            self._status.home = None
            return
        if why is not None:
            self._status.post(Disconnected(self._last_url, why))
        self._status.end()
