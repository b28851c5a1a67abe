"""One request, as far as its head tells: where it goes to, and where it comes from."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Parameters of a URL that stand for a token elsewhere. URLs end in logs and histories.
_TOKENS: Final = frozenset({"token", "access_token", "auth_token", "authorization", "jwt"})

#: What proxies add: then the peer is not the client.
_FORWARDED: Final = (
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
)

_NO_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Refusal(Exception):
    """The answer to a request that is not done.

    :param status: of HTTP
    :param why: one sentence, for the client
    :param headers: further ones
    """

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.headers: Mapping[str, str] = headers or {}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    :param status: of HTTP
    :param body: its bytes
    :param content_type: of the body
    :param headers: further ones
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Request:
    """The head of a request.

    :param method: such as ``GET``
    :param target: as it stands in the first line
    :param headers: names in lower case
    :param host: address of the peer, empty if it has none
    """

    def __init__(
        self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], host: str
    ) -> None:
        self.method: str = method
        self.host: str = host
        self._headers = headers
        # The authority of a target in absolute form, which goes before the header Host.
        self._authority: bytes | None = None
        if not target.startswith(b"/"):
            _, _, rest = target.partition(b"://")
            self._authority, _, rest = rest.partition(b"/")
            target = b"/" + rest
        path, self.has_query, query = target.partition(b"?")
        #: Still with its escapes.
        self.path: bytes = path
        self.query: list[tuple[str, str]] = []
        self._query = query

    def read_query(self) -> dict[str, str]:
        """Read the parameters.

        :raises Refusal: if one occurs twice, or is a token
        """
        try:
            pairs = parse_qsl(
                self._query.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=32,
            )
        except ValueError:
            raise Refusal(400, "the URL's parameters are malformed") from None
        found = dict(pairs)
        names = re.split(r"[&;]", unquote(self._query.decode("ascii")).lower())
        if not _TOKENS.isdisjoint(name.partition("=")[0] for name in names):
            raise Refusal(400, "a token in a URL: it belongs into the header Authorization")
        if len(found) < len(pairs):
            raise Refusal(400, "a parameter occurs twice")
        return found

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header."""
        return [value for key, value in self._headers if key == name]

    def read_channel(self, start: bytes) -> str:
        """Read the name of a channel behind the start of the path.

        :raises Refusal: if it is no percent-encoded UTF-8
        """
        name = self.path.removeprefix(start)
        if self.has_query:
            raise Refusal(400, "a channel's name with a ? in it must have it as %3F")
        if _NO_ESCAPE.search(name):
            raise Refusal(400, "a channel's name with a % in it must have it as %25")
        try:
            return unquote_to_bytes(name).decode()
        except UnicodeDecodeError:
            raise Refusal(400, "the channel's name is not UTF-8") from None

    def read_token(self) -> str | None:
        """Read the bearer token.

        :raises Refusal: if the header has something else
        """
        found = self.values(b"authorization")
        if not found:
            return None
        scheme, _, token = found[0].partition(b" ")
        if len(found) > 1:
            raise Refusal(400, "there are two headers Authorization")
        try:
            text = token.strip().decode()
        except UnicodeDecodeError:
            text = ""
        if scheme.lower() != b"bearer" or not text:
            raise Refusal(401, "expected the header Authorization: Bearer TOKEN", _CHALLENGE)
        return text

    def read_length(self) -> int | None:
        """Return how long the body says that it is."""
        found = self.values(b"content-length")
        # h11 has checked that these are digits, and that there is one length.
        return int(found[0]) if found else None

    def why_not_local(self) -> str | None:
        """Say why the request may not do without a token, or return None if it may.

        It must come from this machine, and be none that a web page made a browser send: such a page
        can reach loopback, by its address or by a name of its own that leads there.
        """
        if not is_loopback(self.host) or any(map(self.values, _FORWARDED)):
            return "it does not come from this machine"
        hosts = self.values(b"host") if self._authority is None else [self._authority]
        if len(hosts) != 1 or not _is_literal(hosts[0]):
            return "its Host is neither localhost nor an address of this machine"
        sites = self.values(b"sec-fetch-site")
        if self.values(b"origin") or not {b"none", b"same-origin"}.issuperset(sites):
            return "a web page sends it"
        return None


_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


def unauthorized(why: str, *, is_wrong: bool = False) -> Refusal:
    """Ask for a token.

    :param is_wrong: one was there
    """
    error = ' error="invalid_token"' if is_wrong else ""
    return Refusal(401, why, {"WWW-Authenticate": f"Bearer{error}"})


def is_loopback(host: str) -> bool:
    """Tell whether an address is of this machine alone."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_literal(host: bytes) -> bool:
    name = host.decode("latin-1")
    if name.startswith("["):
        name, bracket, port = name[1:].partition("]")
        if not bracket or not re.fullmatch(r"(:\d+)?", port):
            return False
    else:
        name, colon, port = name.partition(":")
        if colon and not re.fullmatch(r"\d+", port):
            return False
    return name.lower() == "localhost" or is_loopback(name)
