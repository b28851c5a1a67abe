"""Hyps for code that is not async: Django views, Flask, Celery tasks, scripts, threads."""

from __future__ import annotations

from ._client import Client as Client
from ._client import connect as connect
from ._subscription import Subscription as Subscription

__all__ = ("Client", "Subscription", "connect")
