"""Batches of the rows of several requests."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from starlette.exceptions import HTTPException

MAX_ROWS = 1000  # of a request; a batch with as many takes no further request
MAX_WAIT = 0.002  # seconds that a batch waits for further requests
MAX_WAITING_ROWS = 20_000  # above it, requests are refused
MAX_SECONDS = 10  # until a prediction

log = logging.getLogger("uvicorn.error")


class Batcher:
    """Collector of rows from several requests, which are predicted in one call.

    `model` can be replaced at any time. The next batch uses the new model.
    """

    def __init__(self, model, metrics):
        self.model, self._metrics = model, metrics
        self._queue = asyncio.Queue()
        self._waiting_rows = 0
        self._batch_start = None
        self._thread = ThreadPoolExecutor(1)
        self.task = asyncio.create_task(self._run())

    @property
    def problem(self):
        """The reason that no batch is computed, or None."""
        if self.task.done():
            return "the task that runs the batches has ended"
        if self._batch_start and time.monotonic() - self._batch_start > MAX_SECONDS:
            return f"a batch takes over {MAX_SECONDS} seconds"
        return None

    async def predict(self, rows):
        """Return the predictions of one request's rows."""
        if problem := self.problem:
            raise HTTPException(503, problem)
        if self._waiting_rows > MAX_WAITING_ROWS:
            raise HTTPException(503, "too many rows are waiting")
        future = asyncio.get_running_loop().create_future()
        self._waiting_rows += len(rows)
        self._queue.put_nowait((rows, future))
        try:
            return await asyncio.wait_for(future, MAX_SECONDS)
        except TimeoutError:
            raise HTTPException(503, f"no prediction within {MAX_SECONDS} seconds") from None

    async def _run(self):
        """Predict batches until the task is canceled."""
        loop = asyncio.get_running_loop()
        while True:
            requests = await self._collect()
            rows = [row for of_request, _ in requests for row in of_request]
            self._waiting_rows -= len(rows)
            model, self._batch_start = self.model, time.monotonic()
            try:
                batch = await loop.run_in_executor(self._thread, model.predict, rows)
            except Exception as error:
                log.exception("A batch failed")
                answer(requests, error)
            else:
                answer(requests, batch[1])
                loop.run_in_executor(self._thread, self._metrics.count, model.version, *batch)
            self._batch_start = None

    async def _collect(self):
        """Return the requests of the next batch, each with the future of its answer."""
        requests = [await self._queue.get()]
        try:
            async with asyncio.timeout(MAX_WAIT):
                while sum(len(rows) for rows, _ in requests) < MAX_ROWS:
                    requests.append(await self._queue.get())
        except TimeoutError:
            pass
        return requests


def answer(requests, outputs):
    """Set the outputs of each request's rows, or an exception, unless its client has gone."""
    start = 0
    for rows, future in requests:
        own = slice(start, start + len(rows))
        start = own.stop
        if future.done():
            continue
        if isinstance(outputs, Exception):
            future.set_exception(HTTPException(500, "the prediction failed"))
        else:
            future.set_result({name: values[own] for name, values in outputs.items()})
