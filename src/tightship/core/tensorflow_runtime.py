"""TensorFlow and Keras as this project imports them: quietly, and Keras on TensorFlow."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from tightship.core import extras
from tightship.errors import UnsupportedError

__all__ = ["environment", "quiet_tensorflow", "require_keras", "require_tensorflow"]


def require_tensorflow(purpose: str) -> None:
    """Import TensorFlow, or raise `MissingExtra`.

    Its C++ part logs errors only, unless the user said else, and each of its sessions gets threads of its own. The
    latter is decided once per process: where TensorFlow was in use before, the first session's threads serve all. The
    former it looks up whenever it has something to say, so `TF_CPP_MIN_LOG_LEVEL` stays set.
    """
    if "tensorflow" in sys.modules:
        extras.require("tensorflow", purpose)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with environment(TF_OVERRIDE_GLOBAL_THREADPOOL="1"), quiet_tensorflow():
        tensorflow = extras.require("tensorflow", purpose)
        tensorflow.compat.v1.Session(graph=tensorflow.Graph()).close()  # TensorFlow reads the second one here


def require_keras(purpose: str) -> None:
    """Import Keras on TensorFlow. Raises `MissingExtra`, and `UnsupportedError` where Keras runs on something else."""
    require_tensorflow(purpose)
    backend = "tensorflow" if "keras" not in sys.modules else os.environ.get("KERAS_BACKEND", "tensorflow")
    with environment(KERAS_BACKEND=backend), quiet_tensorflow():
        keras = extras.require("keras", purpose)
    if keras.backend.backend() != "tensorflow":
        raise UnsupportedError(
            f"{purpose} needs Keras on TensorFlow, found Keras on {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keep what TensorFlow, Keras and tf2onnx print, log and warn of their own inside from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unseen = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(unseen), redirect_stderr(unseen):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for the length of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
