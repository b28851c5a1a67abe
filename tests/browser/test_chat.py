"""The chat example, as its users see it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from playwright.sync_api import expect
from support.sites import EXAMPLES, TIMEOUT, Hub, running_hub, running_site

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page
    from support.sites import Site

FOLDER = EXAMPLES / "fastapi_chat"
PAGES = 5


def open_pages(browser: Browser, site: Site, count: int = PAGES) -> list[Page]:
    """Open pages, each of a user of their own: a browser has six connections to a host."""
    pages = [browser.new_context().new_page() for _ in range(count)]
    for page in pages:
        page.goto(site.url)
        expect(page.locator("#state")).to_have_text("connected", timeout=TIMEOUT * 1000)
    return pages


def say(page: Page, form: str, text: str) -> None:
    page.locator(f"#{form} input").fill(text)
    page.locator(f"#{form} button").click()


def expect_text(pages: list[Page], target: str, text: str) -> None:
    for page in pages:
        found = page.locator(f"#{target} li", has_text=text)
        expect(found).to_have_count(1, timeout=TIMEOUT * 1000)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_messages_cross_workers(browser: Browser, hub: Hub) -> None:
    with running_site("uvicorn-workers", FOLDER, hub.url) as site:
        wait_until(lambda: hub.stats()["sessions"] == 2)
        pages = open_pages(browser, site, 8)
        say(pages[0], "say", "hello, room")
        say(pages[1], "tell", "hello, everybody")
        expect_text(pages, "chat", "hello, room")
        expect_text(pages, "news", "hello, everybody")
        # What users write is text, whatever it looks like.
        for text in ("<b>bold</b>", '{"not": json', '{"gap": {}}'):
            say(pages[2], "say", text)
            expect_text(pages, "chat", text)


def test_the_hub_is_killed_and_restarted_with_pages_open(browser: Browser, hub: Hub) -> None:
    with running_site("uvicorn-workers", FOLDER, hub.url) as site:
        pages = open_pages(browser, site)
        hub.close()
        with running_hub(int(hub.url.rpartition(":")[2])) as again:
            wait_until(lambda: again.stats()["channels"] >= 2)
            # Each page is told that it may have missed something, and goes on.
            expect_text(pages, "chat", "missed an unknown number of messages")
            expect_text(pages, "news", "missed an unknown number of messages")
            say(pages[0], "say", "we are back")
            expect_text(pages, "chat", "we are back")


def test_reloading_leaves_nothing(browser: Browser, hub: Hub) -> None:
    with running_site("uvicorn", FOLDER, hub.url) as site:
        [page] = open_pages(browser, site, 1)
        for _ in range(50):
            page.reload()
        expect(page.locator("#state")).to_have_text("connected", timeout=TIMEOUT * 1000)
        wait_until(lambda: hub.stats()["channels"] == 2)
        page.context.close()
        wait_until(lambda: hub.stats()["channels"] == 0)
        site.end()
        site.assert_clean()


def test_the_server_is_restarted_with_pages_open(browser: Browser, hub: Hub) -> None:
    with running_site("uvicorn", FOLDER, hub.url) as site:
        pages = open_pages(browser, site)
        wait_until(lambda: hub.stats()["channels"] == 2)
        seconds = site.end()
        # Without help it would wait for its streams for ever. This is a bound, and no measure.
        assert seconds < TIMEOUT / 2, site.log
        site.assert_clean()
        with running_site("uvicorn", FOLDER, hub.url, port=site.port) as again:
            for page in pages:
                expect(page.locator("#state")).to_have_text("connected", timeout=TIMEOUT * 1000)
            # EventSource comes back by itself too, some seconds later. A page that was away is told
            # that it may have missed something.
            wait_until(lambda: again.log.count('"GET /news') >= PAGES)
            expect_text(pages, "chat", "messages may be missing")
            expect_text(pages, "news", "messages may be missing")
            say(pages[0], "say", "hello again")
            say(pages[0], "tell", "news again")
            expect_text(pages, "chat", "hello again")
            expect_text(pages, "news", "news again")
