"""What is answered to which request, and to whom."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import anyio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as AnyCollector

from .._errors import AuthenticationFailed
from .._server.gate import EVERYBODY
from .._server.identity import Credentials
from .._server.posting import check, post
from ..protocol import HypsError, InvalidChannel, MessageTooLarge, PermissionDenied, Unavailable
from ._collector import Collector
from ._requests import Refusal, Reply, Request, unauthorized
from ._sampling import LoopDelay, Rates
from ._tables import Tables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from prometheus_client import Metric

    from .._logs import Log
    from .._server.identity import Grants
    from .._server.server import Server
    from ._connection import Connection

    Handler = Callable[[Request, Connection], Awaitable[Reply]]

_PUBLISH: Final = b"/publish/"

_READ: Final = ("GET", "HEAD")

_NOT_READY: Final = {
    "new": "the hub does not listen yet",
    "draining": "the hub is shutting down",
    "closed": "the hub has shut down",
}

#: Seconds after which to try again what cannot be decided now.
_TRY_AGAIN: Final = {"Retry-After": "1"}

#: Bytes of the header Accept that are looked at.
_MAX_ACCEPT: Final = 1_000

#: The longest name of a client that is passed on to ``authenticate``, in characters.
_MAX_NAME: Final = 200


class _Own(AnyCollector):
    """Figures of the HTTP server itself."""

    def __init__(self, delay: LoopDelay, requests: Counter[tuple[str, int]]) -> None:
        self._delay = delay
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        yield self._delay.metric()
        family = CounterMetricFamily(
            "hyps_http_requests", "Requests that were answered.", labels=("path", "status")
        )
        for (path, status), count in sorted(self._requests.items()):
            family.add_metric((path, str(status)), count)
        yield family


class Site:
    """All pages of one hub.

    :param server: the hub
    :param log: of the HTTP server
    """

    def __init__(self, server: Server, log: Log) -> None:
        self._server = server
        self._log = log
        self.delay: LoopDelay = LoopDelay()
        self.rates: Rates = Rates(server)
        self._tables = Tables(server, self.rates)
        self._turn = anyio.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(Collector(server))
        self._registry.register(_Own(self.delay, self._requests))
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=self._registry)
        self._pages: dict[bytes, tuple[tuple[str, ...], Handler]] = {
            b"/healthz": (_READ, self._answer_health),
            b"/readyz": (_READ, self._answer_ready),
            b"/metrics": (_READ, self._answer_metrics),
            b"/connz": (_READ, self._answer_sessions),
            b"/channelz": (_READ, self._answer_channels),
        }

    async def answer(self, asked: Request | Refusal, connection: Connection) -> Reply:
        """Answer a request, whatever happens."""
        path = "other"
        try:
            if isinstance(asked, Refusal):
                reply = _error(asked)
            else:
                path, methods, handler = self._find(asked)
                reply = await self._handle(asked, connection, methods, handler)
        except Refusal as refusal:
            reply = _error(refusal)
        except Exception:
            # A bug here must not end the other connections, nor the hub.
            self._log.exception("%s: internal error", path)
            reply = _error(Refusal(500, "an internal error, which the hub's log has"))
        self._requests[path, reply.status] += 1
        return reply

    def _find(self, request: Request) -> tuple[str, tuple[str, ...], Handler | None]:
        """Find the name, the methods and the handler of a page."""
        if request.path.startswith(_PUBLISH):
            return "/publish", ("POST",), self._publish
        if request.path in self._pages:
            return request.path.decode(), *self._pages[request.path]
        return "other", (), None

    async def _handle(
        self,
        request: Request,
        connection: Connection,
        methods: tuple[str, ...],
        handler: Handler | None,
    ) -> Reply:
        # First of all: whoever has a token in a URL should learn that it is no secret any more.
        request.read_query()
        if handler is None:
            pages = b", ".join((*self._pages, _PUBLISH)).decode()
            raise Refusal(404, f"there is no such page here; there are {pages}CHANNEL")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Refusal(405, f"the method must be {' or '.join(methods)}", {"Allow": allowed})
        if "POST" not in methods:
            await connection.skip_body()
        return await handler(request, connection)

    # Pages

    async def _answer_health(self, request: Request, connection: Connection) -> Reply:
        return _json({"state": self._server.state})

    async def _answer_ready(self, request: Request, connection: Connection) -> Reply:
        self._check_ready()
        return _json({"state": self._server.state})

    def _check_ready(self) -> None:
        state = self._server.state
        if state != "ready":
            raise Refusal(503, _NOT_READY[state], _TRY_AGAIN)

    async def _answer_metrics(self, request: Request, connection: Connection) -> Reply:
        accept = b",".join(request.values(b"accept"))[:_MAX_ACCEPT].decode("latin-1")
        # Anybody may ask. One after the other, and at most half of the time goes into answering.
        async with self._turn:
            began = time.perf_counter()
            try:
                encode, content_type = choose_encoder(accept)
                body = encode(self._registry)
            except Exception:
                # What the client accepts is malformed: a version that is no number, for one.
                encode, content_type = choose_encoder("")
                body = encode(self._registry)
            await anyio.sleep(time.perf_counter() - began)
        return Reply(200, body, content_type)

    async def _answer_sessions(self, request: Request, connection: Connection) -> Reply:
        await self._check_admin(request, connection)
        return Reply(200, await self._tables.sessions(request.read_query()))

    async def _answer_channels(self, request: Request, connection: Connection) -> Reply:
        await self._check_admin(request, connection)
        return Reply(200, await self._tables.channels(request.read_query()))

    async def _publish(self, request: Request, connection: Connection) -> Reply:
        channel = request.read_channel(_PUBLISH)
        self._check_ready()
        rules = self._server.rules
        grants = await self._find_publisher(request, connection)
        try:
            check(self._server, grants, channel)
            most = self._server.broker.limits.max_message
            if (request.read_length() or 0) > most:
                raise Refusal(413, f"a message may have {most} bytes")
            body = await connection.read_body(most)
            if self._server.rules is not rules or grants.expires_at is not None:
                # They may have changed or expired while the body was on its way.
                grants = await self._find_publisher(request, connection)
            post(self._server, grants, channel, body)
        except PermissionDenied:
            raise Refusal(403, "publishing in this channel is not granted") from None
        except MessageTooLarge as error:
            raise Refusal(413, str(error)) from None
        except InvalidChannel as error:
            raise Refusal(400, str(error)) from None
        except Unavailable as error:
            raise Refusal(503, str(error), _TRY_AGAIN) from None
        except HypsError as error:
            raise Refusal(500, str(error)) from None
        return _json({})

    # Who may do what

    async def _find_publisher(self, request: Request, connection: Connection) -> Grants:
        match self._server.asks_for:
            case "nothing":
                why = request.why_not_local()
                if why is not None:
                    raise Refusal(
                        403, f"the hub has no token, so only this machine may publish here: {why}"
                    )
                return EVERYBODY
            case "certificate":
                raise Refusal(403, "the hub knows clients by certificates, which HTTP has not")
            case _:
                return await self._admit(request, connection, "a token is required")

    async def _check_admin(self, request: Request, connection: Connection) -> None:
        why = request.why_not_local()
        if why is None:
            return
        why = f"only a client with admin may look: the request has no token, and {why}"
        if self._server.asks_for != "token":
            raise Refusal(403, why)
        grants = await self._admit(request, connection, why)
        if not grants.admin:
            raise Refusal(403, "looking at sessions and channels is not granted")

    async def _admit(self, request: Request, connection: Connection, why: str) -> Grants:
        token = request.read_token()
        if token is None:
            raise unauthorized(why)
        names = request.values(b"user-agent")
        credentials = Credentials(
            token=token,
            certificate=None,
            address=request.host,
            client=names[0].decode("latin-1")[:_MAX_NAME] if names else "",
        )
        try:
            # Wrong tokens are answered late. Those who guess are not to keep others away.
            with connection.giving_way():
                return await self._server.admit(credentials)
        except TimeoutError as error:
            raise Refusal(503, str(error), _TRY_AGAIN) from None
        except AuthenticationFailed as error:
            raise unauthorized(str(error), is_wrong=True) from None


def _json(content: dict[str, Any]) -> Reply:
    return Reply(200, json.dumps(content).encode() + b"\n")


def _error(refusal: Refusal) -> Reply:
    body = json.dumps({"error": str(refusal)}).encode() + b"\n"
    return Reply(refusal.status, body, headers=refusal.headers)
