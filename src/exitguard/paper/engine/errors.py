"""Refusals, with the status codes and bodies that Alpaca sends (reference/alpaca.md 1.5 and 2)."""

from typing import Any


class ApiError(Exception):
    """A request that the venue refuses: HTTP status and JSON body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
