"""One attempt of a client: a host that it dials, and the connection that comes of it."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import anyio

from .._errors import ConnectionRefused
from .._net.addresses import TCPAddress
from .._net.dialling import dial, make_wire
from .._server.local import dial_memory
from ..protocol import FEATURES, ClientProtocol
from .connection import Connection
from .states import ATTEMPT_TRANSITIONS, AttemptState, AttemptStep
from .tokens import NoToken, ask_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._errors import ErrorFactory
    from .._net.addresses import Address
    from ..protocol import ClientEvent, RemoteProtocolError, ServerEvent
    from .connection import Unheard
    from .settings import Settings


class Attempt:
    """One host, and what is known of the connection to it.

    :param address: the host's
    :param settings: how to connect
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self.url = str(address)
        self.state = AttemptState.OPENING
        #: The connection, from the moment when there are bytes to exchange.
        self.connection: Connection | None = None
        #: Why it stopped.
        self.why: ErrorFactory | None = None
        #: Bounds the time that opening may take.
        self.patience = anyio.CancelScope()
        #: The operation that restores the channels.
        self.restoring = 0
        #: When it opened; infinity if it never did.
        self.opened_at = math.inf

    @property
    def has_opened(self) -> bool:
        """Whether it is open, or was."""
        return self.opened_at < math.inf

    @property
    def hint(self) -> str:
        """What may be wrong if the hub closes the connection before it has said anything."""
        has_no_tls = isinstance(self._address, TCPAddress) and not self._address.tls
        if self.state is AttemptState.OPENING and has_no_tls:
            return " before it said anything; perhaps it uses TLS (hypss://)"
        return ""

    def step(self, step: AttemptStep) -> None:
        """Change the state."""
        self.state = ATTEMPT_TRANSITIONS[self.state, step]

    async def run(
        self,
        on_event: Callable[[ClientEvent | ServerEvent], None],
        on_violation: Callable[[RemoteProtocolError], None],
        unheard: Unheard,
    ) -> str:
        """Dial, and run the connection until it has ended.

        :param on_event: takes each event
        :param on_violation: called once if the hub broke the rules
        :param unheard: takes the errors of operations that nobody awaits
        :return: why it has ended, or could not be had
        """
        address, settings = self._address, self._settings
        patience = anyio.move_on_after(settings.limits.hello_timeout)
        broken: BaseException | None = None
        try:
            with patience as self.patience:
                token = await ask_for(settings.token, settings.limits.hello_timeout / 2)
                async with dial(
                    address, dial_memory, settings.ssl_context, settings.server_hostname
                ) as transport:
                    # From here on the protocol object bounds the wait for the first frame.
                    patience.deadline = math.inf
                    make_protocol = partial(self._make_protocol, token)
                    self.connection = Connection(transport, make_protocol, unheard)
                    broken = await self.connection.run(on_event, on_violation)
        except (ConnectionRefused, NoToken) as error:
            return str(error)
        except ValueError as error:
            # The function's token cannot be sent.
            return f"no session with {address}: {error}"
        if patience.cancelled_caught:
            return f"no hub at {address}: no answer in time"
        if broken is not None:
            return f"the connection to {address} broke: {str(broken) or 'it was reset'}"
        return f"the connection to {address} has ended"

    def _make_protocol(self, token: str | None, on_output: Callable[[], None]) -> ClientProtocol:
        limits = self._settings.limits
        return ClientProtocol(
            client=self._settings.name,
            token=token,
            limits=limits,
            on_output=on_output,
            wire=make_wire(self._address, limits),
            features=FEATURES,
        )
