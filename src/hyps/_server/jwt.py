"""Tokens that say themselves what a client may do: JSON Web Tokens (RFC 7519)."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from .._errors import AuthenticationFailed
from .._text import one_line
from .identity import Grants

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Algorithms whose key is a secret that both sides know, and the bytes that it must have at least
#: (RFC 7518, 3.2).
SYMMETRIC: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
#: Algorithms whose key is public, by the name of the key's class in ``cryptography``.
ASYMMETRIC: Final = {
    "rsa.RSAPublicKey": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "ec.EllipticCurvePublicKey": ("ES256", "ES384", "ES512", "ES256K"),
    "ed25519.Ed25519PublicKey": ("EdDSA",),
    "ed448.Ed448PublicKey": ("EdDSA",),
}

_NEEDS: Final = "JSON Web Tokens need PyJWT: pip install hyps[jwt]"


class JWTVerifier:
    """Verifies tokens, and reads their grants: ``sub``, ``hyps_subscribe`` and others.

    :param keys: the contents of the key files: public keys in PEM form, or secrets
    :param algorithms: names of algorithms, all symmetric or all asymmetric
    :param audience: what ``aud`` must be; None asks for none, and refuses tokens that have one
    :param issuer: what ``iss`` must be, if it must be something
    :raises ValueError: if keys and algorithms do not fit together
    :raises ImportError: without the extra ``jwt``
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        algorithms: Sequence[str],
        *,
        audience: str | Sequence[str] | None = None,
        issuer: str | None = None,
    ) -> None:
        try:
            import jwt
        except ImportError:
            raise ImportError(_NEEDS) from None
        self._jwt = jwt
        self._audience = audience
        self._issuer = issuer
        # Each key with the algorithms that are its own: no token chooses by its header what a key
        # is taken for.
        self._keys: list[tuple[Any, list[str]]] = [_read(key, algorithms) for key in keys]

    def verify(self, token: str) -> Grants:
        """Return what a token grants.

        :raises AuthenticationFailed: if it is not valid, with the reason
        """
        jwt = self._jwt
        for key, algorithms in self._keys:
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=algorithms,
                    audience=self._audience,
                    issuer=self._issuer,
                    options={"require": ["exp", "sub"]},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidAlgorithmError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                # PyJWT lets some of them out: for a header that is nested a thousand times, or a
                # time that is infinite.
                raise AuthenticationFailed(_why(error)) from None
            return _read_grants(claims)
        raise AuthenticationFailed("the token is not signed by a key of this hub")


def _why(error: Exception) -> str:
    # PyJWT quotes parts of the header, which anybody can write.
    return f"the token is not valid: {one_line(str(error), 200).lower()}"


def _read_grants(claims: dict[str, Any]) -> Grants:
    admin = claims.get("hyps_admin", False)
    if not isinstance(admin, bool):
        # To Python the text "false" would be true.
        raise AuthenticationFailed("the token is not valid: hyps_admin must be true or false")
    try:
        return Grants(
            name=_text(claims["sub"]),
            subscribe=_patterns(claims.get("hyps_subscribe", [])),
            publish=_patterns(claims.get("hyps_publish", [])),
            admin=admin,
            expires_at=float(claims["exp"]),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise AuthenticationFailed(f"the token is not valid: {str(error)[:200]}") from None


def _text(value: Any) -> str:
    if not value or not isinstance(value, str):
        raise ValueError("sub must be a name")
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("hyps_subscribe and hyps_publish must be lists of patterns")
    return tuple(value)


def _read(key: bytes, algorithms: Sequence[str]) -> tuple[Any, list[str]]:
    """Read a key, and choose the algorithms that are for it."""
    if set(algorithms) <= SYMMETRIC.keys():
        secret = key.strip()
        if b"-----BEGIN" in secret:
            raise ValueError("this is a key in PEM form, and no secret")
        longest = max(SYMMETRIC[name] for name in algorithms)
        if len(secret) < longest:
            raise ValueError(f"a secret of {len(secret)} bytes; {longest} are the least")
        return secret, list(algorithms)
    from cryptography.hazmat.primitives import asymmetric
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa  # noqa: F401
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in key:
        raise ValueError("this is a private key: the hub needs the public one")
    try:
        public = load_pem_public_key(key)
    except ValueError:
        raise ValueError("this is no public key in PEM form") from None
    fitting = [
        name
        for kind, names in ASYMMETRIC.items()
        if isinstance(public, attrgetter(kind)(asymmetric))
        for name in names
        if name in algorithms
    ]
    if not fitting:
        raise ValueError(f"the key is for none of {', '.join(algorithms)}")
    return public, fitting


def check_algorithms(algorithms: Sequence[str]) -> None:
    """Check the names of algorithms.

    :raises ValueError: if there are none, one is unknown, or they are of both kinds
    """
    asymmetric = {name for names in ASYMMETRIC.values() for name in names}
    if not algorithms:
        raise ValueError("there must be algorithms, such as EdDSA")
    for name in algorithms:
        if name not in asymmetric and name not in SYMMETRIC:
            known = ", ".join([*SYMMETRIC, *sorted(asymmetric)])
            raise ValueError(f"{name!r} is none of {known}")
    if not (set(algorithms) <= asymmetric or set(algorithms) <= SYMMETRIC.keys()):
        # Else a public key could be taken for the secret of a symmetric algorithm.
        raise ValueError("symmetric and asymmetric algorithms must not stand together")
