"""A Celery task that reports its progress.

The worker, with files as its broker; use Redis or RabbitMQ for more than trying it out::

    celery --workdir examples/celery_progress -A tasks worker
"""

import os
import time
from pathlib import Path

from celery import Celery

import hyps.sync

folder = Path(os.environ.get("BROKER_FOLDER", "/tmp/hyps-celery"))
for name in ("in", "control"):
    (folder / name).mkdir(parents=True, exist_ok=True)
queue = Celery("tasks", broker="filesystem://")
queue.conf.broker_transport_options = {
    "data_folder_in": str(folder / "in"),
    "data_folder_out": str(folder / "in"),
    "control_folder": str(folder / "control"),
}
client = hyps.sync.connect()


@queue.task
def work(job: str, steps: int = 5, seconds: float = 0.5) -> None:
    for step in range(1, steps + 1):
        time.sleep(seconds)  # the work
        client.publish(f"job.{job}", f"{step}/{steps}")
