"""What a request is refused by: one line and a status."""

from collections.abc import Mapping


class Refused(Exception):
    """A request that gets no answers.

    Args:
        status: of HTTP.
        reason: one line, for whoever asked.
        headers: beside it.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


def busy(reason: str) -> Refused:
    """Nothing is wrong with the request: it may come again in a second."""
    return Refused(429, reason, {"Retry-After": "1"})
