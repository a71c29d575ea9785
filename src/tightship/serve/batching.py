"""Requests of one model that run on a thread of its own: at once where it is idle, together where they had to wait.

There is no fixed wait. While one run goes on, requests queue; when it ends, all that fit together run as one batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

import numpy as np

from tightship.core.session import Arrays
from tightship.serve.failures import DeadlineExceeded, NotReady, Overloaded

__all__ = ["Batcher"]

Run = Callable[[Arrays], Arrays]
OnBatch = Callable[[int], None]


class _Waiting:
    """A request in the queue: its arrays, how many items it has along the first axis, and what it may run with."""

    __slots__ = ("arrays", "future", "items", "kind")

    def __init__(self, arrays: Arrays, future: asyncio.Future[Arrays], together: bool) -> None:
        self.arrays = arrays
        self.future = future
        shapes = [array.shape for array in arrays.values()] if together else []
        joinable = together and all(shape and shape[0] == shapes[0][0] for shape in shapes) and shapes[0][0] > 0
        self.items = shapes[0][0] if joinable else 1
        self.kind = tuple(shape[1:] for shape in shapes) if joinable else None

    def expire(self) -> None:
        if not self.future.done():
            self.future.set_exception(DeadlineExceeded("the deadline of the request passed before there was an answer"))


class Batcher:
    """The queue and the thread of one loaded model; all methods belong to the event loop's thread.

    `max_batch` is in items; 1 keeps requests apart. Requests that were cancelled or are past their deadline are dropped
    when their turn comes. `on_batch` is told how many requests run together, `on_end` called after the last run.
    """

    def __init__(
        self, name: str, run: Run, max_batch: int, max_queue: int, on_batch: OnBatch, on_end: Callable[[], None]
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._on_end = on_end
        self._queue: deque[_Waiting] = deque()
        self._work: SimpleQueue[tuple[asyncio.AbstractEventLoop, list[_Waiting]] | None] = SimpleQueue()
        self._busy = False
        self._closed = False
        self._run_s = 0.0
        self._thread = Thread(target=self._serve, name=f"model-{name}", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._busy and not self._queue

    async def infer(self, arrays: Arrays, deadline: float) -> Arrays:
        """Wait for the turn, run, and return the outputs; `deadline` is a moment of `time.monotonic`, 0 for none.

        Raises `Overloaded` where the queue is full, `DeadlineExceeded`, or what running raises.
        """
        if self._closed:
            raise NotReady("this version of the model was just unloaded; ask again")
        if len(self._queue) >= self._max_queue:
            raise Overloaded(f"{len(self._queue)} requests wait for this model; try again later", self._wait_s())
        loop = asyncio.get_running_loop()
        waiting = _Waiting(arrays, loop.create_future(), self._max_batch > 1)
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), waiting.expire) if deadline else None
        self._queue.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._dispatch, loop)  # after all requests that arrived in this turn of the loop
        try:
            return await waiting.future
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """End the thread after what is queued; nothing is taken any more."""
        self._closed = True
        if self.idle:
            self._work.put(None)

    def _wait_s(self) -> float:
        return len(self._queue) * self._run_s

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._next_batch()
        if batch:
            self._work.put((loop, batch))
            self._on_batch(len(batch))
            return
        self._busy = False
        if self._closed:
            self._work.put(None)

    def _next_batch(self) -> list[_Waiting]:
        """Take the first request that still waits for its answer, and those after it that fit to it."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        items = 0
        while self._queue and items < self._max_batch:
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            if not batch or (
                waiting.kind is not None and waiting.kind == batch[0].kind and items + waiting.items <= self._max_batch
            ):
                batch.append(waiting)
                items += waiting.items
                if batch[0].kind is None:
                    break
            else:
                left.append(waiting)
        self._queue.extendleft(reversed(left))
        return batch

    def _finish(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting], results: list[Arrays | Exception], run_s: float
    ) -> None:
        self._run_s = run_s if not self._run_s else 0.8 * self._run_s + 0.2 * run_s
        self._dispatch(loop)  # before answering, so that the engine does not wait for the answers to be written
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)

    def _serve(self) -> None:
        """The thread: run batch after batch."""
        while (work := self._work.get()) is not None:
            loop, batch = work
            started = time.perf_counter()
            results = run_together(self._run, [waiting.arrays for waiting in batch], [entry.items for entry in batch])
            run_s = (time.perf_counter() - started) / len(batch)
            try:
                loop.call_soon_threadsafe(self._finish, loop, batch, results, run_s)
            except RuntimeError:  # the loop was closed: the server has ended
                return
            del work, batch, results
        self._on_end()


def run_together(run: Run, requests: list[Arrays], items: list[int]) -> list[Arrays | Exception]:
    """Run requests as one batch; where that fails, each by itself, so that one does not fail the others."""
    try:
        if len(requests) == 1:
            return [run(requests[0])]
        joined = {name: np.concatenate([arrays[name] for arrays in requests]) for name in requests[0]}
        outputs = run(joined)
        ends = np.cumsum(items).tolist()
        if any(array.shape[0] != ends[-1] for array in outputs.values()):
            raise ValueError("an output has another number of items than the inputs")
        return [
            {name: array[end - count : end] for name, array in outputs.items()}
            for end, count in zip(ends, items, strict=True)
        ]
    except Exception as error:  # whatever it was, it is told to those who asked
        if len(requests) == 1:
            return [error]
        return [run_together(run, [arrays], [count])[0] for arrays, count in zip(requests, items, strict=True)]
