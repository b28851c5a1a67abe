"""JSON Web Tokens: what is let in, what is refused, and why."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from support.helpers import audited, take_data

import hyps
from hyps._server.clients import ClientTable
from hyps._server.jwt import JWTVerifier, check_algorithms

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

SECRET = b"0123456789abcdef0123456789abcdef"


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def private_pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return found


ED = ed25519.Ed25519PrivateKey.generate()
OTHER_ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def encode_part(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def claims(**changes: Any) -> dict[str, Any]:
    found = {
        "sub": "web",
        "exp": time.time() + 60,
        "hyps_subscribe": ["news", "user.*"],
        "hyps_publish": ["news"],
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


def sign(key: Any = ED, algorithm: str = "EdDSA", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm)


def unsigned(**changes: Any) -> str:
    return jwt.encode(claims(**changes), "", "none")


def url_of(server: hyps.Server, scheme: str) -> str:
    return server.urls[0].replace("hyps:", f"{scheme}:")


async def test_a_token_says_what_its_client_may_do(scheme: str) -> None:
    table = ClientTable([], JWTVerifier([pem(ED)], ["EdDSA"]))
    async with (
        hyps.Server(port=0, authenticate=table) as server,
        hyps.connect(url_of(server, scheme), token=sign()) as client,
        client.subscribe("news", "user.7") as subscription,
    ):
        await client.publish("news", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        with pytest.raises(hyps.PermissionDenied):
            await client.publish("user.7", b"")
        with pytest.raises(hyps.PermissionDenied):
            await client.subscribe("orders").__aenter__()


async def test_no_grants_no_access(scheme: str) -> None:
    token = sign(hyps_subscribe=None, hyps_publish=None)
    table = ClientTable([], JWTVerifier([pem(ED)], ["EdDSA"]))
    async with (
        hyps.Server(port=0, authenticate=table) as server,
        hyps.connect(url_of(server, scheme), token=token) as client,
    ):
        with pytest.raises(hyps.PermissionDenied):
            await client.publish("news", b"")


@pytest.mark.parametrize("admin", [True, False, None])
def test_a_token_says_whether_its_client_is_an_admin(admin: bool | None) -> None:
    grants = JWTVerifier([pem(ED)], ["EdDSA"]).verify(sign(hyps_admin=admin))
    assert grants.admin is bool(admin)


#: Made when they are needed: they do not last for long.
REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: unsigned(), "signed"),
    "another key": (lambda: sign(OTHER_ED), "not signed by a key"),
    "a future nbf": (lambda: sign(nbf=time.time() + 600), "not yet valid"),
    "expired": (lambda: sign(exp=time.time() - 1), "expired"),
    "no exp": (lambda: sign(exp=None), "exp"),
    "no sub": (lambda: sign(sub=None), "sub"),
    "sub is no text": (lambda: sign().rsplit(".", 2)[0] + ".e30.AAAA", "signed"),
    "grants that are none": (lambda: sign(hyps_publish=5), "publish"),
    "a pattern that is none": (lambda: sign(hyps_subscribe=["a*b"]), "pattern"),
    "an admin who is none": (lambda: sign(hyps_admin="false"), "hyps_admin must be true or false"),
    "grants as an object": (lambda: sign(hyps_publish={"*": 1}), "publish"),
    "a sub that is empty": (lambda: sign(sub=""), "sub"),
    "a header that quotes no text": (
        lambda: jwt.encode(claims(), ED, "EdDSA", headers={"crit": ["\ud800"]}),
        "valid",
    ),
    "grants in one text": (lambda: sign(hyps_publish="news"), "publish"),
    "an audience that is not ours": (lambda: sign(aud="others"), "audience"),
    "no token at all": (lambda: "a.b.c", "signed|valid"),
    "nonsense": (lambda: "nonsense", "valid"),
    "a header that is nested": (lambda: f"{encode_part(b'[' * 9_000).decode()}.e30.AA", "valid"),
    "an infinite exp": (lambda: sign(exp=math.inf), "valid"),
    "an exp that is no number": (lambda: sign(exp="tomorrow"), "valid|exp"),
    "a sub that is no text": (lambda: sign(sub=5), "valid|sub"),
    "with the public key as a secret": (
        # What libraries of old took: the key that everybody knows, as if it were a secret.
        lambda: sign(SECRET, "HS256"),
        "signed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused_and_why(case: str, caplog: pytest.LogCaptureFixture) -> None:
    make, why = REFUSED[case]
    token = make()
    table = ClientTable([], JWTVerifier([pem(ED), pem(RSA)], ["EdDSA", "RS256"]))
    async with hyps.Server(port=0, authenticate=table) as server:
        with pytest.raises(hyps.AuthenticationFailed, match=why):
            await hyps.connect(server.urls[0], token=token).connect()
        assert not server.broker.sessions
    # The log has it once, and not the token.
    [refused] = audited(caplog, "session refused")
    assert re.search(why, refused["reason"])
    assert token not in caplog.text


async def test_a_token_of_64_kib_cannot_be_sent(scheme: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        hyps.connect(f"{scheme}://127.0.0.1:1", token=sign(filler="x" * 65_536))


@pytest.mark.parametrize(
    ("key", "algorithm", "verifying"),
    [
        (ED, "EdDSA", pem(ED)),
        (RSA, "RS256", pem(RSA)),
        (RSA, "PS512", pem(RSA)),
        (EC, "ES256", pem(EC)),
        (SECRET, "HS256", SECRET + b"\n"),
    ],
)
def test_algorithms(key: Any, algorithm: str, verifying: bytes) -> None:
    verifier = JWTVerifier([verifying], [algorithm])
    grants = verifier.verify(sign(key, algorithm))
    assert (grants.name, grants.subscribe, grants.publish) == (
        "web",
        ("news", "user.*"),
        ("news",),
    )
    assert grants.expires_at is not None


def test_each_key_has_its_own_algorithms() -> None:
    verifier = JWTVerifier([pem(ED), pem(RSA), pem(EC)], ["EdDSA", "RS256", "ES256"])
    for key, algorithm in ((ED, "EdDSA"), (RSA, "RS256"), (EC, "ES256")):
        assert verifier.verify(sign(key, algorithm)).name == "web"
    with pytest.raises(hyps.AuthenticationFailed, match="not signed"):
        # Of the right key, and of an algorithm that is not among those.
        verifier.verify(sign(RSA, "PS256"))


def test_a_header_cannot_choose_the_algorithm() -> None:
    """The public key, which everybody has, as the secret of a symmetric algorithm."""
    parts = [{"alg": "HS256", "typ": "JWT"}, claims()]
    signed = b".".join(encode_part(json.dumps(part).encode()) for part in parts)
    signature = hmac.new(pem(RSA), signed, hashlib.sha256).digest()
    token = (signed + b"." + encode_part(signature)).decode()
    with pytest.raises(hyps.AuthenticationFailed):
        JWTVerifier([pem(RSA)], ["RS256"]).verify(token)


async def test_one_that_lasts_for_ever(scheme: str) -> None:
    table = ClientTable([], JWTVerifier([pem(ED)], ["EdDSA"]))
    async with (
        hyps.Server(port=0, authenticate=table) as server,
        hyps.connect(url_of(server, scheme), token=sign(exp=1e17)) as client,
    ):
        await client.publish("news", b"")


def test_audience_and_issuer() -> None:
    verifier = JWTVerifier([pem(ED)], ["EdDSA"], audience="hyps", issuer="https://id.example")
    assert verifier.verify(sign(aud="hyps", iss="https://id.example")).name == "web"
    for wrong in ({"aud": "hyps"}, {"iss": "https://id.example"}, {"aud": "a", "iss": "b"}):
        with pytest.raises(hyps.AuthenticationFailed):
            verifier.verify(sign(**wrong))


@pytest.mark.parametrize(
    ("key", "algorithms", "why"),
    [
        (pem(RSA), ["EdDSA"], "none of"),
        (private_pem(ED), ["EdDSA"], "private"),
        (b"nonsense", ["EdDSA"], "no public key"),
        (b"short", ["HS256"], "32 are the least"),
        (SECRET, ["HS512"], "64 are the least"),
        (pem(RSA), ["HS256"], "no secret"),
    ],
)
def test_keys_that_do_not_fit(key: bytes, algorithms: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        JWTVerifier([key], algorithms)


@pytest.mark.parametrize(
    ("algorithms", "why"),
    [([], "must be"), (["none"], "none of"), (["HS256", "RS256"], "together"), (["X"], "none of")],
)
def test_algorithms_that_do_not_fit(algorithms: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_algorithms(algorithms)


@pytest.mark.native_wire
async def test_a_token_is_refreshed_in_the_session(scheme: str) -> None:
    issued: list[str] = []

    def token() -> str:
        # PyJWT takes whole seconds.
        issued.append(sign(exp=int(time.time()) + 2))
        return issued[-1]

    table = ClientTable([], JWTVerifier([pem(ED)], ["EdDSA"]))
    async with (
        hyps.Server(port=0, authenticate=table) as server,
        hyps.connect(url_of(server, scheme), token=token) as client,
        client.subscribe("news") as subscription,
    ):
        events = client.events()
        assert isinstance(await anext(events), hyps.Connected)
        while len(issued) < 3:
            await client.publish("news", b"1")
            assert await take_data(subscription, 1) == [b"1"]
        await client.publish("news", b"2")
        assert len(server.broker.sessions) == 1


async def test_a_key_that_is_removed_ends_its_sessions() -> None:
    both = ClientTable([], JWTVerifier([pem(ED), pem(OTHER_ED)], ["EdDSA"]))
    one = ClientTable([], JWTVerifier([pem(ED)], ["EdDSA"]))
    async with (
        hyps.Server(port=0, authenticate=both) as server,
        hyps.connect(server.urls[0], token=sign()) as stays,
        hyps.connect(server.urls[0], token=sign(OTHER_ED)) as goes,
    ):
        events = goes.events()
        await server.set_authentication(authenticate=one)
        while not isinstance(event := await anext(events), hyps.Disconnected):
            pass
        assert "not signed by a key" in event.reason
        await stays.publish("news", b"")
