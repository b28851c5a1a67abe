"""Where ``hyps top`` has its numbers from: the HTTP port of a hub."""

from __future__ import annotations

import http.client
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import click

from .. import InvalidURL
from .._net.addresses import parse_host_and_port
from .._text import one_line

#: Seconds that an answer may take.
_TIMEOUT: Final = 5.0

#: Bytes of an answer, at most: thousands of sessions take some hundred bytes each.
_MAX_ANSWER: Final = 8 * 1024 * 1024

#: Sessions that are shown, at most: more than any terminal has lines.
_MOST: Final = 1_000

#: Characters of what a hub says of an error.
_MAX_REASON: Final = 200

#: What sessions are sorted by.
SORTS: Final = ("rate", "queued", "missed", "channels", "age", "name")


class NoAnswer(Exception):
    """There is no answer now; there may be one later. It says why, in one line."""


class Rates:
    """Rates by name; those that the hub does not tell are 0."""

    def __init__(self, rates: Any) -> None:
        self._rates = rates if isinstance(rates, dict) else {}

    def __getitem__(self, name: str) -> float:
        return _number(self._rates, name)


class Refused(click.ClickException):
    """The hub does not let this program look."""


@dataclass(frozen=True, slots=True)
class Hub:
    """What a hub tells of itself."""

    version: str
    state: str
    uptime: float
    sessions: int
    channels: int
    missed: int
    queued: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Session:
    """What a hub tells of a session. The texts are as the client chose them."""

    session: str
    name: str
    identity: str
    address: str
    wire: str
    state: str
    age: float
    channels: int
    queued: int
    missed: int
    round_trip: float | None
    rates: Rates


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A hub and some of its sessions, in the order that was asked for."""

    hub: Hub
    sessions: tuple[Session, ...]


def parse(body: bytes) -> Snapshot:
    """Read the answer of ``/connz``.

    :raises ValueError: if it is none
    """
    found = json.loads(body)
    match found:
        case {"hub": dict(hub), "sessions": list(sessions)}:
            pass
        case _:
            raise ValueError("no hub or no sessions")
    return Snapshot(
        Hub(
            version=_text(hub, "version"),
            state=_text(hub, "state"),
            uptime=_number(hub, "uptime"),
            sessions=int(_number(hub, "sessions")),
            channels=int(_number(hub, "channels")),
            missed=int(_number(hub, "missed")),
            queued=int(_number(hub, "queued")),
            rates=Rates(hub.get("rates")),
        ),
        tuple([_parse_session(each) for each in sessions[:_MOST] if isinstance(each, dict)]),
    )


def _parse_session(found: dict[str, Any]) -> Session:
    round_trip = found.get("round_trip")
    return Session(
        session=_text(found, "session"),
        name=_text(found, "name"),
        identity=_text(found, "identity"),
        address=_text(found, "address"),
        wire=_text(found, "wire"),
        state=_text(found, "state"),
        age=_number(found, "age"),
        channels=int(_number(found, "channels")),
        queued=int(_number(found, "queued")),
        missed=int(_number(found, "missed")),
        round_trip=None if round_trip is None else _number(found, "round_trip"),
        rates=Rates(found.get("rates")),
    )


def _number(found: dict[str, Any], name: str) -> float:
    value = found.get(name)
    # JSON knows no infinity, but Python's reader does.
    return value if isinstance(value, int | float) and abs(value) < 1e18 else 0


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    return "" if value is None else str(value)


class Source:
    """The HTTP port of a hub.

    :param url: ``http://host:port`` or ``https://host:port``, or what ``hyps serve --http`` takes
    :param token: presented if there is one
    :raises click.ClickException: if the URL is none
    """

    def __init__(self, url: str, token: str | None) -> None:
        if "://" not in url:
            with suppress(InvalidURL):
                url = str(parse_host_and_port(url))
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise click.ClickException(f"not a URL: {one_line(str(error))}") from None
        if "@" in url or parts.query or parts.fragment:
            # Before the URL is shown: this may be a secret.
            raise click.ClickException(
                "the URL has more in it than an address; a token goes into HYPS_TOKEN"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.ClickException(
                f"not the URL of a hub's HTTP port, such as http://127.0.0.1:8788: {one_line(url)}"
            )
        self.url: str = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname
        self._port = port
        self._path = parts.path.rstrip("/")
        self._is_secure = parts.scheme == "https"
        self._headers = {"Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def fetch(self, sort: str, limit: int) -> Snapshot:
        """Ask the hub; this waits, for a bounded time.

        :param sort: one of :data:`SORTS`
        :param limit: how many sessions, at most
        :raises NoAnswer: if there is no answer now
        :raises Refused: if the token is not one that may look
        :raises click.ClickException: if this is no hub
        """
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT)
        query = urlencode({"sort": sort, "limit": limit, "offset": 0})
        try:
            connection.request("GET", f"{self._path}/connz?{query}", headers=self._headers)
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER + 1)
        except TimeoutError:
            raise NoAnswer("no answer in time") from None
        except OSError as error:
            raise NoAnswer((error.strerror or str(error)).lower()) from None
        except (http.client.HTTPException, ValueError) as error:
            raise NoAnswer(f"it does not speak HTTP: {_say(str(error) or repr(error))}") from None
        finally:
            connection.close()
        return self._read(response.status, body)

    def _read(self, status: int, body: bytes) -> Snapshot:
        if status in (401, 403):
            hint = "" if "Authorization" in self._headers else " (--token, or HYPS_TOKEN)"
            raise Refused(f"{self.url} refused{hint}: {_reason(status, body)}")
        if status >= 500:
            raise NoAnswer(_reason(status, body))
        if status != 200:
            raise click.ClickException(
                f"{self.url} is not the HTTP port of a hub: {_reason(status, body)}"
            )
        if len(body) > _MAX_ANSWER:
            raise click.ClickException(f"{self.url} answered with over {_MAX_ANSWER} bytes")
        try:
            return parse(body)
        except (ValueError, RecursionError):
            raise click.ClickException(
                f"{self.url} is not the HTTP port of a hub: it answered with something else"
            ) from None


def _reason(status: int, body: bytes) -> str:
    """What the hub says of an error."""
    try:
        reason = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = None
    known = http.client.responses.get(status, "").lower()
    return _say(reason) if isinstance(reason, str) and reason else f"{status} {known}".strip()


def _say(text: str) -> str:
    return one_line(text, _MAX_REASON)
