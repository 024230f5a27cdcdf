"""Limits on the size and time of requests, and the form of refusals."""

import asyncio
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BYTES = 500_000  # of a body; 1000 rows take 300,000
MAX_SECONDS = 10  # until a request has arrived
MAX_BODIES = 500  # that arrive or wait for an answer; above it, requests with a body are refused


def refusal(status, *reasons, **headers):
    return JSONResponse({"errors": reasons}, status, headers)


async def refuse_large(scope, receive, send):
    """Refuse a body, and discard the rest in pieces, with pauses to serve other requests.

    Many clients read an answer only after they have sent the whole body.
    """

    async def send_unfinished(message):
        is_body = message["type"] == "http.response.body"
        await send(message | {"more_body": True} if is_body else message)

    answer = refusal(413, f"body: at most {MAX_BYTES} bytes are allowed", connection="close")
    await answer(scope, receive, send_unfinished)
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_SECONDS):
            while (await receive()).get("more_body"):
                await asyncio.sleep(0.005)
    await send({"type": "http.response.body"})


class Limits:
    """Middleware that receives a whole body before the app runs, and counts requests by status."""

    def __init__(self, app, metrics):
        self.app, self._metrics, self._bodies = app, metrics, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, request = "client gone", Request(scope, receive)
        has_body = "content-length" in request.headers
        self._bodies += has_body

        async def send_and_note(message):
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            app = await self._limited(request)
            await app(scope, receive, send_and_note)
        except ClientDisconnect:
            pass
        finally:
            self._bodies -= has_body
            if scope["path"] == "/predict":
                self._metrics.requests.labels(status).inc()

    async def _limited(self, request):
        """Return the app with the received body, or the refusal of the body."""
        if "transfer-encoding" in request.headers:
            return refusal(411, "body: a content-length is needed", connection="close")
        length = int(request.headers.get("content-length", 0))
        if length and self._bodies > MAX_BODIES:
            return refusal(503, "too many requests are waiting", connection="close")
        if length > MAX_BYTES:
            return refuse_large
        try:
            async with asyncio.timeout(MAX_SECONDS):
                body = await request.body()
        except TimeoutError:
            reason = f"body: it did not arrive within {MAX_SECONDS} seconds"
            return refusal(408, reason, connection="close")
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_body():
            return next(messages, None) or await request.receive()

        return lambda scope, receive, send: self.app(scope, receive_body, send)


class Protocol(H11Protocol):
    """HTTP protocol that reads little at once, and closes connections without a complete header.

    A chunk takes as long as a kilobyte, so hundreds in one read would block other requests.
    """

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.max_size = 2**10
        self.timeout_keep_alive_task = self.loop.call_later(
            MAX_SECONDS, self.timeout_keep_alive_handler
        )

    def data_received(self, data):
        """Receive data. A part of a header does not stop the timer, unlike in the base class."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.cycle and not self.cycle.response_complete:
            self._unset_keepalive_if_required()
