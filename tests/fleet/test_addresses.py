"""URLs of engines: what they mean, and what is never shown of them."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest

import hyps
from hyps._fleet.addresses import Kind, parse_engine

if TYPE_CHECKING:
    from pathlib import Path

#: URLs, and what they are shown as.
GOOD_URLS = {
    "redis://host": "redis://host:6379",
    "REDIS://HOST/": "redis://host:6379",
    "redis://host:1/3": "redis://host:1/3",
    "redis://host/0": "redis://host:6379",
    "redis://[::1]:7": "redis://[::1]:7",
    "redis://[fe80::1%25eth0]": "redis://[fe80::1%25eth0]:6379",
    "redis://:s3cr3t@host": "redis://host:6379",
    "redis://user:s3cr3t@host": "redis://user@host:6379",
    "redis://us%40er:s3%40cr3t%2F@host": "redis://us%40er@host:6379",
    "redis://user:s3cr3t:s3cr3t@host": "redis://user@host:6379",
    "redis://user:@host": "redis://user@host:6379",
    "rediss://host": "rediss://host:6379",
    "redis+unix:///a/path": "redis+unix:///a/path",
    "redis+unix:///a/path?db=2": "redis+unix:///a/path?db=2",
    "redis+unix://user:s3cr3t@/a/path": "redis+unix://user@/a/path",
    "redis+sentinel://one/name": "redis+sentinel://one:26379/name",
    "redis+sentinel://u:s3cr3t@one,two:1/name/2": "redis+sentinel://u@one:26379,two:1/name/2",
    "rediss+sentinel://one/name": "rediss+sentinel://one:26379/name",
    "redis+cluster://one,two:2": "redis+cluster://one:6379,two:2",
    "redis+cluster://one/0": "redis+cluster://one:6379",
    "rediss+cluster://one": "rediss+cluster://one:6379",
    "redis://user@host?password_file=/a/file": "redis://user@host:6379",
    "redis://host/1?password_file=/a/file": "redis://host:6379/1",
}


@pytest.mark.parametrize(("url", "shown"), GOOD_URLS.items())
def test_what_a_url_is_shown_as(url: str, shown: str) -> None:
    engine = parse_engine(url)
    assert str(engine) == shown
    assert "s3" not in repr(engine)


def test_everything_of_a_url_is_read() -> None:
    engine = parse_engine("rediss+sentinel://us%40er:p%2F%25:w@one:1,[::2]/na%2Fme/3")
    assert engine.kind is Kind.SENTINEL
    assert engine.tls
    assert [str(host) for host in engine.hosts] == ["rediss://one:1", "rediss://[::2]:26379"]
    assert (engine.name, engine.db) == ("na/me", 3)
    assert engine.read_credentials() == ("us@er", "p/%:w")


def test_a_password_alone_is_the_default_users() -> None:
    assert parse_engine("redis://:p@host").read_credentials() == ("default", "p")
    assert parse_engine("redis://host").read_credentials() is None


def test_a_password_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    engine = parse_engine(f"redis://user@host?password_file={file}")
    assert engine.read_credentials() == ("user", "first")
    file.write_text("second\r\n")
    assert engine.read_credentials() == ("user", "second")


BAD_URLS = [
    "",
    "junk",
    "redis:host",
    "http://host",
    "hyps://host",
    "redis+other://host",
    "redis://",
    "redis:///1",
    "redis://host:port",
    "redis://host:0",
    "redis://host:65536",
    "redis://[::1",
    "redis://host/name",
    "redis://host/-1",
    "redis://host/\u0661",
    "redis://host/1/2",
    "redis://one,two",
    "redis://host#fragment",
    "redis://host?db",
    "redis://host?db=1",
    "redis://host?password_file=",
    "redis://host?password_file=a&password_file=b",
    "redis://user@host",
    "redis://user:s3cr3t@host?password_file=a",
    "redis+sentinel://one",
    "redis+sentinel://one/",
    "redis+sentinel://one,/name",
    "redis+sentinel://one/name/db",
    "redis+cluster://one/1",
    "redis+unix://",
    "redis+unix://relative",
    "redis+unix://host/path",
    "redis+unix:///path?db=x",
    "redis+unix:///path?other=1",
    # Passwords with letters that they must not have.
    "redis://user:s3cr3t/s3cr3t@host",
    "redis://user:s3cr3t?s3cr3t@host",
    "redis://user:s3cr3t?a=s3cr3t@host",
    "redis://user:s3cr3t#s3cr3t@host",
    "redis://user:s3cr3t s3cr3t@host",
    "redis://user:s3cr3t[s3cr3t@ho[st",
    "redis://s3cr3t@host",
    "redis://user:s3cr3t",
    "redis://user:s3cr3t@one,user:s3cr3t@two:x",
    "http://user:s3cr3t@host",
    "user:s3cr3t@host",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_url(url: str) -> None:
    with pytest.raises(hyps.InvalidURL, match=r"^bad URL") as caught:
        parse_engine(url)
    shown = "".join(traceback.format_exception(caught.value)).splitlines()[-1]
    assert "s3cr3t" not in shown
    assert caught.value.__context__ is None


def test_a_url_is_text() -> None:
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        parse_engine(b"redis://host")  # type: ignore[arg-type]
