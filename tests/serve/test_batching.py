"""One thread per model: at once where it is idle, together where requests had to wait, and bounded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from tightship.core.session import Arrays
from tightship.errors import EngineError
from tightship.serve.batching import Batcher
from tightship.serve.failures import DeadlineExceeded, NotReady, Overloaded


class Doubling:
    """A model that doubles, remembers what it was given, and runs only while its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def run(self, inputs: Arrays) -> Arrays:
        assert self.gate.wait(20)
        x = inputs["x"]
        self.batches.append(len(x))
        if (x < 0).any():
            raise EngineError("negative")
        return {"y": 2 * x}


def batcher(model: Doubling, max_batch: int = 8, max_queue: int = 100) -> Batcher:
    return Batcher("m", model.run, max_batch, max_queue, lambda size: None, lambda: None)


def ask(queue: Batcher, *values: float, width: int = 1, deadline: float = 0.0) -> Coroutine[Any, Any, Arrays]:
    return queue.infer({"x": np.repeat(np.array(values, np.float32)[:, None], width, 1)}, deadline)


async def held(queue: Batcher, model: Doubling, *coroutines: Coroutine[Any, Any, Arrays]) -> list[Any]:
    """Let one request hold the model, have the others wait, then let go; return what became of the others."""
    model.gate.clear()
    first = asyncio.create_task(ask(queue, 1.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks = [asyncio.create_task(one) for one in coroutines]
    await asyncio.sleep(0)
    model.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    return list(found)


def test_a_request_alone_runs_at_once() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model)
        assert (await ask(queue, 3.0))["y"].tolist() == [[6.0]]
        assert queue.idle

    asyncio.run(main())
    assert model.batches == [1]


def test_requests_that_arrive_together_run_together() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model)
        answers = await asyncio.gather(*(ask(queue, float(number)) for number in range(5)))
        assert [float(answer["y"][0, 0]) for answer in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]

    asyncio.run(main())
    assert model.batches == [5]


def test_what_waited_runs_in_batches_of_at_most_so_many_items() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model, max_batch=8)
        answers = await held(queue, model, *(ask(queue, number, number) for number in range(1, 7)))
        assert [answer["y"].shape for answer in answers] == [(2, 1)] * 6

    asyncio.run(main())
    assert model.batches == [1, 8, 4]


def test_requests_of_other_shapes_run_apart_and_none_is_forgotten() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model)
        found = await held(queue, model, ask(queue, 1), ask(queue, 2, width=3), ask(queue, 3), ask(queue, 4, width=3))
        assert [answer["y"].shape for answer in found] == [(1, 1), (1, 3), (1, 1), (1, 3)]

    asyncio.run(main())
    assert model.batches == [1, 2, 2]


def test_one_item_at_most_keeps_requests_apart() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model, max_batch=1)
        await asyncio.gather(*(ask(queue, float(number)) for number in range(4)))

    asyncio.run(main())
    assert model.batches == [1, 1, 1, 1]


def test_a_request_that_fails_does_not_fail_those_that_ran_with_it() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model)
        good, bad, other = await held(queue, model, ask(queue, 1), ask(queue, -1), ask(queue, 2))
        assert good["y"][0, 0] == 2 and other["y"][0, 0] == 4 and isinstance(bad, EngineError)

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model, max_queue=2)
        *_, refused = await held(queue, model, ask(queue, 1), ask(queue, 2), ask(queue, 3))
        assert isinstance(refused, Overloaded) and dict(refused.headers)[b"retry-after"] == b"1"

    asyncio.run(main())


def test_a_deadline_is_answered_though_the_model_is_still_busy() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model)
        model.gate.clear()
        busy = asyncio.create_task(ask(queue, 1))
        await asyncio.sleep(0)  # it asks
        await asyncio.sleep(0)  # it is handed to the model
        with pytest.raises(DeadlineExceeded):
            await ask(queue, 2, deadline=time.monotonic() + 0.02)
        model.gate.set()
        await busy

    asyncio.run(main())
    assert model.batches == [1]  # the second was dropped when its turn came


def test_a_request_whose_client_has_gone_is_dropped_when_its_turn_comes() -> None:
    model = Doubling()

    async def main() -> None:
        queue = batcher(model, max_batch=1)
        model.gate.clear()
        first, gone, last = (asyncio.create_task(ask(queue, number)) for number in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        model.gate.set()
        await first
        await last

    asyncio.run(main())
    assert model.batches == [1, 1]


def test_closing_finishes_what_waits_and_takes_nothing_more() -> None:
    model = Doubling()
    ended = threading.Event()

    async def main() -> None:
        queue = Batcher("m", model.run, 1, 10, lambda size: None, ended.set)
        model.gate.clear()
        tasks = [asyncio.create_task(ask(queue, number)) for number in (1, 2)]
        await asyncio.sleep(0)
        queue.close()
        with pytest.raises(NotReady):
            await ask(queue, 3)
        model.gate.set()
        await asyncio.gather(*tasks)
        assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(main())
