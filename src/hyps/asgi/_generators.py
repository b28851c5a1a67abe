"""Streams as async generators, for whatever framework takes one.

The framework pulls; it may stop pulling when the user has left or reads nothing. A generator cannot
tell these apart, and cannot end itself while it is suspended. All that it can do is to leave the
subscription, so that nothing more is buffered for a user who does not read.
"""

from __future__ import annotations

import json
import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from ..protocol import HypsError, InvalidChannel, PermissionDenied
from ._events import PING, Event, retry_line
from ._events import encode as default_encode
from ._feed import CannotBegin, Feed
from ._stream import EventStream, check_options, retry_delay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ._events import Encode
    from ._feed import AnySubscription

#: The browser's delay after a permanent refusal, in milliseconds. ``EventSource`` cannot be told to
#: stay away once it has a status of 200.
_REFUSED_RETRY: Final = 60_000


def sse(
    subscription: AnySubscription,
    *,
    encode: Encode = default_encode,
    ping: float = 15.0,
    retry: int | None = None,
    send_timeout: float = 30.0,
) -> AsyncGenerator[bytes, None]:
    """Stream a subscription as server-sent events, in bytes.

    For frameworks that send what an async generator yields: Litestar, Quart, Django, Starlette's
    ``StreamingResponse``. Send it with the content type ``text/event-stream`` and with
    ``Cache-Control: no-store``::

        return StreamingResponse(
            hyps.asgi.sse(client.subscribe("news", gaps=True)), media_type="text/event-stream"
        )

    Serve it to GET alone: an answer to HEAD has no body, and the framework would wait for the end
    of the stream.

    By now the framework may have sent the status line, so failures are told in the stream. If there
    is no hub, the stream tells the browser to come back in some seconds, and ends. If the hub
    refuses a channel, the stream is one event ``refused``, whose data is JSON with ``error`` and
    ``message``. :class:`hyps.starlette.EventSourceResponse` answers with a status instead.

    :param subscription: not entered; the generator enters and leaves it
    :param encode: makes of each message and gap a ``str``, ``bytes``, an :class:`Event`, an
        iterable of these, or None to leave it out
    :param ping: seconds without an event after which to send a comment
    :param retry: how long the browser waits before it connects again, in milliseconds
    :param send_timeout: seconds that the framework may take for one item. Then the generator leaves
        the subscription, and ends when it goes on.
    :return: an async generator
    :raises InvalidChannel: if a name cannot be a channel's
    :raises ValueError: if a number is out of bounds
    """
    check_options(encode, ping=ping, retry=retry, send_timeout=send_timeout)
    subscription.check_channels()
    return _sse(subscription, encode, ping, retry, send_timeout)


async def _sse(
    subscription: AnySubscription,
    encode: Encode,
    ping: float,
    retry: int | None,
    send_timeout: float,
) -> AsyncGenerator[bytes, None]:
    async with AsyncExitStack() as stack:
        try:
            feed = await stack.enter_async_context(Feed(subscription, send_timeout))
        except CannotBegin:
            yield retry_line(retry_delay(retry))
            return
        except (InvalidChannel, PermissionDenied) as error:
            yield retry_line(_REFUSED_RETRY) + bytes(_refused(error))
            return
        stream = EventStream(feed, encode, ping)
        # At once, because browsers and proxies wait for the first byte.
        chunk: bytes | None = PING if retry is None else retry_line(retry)
        while chunk is not None:
            feed.begin_sending()
            yield chunk
            feed.end_sending()
            chunk = await stream.read_bytes()


def events(
    subscription: AnySubscription,
    *,
    encode: Encode = default_encode,
    send_timeout: float = 30.0,
) -> AsyncGenerator[Event, None]:
    """Stream a subscription as :class:`Event` objects.

    For what makes the bytes itself, and sends its own comments, such as ``fastapi.sse`` and
    sse-starlette. If there is no hub, the stream ends at once. If the hub refuses a channel, the
    stream is one event ``refused``, whose data is JSON with ``error`` and ``message``.

    :param subscription: see :func:`sse`, likewise for the others
    :param encode:
    :param send_timeout:
    :return: an async generator
    :raises InvalidChannel: if a name cannot be a channel's
    :raises ValueError: if the timeout is not positive
    """
    check_options(encode, send_timeout=send_timeout)
    subscription.check_channels()
    return _events(subscription, encode, send_timeout)


async def _events(
    subscription: AnySubscription, encode: Encode, send_timeout: float
) -> AsyncGenerator[Event, None]:
    async with AsyncExitStack() as stack:
        try:
            feed = await stack.enter_async_context(Feed(subscription, send_timeout))
        except CannotBegin:
            return
        except (InvalidChannel, PermissionDenied) as error:
            yield _refused(error)
            return
        stream = EventStream(feed, encode, ping=math.inf)
        while (found := await stream.read()) is not None:
            for event in found:
                feed.begin_sending()
                yield event
                feed.end_sending()


def _refused(error: HypsError) -> Event:
    return Event(json.dumps({"error": type(error).__name__, "message": str(error)}), "refused")
