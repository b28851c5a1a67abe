"""The configuration file of ``hyps serve``: TOML, whose faults are told one by one.

Each option of the command has a key here. :func:`load_config` finds all faults, and where each is:
a hub must not start with half of what its operator meant. Paths are relative to the file's folder,
so that it means the same wherever the hub is started.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .. import Grants, Limits
from .._server.clients import digest_of
from .._server.jwt import JWTVerifier, check_algorithms
from ._faults import ConfigFaults

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Config:
    """What a configuration file says.

    :param path: the file's
    :param faults: the place of each, and what is wrong there
    :param options: values of options, by their names
    :param limits: bounds, by their names
    :param clients: what each client may do, and the digests of its tokens
    :param jwt: verifies JSON Web Tokens, if there is a table for them
    """

    path: str
    faults: list[tuple[str, str]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    clients: list[tuple[Grants, list[bytes]]] = field(default_factory=list)
    jwt: JWTVerifier | None = None


#: The types of the keys that are options. Others are tables.
_OPTIONS: Final[dict[str, type]] = {
    "host": str,
    "port": int,
    "http": str,
    "uds": str,
    "uds_mode": str,
    "token": str,
    "cert": str,
    "key": str,
    "client_ca": str,
    "backend": str,
    "verbose": bool,
    "log_format": str,
}
#: Options that are paths.
_PATHS: Final = ("uds", "cert", "key", "client_ca")
_CLIENT: Final = ("name", "token", "token_file", "token_sha256", "subscribe", "publish", "admin")
_JWT: Final = ("key_file", "algorithms", "audience", "issuer")
_KINDS: Final = {str: "a string", int: "an integer", bool: "true or false", dict: "a table"}


def load_config(path: str, context: click.Context) -> Config:
    """Read a configuration file, and find its faults.

    :param context: of the command whose options it has
    :raises ConfigFaults: if it cannot be read as TOML
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{path}: {error}"]) from None
    except OSError as error:
        raise ConfigFaults([f"{path}: {_why(error)}"]) from None
    return _Reader(path, context).read(found)


