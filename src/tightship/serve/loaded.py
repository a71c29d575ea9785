"""One version of a model, loaded and warm: opened from a package or a model file, and run for requests."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tightship.core.session import Arrays, Session
from tightship.core.target import Target
from tightship.errors import TightshipError
from tightship.package import opening
from tightship.package.opening import Keys
from tightship.serve.batching import Batcher, OnBatch
from tightship.serve.failures import ModelFailed, NotReady
from tightship.serve.protocol.answers import Answers
from tightship.serve.protocol.layouts import Layouts
from tightship.serve.protocol.signature import Signature
from tightship.serve.settings import Limits
from tightship.serve.warming import Warmth, warm

if TYPE_CHECKING:
    from tightship.serve.processing import Processor

__all__ = ["LoadedModel", "Opener"]

INLINE_S = 0.0002
"""A model whose run takes less than this runs on the event loop: handing it to a thread and back takes as long."""

INLINE_GROWTH = 4
"""A request may have this many times the elements of the run that was timed, to be run on the loop."""


TOO_LONG_S = 0.02
N_SUSPECTED = 1000
"""Where a run on the loop takes that long, what it takes may not be in the shapes: the next ones are watched."""


def ignore_batch(size: int) -> None:
    """What is told of a batch where nobody counts."""


class LoadedModel:
    """A version that can be asked. `path` and `digest` say what it was loaded from, `load_s` how long that took.

    All but its making belongs to the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        version: str,
        session: Session,
        limits: Limits,
        warmth: Warmth,
        processor: Processor | None = None,
        on_batch: OnBatch = ignore_batch,
    ) -> None:
        self.name = name
        self.version = version
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.target: Target = session.target
        self.warmth = warmth
        self.processor = processor
        self.signature = Signature(session.inputs, session.outputs)
        self.requests = Layouts(self.signature)
        self.answers = Answers(name, version, self.signature)
        self.path = ""
        self.digest = ""
        self.load_s = 0.0
        self._session = session
        self._limits = limits
        self._on_batch = on_batch
        self._batcher: Batcher | None = None
        self._retired = False
        self._suspected = 0
        self._inline_elements = INLINE_GROWTH * warmth.n_elements if warmth.run_s < INLINE_S else -1

    @property
    def inline(self) -> bool:
        """Whether requests of the usual size run on the event loop."""
        return self._inline_elements >= 0

    @property
    def batches(self) -> bool:
        """Whether requests that wait run together."""
        return self.warmth.together and not self.inline

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return 0 if self._batcher is None else self._batcher.queued

    @property
    def running(self) -> int:
        """Runs going on."""
        return 0 if self._batcher is None or self._batcher.idle else 1

    async def infer(self, arrays: Arrays, deadline: float = 0.0) -> Arrays:
        """Run for one request; `arrays` were checked against `signature`.

        `deadline` is a moment of `time.monotonic`; 0 is the usual time from now. Raises a `RequestFailure`.
        """
        if self.quick(sum(array.size for array in arrays.values())):
            return self.run_at_once(arrays)
        if self._batcher is None:
            self._batcher = self._new_batcher()
        return await self._batcher.infer(arrays, deadline or time.monotonic() + self._limits.deadline_ms / 1e3)

    def quick(self, n_elements: int) -> bool:
        """Whether a request with so many elements is run at once, on the loop."""
        return n_elements <= self._inline_elements and (self._batcher is None or self._batcher.idle)

    def run_at_once(self, arrays: Arrays) -> Arrays:
        """Run a quick request on the loop; a model that takes long for such ones leaves the loop for good."""
        if self._suspected:
            return self._run_suspected(arrays)
        started = time.perf_counter()
        outputs = self.run(arrays)
        if time.perf_counter() - started > TOO_LONG_S:
            self._suspected = N_SUSPECTED
        return outputs

    def _run_suspected(self, arrays: Arrays) -> Arrays:
        """Run as above, and tell a long run from one that had to wait for a processor."""
        self._suspected -= 1
        started = time.thread_time()
        outputs = self.run(arrays)
        if time.thread_time() - started > TOO_LONG_S:
            self._inline_elements = -1
        return outputs

    def run(self, arrays: Arrays) -> Arrays:
        """Run on this thread. Raises `ModelFailed`."""
        try:
            return self._session.run(arrays)
        except TightshipError as error:
            if self._retired:
                raise NotReady("this version of the model was just unloaded; ask again") from error
            raise ModelFailed(f"{self.name} {self.version}: {error}") from error

    def retire(self) -> None:
        """Take no more requests, and close the session after those that are being answered."""
        self._retired = True
        if self._batcher is None:
            self._session.close()
        else:
            self._batcher.close()

    def _new_batcher(self) -> Batcher:
        limits = self._limits
        max_batch = limits.max_batch if self.warmth.together else 1
        return Batcher(self.name, self.run, max_batch, limits.max_queue, self._on_batch, self._session.close)


@dataclass(frozen=True)
class Opener:
    """Opens versions for one worker: keys, engine and threads of its settings, its limits."""

    limits: Limits
    keys: Keys = opening.NO_KEYS
    engine: str = ""
    threads: int = 0

    def open(self, name: str, version: str, path: Path, on_batch: OnBatch = ignore_batch) -> LoadedModel:
        """Load and warm one version. Not for the event loop's thread.

        Raises what opening a package and an engine raise, and `EngineError` where it does not run.
        """
        started = time.perf_counter()
        session = self._session(path, self.threads)
        warmth = warm(session)
        if warmth.run_s < INLINE_S and session.target.threads != 1:
            session, warmth = self._one_thread(path, session, warmth)
        loaded = LoadedModel(name, version, session, self.limits, warmth, self._processor(path, session), on_batch)
        loaded.path = str(path)
        loaded.load_s = time.perf_counter() - started
        return loaded

    def _one_thread(self, path: Path, session: Session, warmth: Warmth) -> tuple[Session, Warmth]:
        """What is done so soon is not shared among threads, and threads that wait for it would burn their cores."""
        session.close()
        session = self._session(path, 1)
        return session, warm(session)

    def _session(self, path: Path, threads: int) -> Session:
        if opening.is_package(path):
            return opening.open_session(path, self.engine, threads, self.keys)
        return open_file(path, self.engine, threads)

    def _processor(self, path: Path, session: Session) -> Processor | None:
        if not opening.is_package(path):
            return None
        with self.keys.open(path) as package:
            declared = package.manifest.processing
            if declared is None:
                return None
            from tightship.serve.processing import ready

            return ready(declared, session.inputs, session.outputs, lambda name: bytes(package.read(name)))


def open_file(path: Path, engine: str, threads: int) -> Session:
    """Open a model file in its own engine, or in `engine`; what no engine runs as it is, is read first."""
    from tightship import engines, formats

    artifact = formats.recognise(str(path))
    entry = formats.FORMATS[artifact.format]
    if entry.engine and engine in ("", entry.engine):
        return engines.open_session(entry.loadable(artifact), Target(entry.engine, threads=threads))
    from tightship.search.source import Source

    source = Source.of(artifact, formats.read(artifact), threads)
    if not engine:
        return source.open()
    return engines.open_session(source.loadable, Target(engine, threads=threads))
