"""The examples, each on its server."""

from __future__ import annotations

import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import httpx
import pytest
from support.sites import EXAMPLES, TIMEOUT, Hub, Program, running_hub, running_site, until
from support.users import hear, read_until, using

pytestmark = pytest.mark.anyio

#: The most lines that the parts of an application may take: goals of the design.
LINES = {"events": 3, "chat": 6, "lifespan": 1, "publish": 3}


async def test_chat_and_news_cross_workers(hub: Hub) -> None:
    with running_site("uvicorn-workers", EXAMPLES / "fastapi_chat", hub.url) as site:
        await until(lambda: hub.stats()["sessions"] == 2)
        async with using(site) as users:
            sockets = [await users.open_socket("lobby") for _ in range(8)]
            lines = [await users.open_stream("/news") for _ in range(8)]
            await sockets[0].send("hello")
            assert {await hear(ws) for ws in sockets} == {"hello"}
            answer = await users.http.post(f"{site.url}/news", params={"text": "it rains"})
            assert answer.status_code == 200
            for each in lines:
                await read_until(each, "data: it rains")
            assert "<title>Chat</title>" in (await users.http.get(site.url)).text
            site.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(TIMEOUT):
                assert set(await users.see_ends()) == {"end", 1012}
        site.end()
        site.assert_clean()


@pytest.mark.parametrize(
    ("server", "example"),
    [
        ("hypercorn-trio", "starlette_trio"),
        ("uvicorn", "litestar_sse"),
        ("hypercorn", "quart_sse"),
        ("uvicorn", "django_sync"),
        ("granian", "django_sync"),
    ],
)
async def test_what_is_published_is_streamed(server: str, example: str, hub: Hub) -> None:
    with running_site(server, EXAMPLES / example, hub.url) as site:
        async with using(site) as users:
            lines = [await users.open_stream("/events") for _ in range(3)]
            for text in ("one", "two"):
                answer = await users.http.post(f"{site.url}/publish", content=text)
                assert answer.status_code in (201, 204)
            for each in lines:
                assert "data: one" in await read_until(each, "data: two")
            site.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(TIMEOUT):
                assert set(await users.see_ends()) == {"end"}
        site.end()
        site.assert_clean()


async def test_the_chat_on_trio(hub: Hub) -> None:
    with running_site("hypercorn-trio", EXAMPLES / "starlette_trio", hub.url) as site:
        async with using(site) as users:
            ws = await users.open_socket("", path="/chat")
            await ws.send("hello")
            assert await hear(ws) == "hello"


async def test_a_task_of_celery_reports_its_progress(hub: Hub, tmp_path: Path) -> None:
    folder = EXAMPLES / "celery_progress"
    environment = {"BROKER_FOLDER": str(tmp_path), "HYPS_URL": hub.url}
    command = ["celery", "--workdir", str(folder), "-A", "tasks", "worker", "--concurrency", "2"]
    worker = Program(*command, "--loglevel", "INFO", **environment)
    try:
        worker.wait_for_log("ready.")
        with running_site("uvicorn", folder, hub.url, BROKER_FOLDER=str(tmp_path)) as site:
            async with using(site) as users:
                streams = [await users.open_stream("/progress") for _ in range(2)]
                for lines in streams:
                    text = await read_until(lines, "data: 5/5")
                    assert re.findall(r"data: (.*)", text) == [
                        "started",
                        *(f"{step}/5" for step in range(1, 6)),
                    ]
        worker.end()
        worker.assert_clean()
    finally:
        worker.close()


async def test_events_survive_reconnects_and_a_killed_hub(hub: Hub, tmp_path: Path) -> None:
    port = int(hub.url.rpartition(":")[2])
    count = 60
    database = tmp_path / "events.db"
    with running_site(
        "uvicorn-workers", EXAMPLES / "resume", hub.url, DATABASE=str(database)
    ) as site:
        seen: list[int] = []

        async def read() -> None:
            """Read as a browser does, and reconnect often."""
            while len(seen) < count:
                headers = {"last-event-id": str(seen[-1])} if seen else {}
                async with (
                    httpx.AsyncClient(timeout=TIMEOUT) as http,
                    http.stream("GET", f"{site.url}/events", headers=headers) as answer,
                ):
                    many = 0
                    async for line in answer.aiter_lines():
                        if line.startswith("id: "):
                            seen.append(int(line.removeprefix("id: ")))
                            many += 1
                        if many == 5 or len(seen) == count:
                            break

        async def write(numbers: range) -> None:
            async with httpx.AsyncClient(timeout=TIMEOUT) as http:
                for number in numbers:
                    url = f"{site.url}/events"
                    # Without a hub the event is in the table, and publishing raises.
                    await http.post(url, params={"text": str(number)})
                    await anyio.sleep(0.01)

        with anyio.fail_after(2 * TIMEOUT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await write(range(count // 2))
                hub.close()
                with running_hub(port):
                    await write(range(count // 2, count))
                    await until(lambda: len(seen) >= count)
    assert seen == list(range(1, count + 1))
    with closing(sqlite3.connect(database)) as rows_of:
        rows = rows_of.execute("SELECT text FROM events ORDER BY id").fetchall()
    assert [text for (text,) in rows] == [str(number) for number in range(count)]


def count_lines(path: Path, start: str) -> int:
    """Count the lines of a function, or of a statement, without its decorators."""
    lines = path.read_text().splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith(start)]
    rest = lines[first + 1 :]
    body = next((n for n, line in enumerate(rest) if not line.startswith((" ", ")"))), len(rest))
    return 1 + len([line for line in rest[:body] if line])


def test_the_parts_of_an_application_are_short() -> None:
    chat = EXAMPLES / "fastapi_chat" / "app.py"
    assert 1 + count_lines(chat, "async def news(") <= LINES["events"]
    assert 1 + count_lines(chat, "async def chat(") <= LINES["chat"]
    assert count_lines(chat, "app = FastAPI(lifespan=") <= LINES["lifespan"]
    django = EXAMPLES / "django_sync" / "app.py"
    assert count_lines(django, "def publish(") <= LINES["publish"]
    for path in EXAMPLES.glob("*/*.py"):
        assert len(path.read_text().splitlines()) <= 60, path


def test_every_example_is_run() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/app.py")}
    text = Path(__file__).read_text()
    assert [folder for folder in folders if f'"{folder}"' not in text] == []
