"""The configuration file of ``hyps serve``: TOML, whose faults are told one by one.

Each option of the command has a key here. :func:`load_config` finds all faults, and says where each
is: a hub must not start with half of what its operator meant.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from .. import Grants, Limits
from .._server.clients import digest_of
from .._server.jwt import JWTVerifier, check_algorithms
from ._common import BACKENDS
from ._logging import LOG_FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass
class Config:
    """What a configuration file says.

    :param options: values of options, by their names
    :param limits: bounds, by their names
    :param clients: what each client may do, and the digests of its tokens
    :param jwt: verifies JSON Web Tokens, if there is a table for them
    """

    options: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    clients: list[tuple[Grants, list[bytes]]] = field(default_factory=list)
    jwt: JWTVerifier | None = None


class ConfigFaults(click.ClickException):
    """A configuration file is wrong.

    :param faults: what, and where, a line for each
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

    def show(self, file: IO[Any] | None = None) -> None:
        for fault in self.faults:
            click.echo(f"Error: {fault}", file=file, err=file is None)


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
#: What those options may be that may not be anything.
_CHOICES: Final = {"backend": BACKENDS, "log_format": LOG_FORMATS}
_CLIENT: Final = ("name", "token", "token_file", "token_sha256", "subscribe", "publish", "admin")
_JWT: Final = ("key_file", "algorithms", "audience", "issuer")
_KINDS: Final = {str: "a string", int: "an integer", bool: "true or false", dict: "a table"}


def load_config(path: str) -> Config:
    """Read a configuration file.

    :raises ConfigFaults: if it is wrong, with all that is
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{path}: {error}"]) from None
    except OSError as error:
        raise ConfigFaults([f"{path}: {(error.strerror or str(error)).lower()}"]) from None
    reader = _Reader(path)
    config = reader.read(found)
    if reader.faults:
        raise ConfigFaults(reader.faults)
    return config


class _Reader:
    """Reads the tables of a file, and collects what is wrong."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.faults: list[str] = []
        # Whether clients may have a certificate instead of a token.
        self._has_certificates = False

    def _fault(self, place: str, what: str) -> None:
        self.faults.append(f"{self._path}: {place}: {what}")

    def read(self, found: dict[str, Any]) -> Config:
        config = Config()
        self._has_certificates = "client_ca" in found
        self._check_keys("", found, (*_OPTIONS, "limits", "clients", "jwt"))
        for name, kind in _OPTIONS.items():
            if name in found and self._is(name, found[name], kind):
                config.options[name] = found[name]
                self._check_choice(name, found[name])
        if self._is("limits", limits := found.get("limits", {}), dict):
            config.limits = self._read_limits(limits)
        if self._is("jwt", jwt := found.get("jwt", {}), dict) and "jwt" in found:
            config.jwt = self._read_jwt(jwt)
        clients = found.get("clients", [])
        if not isinstance(clients, list) or not all(isinstance(each, dict) for each in clients):
            self._fault("clients", "expected tables: [[clients]]")
            return config
        if "clients" in found and not clients:
            self._fault("clients", "there are none, so that the hub would let everybody in")
        for number, client in enumerate(clients, 1):
            read = self._read_client(f"clients[{number}]", client)
            if read is not None:
                config.clients.append(read)
        self._check_unique("token", [each for _, some in config.clients for each in some])
        self._check_unique("name", [grants.name for grants, _ in config.clients])
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

    def _check_choice(self, name: str, value: Any) -> None:
        if value not in (choices := _CHOICES.get(name, (value,))):
            self._fault(name, f"{value!r} is none of {', '.join(choices)}")

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
        before = len(self.faults)
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
        if len(self.faults) > before or grants is None:
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
        for token in self._read_texts(f"{place}.token", found.get("token", [])):
            if not token:
                self._fault(f"{place}.token", "a token is empty")
            digests.append(digest_of(token))
        for file in self._read_texts(f"{place}.token_file", found.get("token_file", [])):
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                self._fault(f"{place}.token_file", f"{file}: {error}")
                continue
            if not token:
                self._fault(f"{place}.token_file", f"{file} is empty")
            digests.append(digest_of(token))
        for text in self._read_texts(f"{place}.token_sha256", found.get("token_sha256", [])):
            try:
                digest = bytes.fromhex(text)
            except ValueError:
                digest = b""
            if len(digest) != 32:
                self._fault(f"{place}.token_sha256", f"{text!r} is not 64 hexadecimal digits")
            digests.append(digest)
        if not digests and not self._has_certificates:
            self._fault(place, "no token: give token, token_file, token_sha256, or client_ca above")
        return digests

    def _check_unique(self, what: str, values: Sequence[object]) -> None:
        if len(set(values)) < len(values):
            self._fault("clients", f"two of them have the same {what}")

    def _read_jwt(self, found: dict[str, Any]) -> JWTVerifier | None:
        before = len(self.faults)
        self._check_keys("jwt.", found, _JWT)
        keys = []
        for file in self._read_texts("jwt.key_file", found.get("key_file", [])):
            try:
                keys.append((file, Path(file).read_bytes()))
            except OSError as error:
                self._fault("jwt.key_file", f"{file}: {error}")
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
        if len(self.faults) > before:
            return None
        for file, key in keys:
            try:
                JWTVerifier([key], algorithms)
            except (ValueError, ImportError) as error:
                self._fault("jwt.key_file", f"{file}: {error}")
        if len(self.faults) > before:
            return None
        return JWTVerifier(
            [key for _, key in keys], algorithms, audience=audience or None, issuer=issuer
        )


def read_config(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Config | None:
    """Read the file of ``--config``, before the other options take what it says."""
    if value is None:
        return None
    config = load_config(value)
    # The command line and the environment go before it.
    context.default_map = config.options
    context.meta["hyps.limits"] = config.limits
    return config
