"""What every request passes: a bound on its body, and a count of the answer."""

from __future__ import annotations

from collections import Counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Counting:
    """Counts answers by route (as declared, so that labels stay few) and status."""

    def __init__(self, app: ASGIApp, counted: Counter[tuple[str, int]]) -> None:
        self._app, self._counted = app, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._counted[route, message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counting)


class Bounded:
    """Refuses a body of more than `most_bytes` (413), also one that does not say how long it is."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def receiving() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._most:
                    raise HTTPException(413, f"the body has more than {self._most:,} bytes")
            return message

        await self._app(scope, receiving if scope["type"] == "http" else receive, send)
