"""The audit log: who opened a session, who was refused, and how each session ended.

Its logger is ``hyps.audit``. A client is a process and not a user, so the lines of sessions are
few. Nobody needs a token to cause a refusal, so the lines of refusals are bounded as warnings are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._logs import Log

if TYPE_CHECKING:
    from typing import Any

#: Lines are left out above so many sessions that open or end at once, and seconds for each further
#: one: more than there are when all clients of a hub leave it and come back.
_BURST: Final = 20_000
_INTERVAL: Final = 0.001


class Audit:
    """The audit log of one hub.

    :param log: the hub's log, for what is no matter of sessions
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._sessions = Log("hyps.audit", burst=_BURST, interval=_INTERVAL)
        self._refusals = Log("hyps.audit")
        self._was_probed = False

    def opened(self, fields: dict[str, Any]) -> None:
        """Tell that a session opened."""
        self._sessions.info("session opened", **fields)

    def ended(self, fields: dict[str, Any], code: str | None, reason: str) -> None:
        """Tell that a session ended.

        :param code: of the error by which the hub ended it, if it did
        :param reason: why it ended
        """
        write = self._sessions.info if code is None else self._sessions.warning
        write("session ended", **fields, code=code, reason=reason)

    def refused(self, fields: dict[str, Any], code: str, reason: str) -> None:
        """Tell that a client was not let in.

        :param code: of the error that it got; the core and the hub bound the number of them
        :param reason: why, without a word about others
        """
        # Lines are left out for each code by itself: many refusals for one reason do not crowd out
        # the first one for another.
        kind = f"session refused code={code}"
        self._refusals.warning("session refused", kind=kind, **fields, code=code, reason=reason)

    def probed(self, fields: dict[str, Any]) -> None:
        """Tell that there was an HTTP/1 request. Load balancers send one every few seconds."""
        write = self._log.debug if self._was_probed else self._log.info
        self._was_probed = True
        write("an HTTP/1 request at the Hyps port; hyps serve --http serves those", **fields)

    def tell_omitted(self) -> None:
        """Tell how many lines were left out, see :meth:`hyps._logs.Log.tell_omitted`."""
        self._sessions.tell_omitted()
        self._refusals.tell_omitted()