class _Reader:
    """Reads the tables of a file, and collects what is wrong."""

    def __init__(self, path: str, context: click.Context) -> None:
        self._path = path
        self._folder = Path(path).parent
        self._context = context
        self._faults: list[tuple[str, str]] = []
        # Whether clients may have a certificate instead of a token.
        self._has_certificates = False

    def _fault(self, place: str, what: str) -> None:
        self._faults.append((place, what))

    def read(self, found: dict[str, Any]) -> Config:
        config = Config(self._path, self._faults)
        self._has_certificates = "client_ca" in found
        self._check_keys("", found, (*_OPTIONS, "limits", "clients", "jwt"))
        for name, kind in _OPTIONS.items():
            if name in found and self._is(name, found[name], kind):
                self._read_option(name, found[name], config.options)
        if self._is("limits", limits := found.get("limits", {}), dict):
            config.limits = self._read_limits(limits)
        if self._is("jwt", jwt := found.get("jwt", {}), dict) and "jwt" in found:
            config.jwt = self._read_jwt(jwt)
        clients = found.get("clients", [])
        if not isinstance(clients, list) or not all(isinstance(each, dict) for each in clients):
            self._fault("clients", "expected tables: [[clients]]")
            return config
        tokens: list[tuple[str, object]] = []
        names: list[tuple[str, object]] = []
        if "clients" in found and not clients:
            self._fault("clients", "there are none, so that the hub would let everybody in")
        for number, client in enumerate(clients, 1):
            place = f"clients[{number}]"
            read = self._read_client(place, client)
            if read is not None:
                config.clients.append(read)
                names.append((place, read[0].name))
                tokens += [(place, digest) for digest in read[1]]
        self._check_unique("token", tokens)
        self._check_unique("name", names)
        if "token" in config.options and (config.clients or "jwt" in found):
            self._fault("token", "it stands beside [[clients]] or [jwt], which say who has one")
        return config

    def _check_keys(self, place: str, found: dict[str, Any], known: Iterable[str]) -> None:
        known = list(known)
        for key in found:
            if key not in known:
                like = difflib.get_close_matches(key, known, 1)
                hint = f"perhaps {like[0]} is meant" if like else f"there are {', '.join(known)}"
                self._fault(f"{place}{key}", f"an unknown key; {hint}")

    def _read_option(self, name: str, value: Any, options: dict[str, Any]) -> None:
        """Read what is an option too, and let that say whether it can be."""
        if name in _PATHS and value:
            value = self._resolve(value)
        for parameter in self._context.command.params:
            if parameter.name == name:
                try:
                    parameter.process_value(self._context, value)
                except click.ClickException as error:
                    what = error.message.rstrip(".")
                    self._fault(name, what[:1].lower() + what[1:])
                else:
                    options[name] = value

    def _resolve(self, file: str) -> str:
        return str(self._folder / file)

    def _is(self, place: str, value: object, kind: type) -> bool:
        # To Python true and false are integers too.
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_kind:
            self._fault(place, f"expected {_KINDS[kind]}, not {value!r}")
        return is_kind

    def _read_limits(self, found: dict[str, Any]) -> dict[str, float]:
        self._check_keys("limits.", found, [each.name for each in fields(Limits)])
        limits: dict[str, float] = {}
        for each in fields(Limits):
            if each.name in found:
                try:
                    Limits(**{each.name: found[each.name]})
                except (TypeError, ValueError) as error:
                    self._fault(f"limits.{each.name}", str(error))
                else:
                    limits[each.name] = found[each.name]
        return limits

    def _read_client(self, place: str, found: dict[str, Any]) -> tuple[Grants, list[bytes]] | None:
        before = len(self._faults)
        self._check_keys(f"{place}.", found, _CLIENT)
        name = found.get("name", "")
        if not isinstance(name, str) or not name:
            self._fault(f"{place}.name", "expected the client's name, a string")
        admin = found.get("admin", False)
        self._is(f"{place}.admin", admin, bool)
        grants = None
        try:
            patterns = {
                verb: tuple(self._read_texts(f"{place}.{verb}", found.get(verb, [])))
                for verb in ("subscribe", "publish")
            }
            grants = Grants(
                name=str(name),
                subscribe=patterns["subscribe"],
                publish=patterns["publish"],
                admin=admin is True,
            )
        except (TypeError, ValueError) as error:
            self._fault(place, str(error))
        digests = self._read_tokens(place, found)
        if len(self._faults) > before or grants is None:
            return None
        return grants, digests

    def _read_texts(self, place: str, value: object) -> list[str]:
        """Read a string, or a list of strings."""
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            self._fault(place, f"expected a list of strings, not {value!r}")
            return []
        return values

    def _read_tokens(self, place: str, found: dict[str, Any]) -> list[bytes]:
        digests = []
        before = len(self._faults)
        for token in self._read_texts(f"{place}.token", found.get("token", [])):
            if not token:
                self._fault(f"{place}.token", "a token is empty")
            digests.append(digest_of(token))
        for file in self._read_texts(f"{place}.token_file", found.get("token_file", [])):
            file = self._resolve(file)
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                self._fault(f"{place}.token_file", f"{file}: {_why(error)}")
                continue
            if not token:
                self._fault(f"{place}.token_file", f"{file} is empty")
            elif len(token.split()) > 1:
                # No client would guess that the second line is a part of its token.
                self._fault(f"{place}.token_file", f"{file} has more than one token")
            digests.append(digest_of(token))
        for text in self._read_texts(f"{place}.token_sha256", found.get("token_sha256", [])):
            try:
                digest = bytes.fromhex(text)
            except ValueError:
                digest = b""
            if len(digest) != 32:
                self._fault(f"{place}.token_sha256", f"{text!r} is not 64 hexadecimal digits")
            digests.append(digest)
        if not digests and not self._has_certificates and len(self._faults) == before:
            self._fault(place, "no token: give token, token_file, token_sha256, or client_ca above")
        return digests

    def _check_unique(self, what: str, values: list[tuple[str, object]]) -> None:
        """Check that clients differ: the place of each, and its value."""
        first: dict[object, str] = {}
        for place, value in values:
            other = first.setdefault(value, place)
            if other != place:
                self._fault(place, f"the same {what} as {other}")
        for place in dict.fromkeys(place for place, _ in values):
            own = [value for where, value in values if where == place]
            if len(set(own)) < len(own):
                self._fault(place, f"the same {what} twice")

    def _read_jwt(self, found: dict[str, Any]) -> JWTVerifier | None:
        before = len(self._faults)
        self._check_keys("jwt.", found, _JWT)
        keys = []
        for file in self._read_texts("jwt.key_file", found.get("key_file", [])):
            file = self._resolve(file)
            try:
                keys.append((file, Path(file).read_bytes()))
            except OSError as error:
                self._fault("jwt.key_file", f"{file}: {_why(error)}")
        if not found.get("key_file"):
            self._fault("jwt.key_file", "expected the files of the keys that sign the tokens")
        algorithms = self._read_texts("jwt.algorithms", found.get("algorithms", []))
        try:
            check_algorithms(algorithms)
        except ValueError as error:
            self._fault("jwt.algorithms", str(error))
        audience = self._read_texts("jwt.audience", found.get("audience", []))
        issuer = found.get("issuer")
        if issuer is not None:
            self._is("jwt.issuer", issuer, str)
        if len(self._faults) > before:
            return None
        for file, key in keys:
            try:
                JWTVerifier([key], algorithms)
            except (ValueError, ImportError) as error:
                self._fault("jwt.key_file", f"{file}: {error}")
        if len(self._faults) > before:
            return None
        return JWTVerifier(
            [key for _, key in keys], algorithms, audience=audience or None, issuer=issuer
        )


def _why(error: OSError | UnicodeDecodeError) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error)).lower()


def read_config(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Config | None:
    """Read the file of ``--config``, before the other options take what it says."""
    if value is None:
        return None
    # Its faults are told when those of the options beside it are known too.
    config = load_config(value, context)
    # The command line and the environment go before it.
    context.default_map = config.options
    context.meta["hyps.limits"] = config.limits
    return config
