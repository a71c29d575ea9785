"""The log's lines: whole, one per failure, and not to be forged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tightship.serve import logs
from tightship.serve.logs import LOGGER, RequestLog, configure, request_id

NAMES = ("tightship.serve", "uvicorn", "uvicorn.error", "grpc")


@pytest.fixture(autouse=True)
def untouched_loggers() -> Iterator[None]:
    before = [(log := logging.getLogger(name), log.handlers, log.level, log.propagate) for name in NAMES]
    yield
    for log, handlers, level, propagate in before:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


def written(form: logs.Form, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(level, form, stream)
    return stream


def test_a_json_line_holds_what_is_known_of_the_request() -> None:
    stream = written("json")
    RequestLog().add(
        "500", 0.0125, failure="the engine broke", server_fault=True, request_id="r1", model="m", caller="me"
    )
    line = json.loads(stream.getvalue())
    assert line["level"] == "error" and line["message"] == "the engine broke" and line["time"].endswith("Z")
    assert (line["status"], line["duration_ms"], line["request_id"], line["model"]) == ("500", 12.5, "r1", "m")


def test_a_request_that_went_well_is_told_at_debug_only() -> None:
    stream = written("json")
    quiet = RequestLog()
    quiet.add("200", 0.001, request_id="r1")
    assert stream.getvalue() == "" and not quiet.every
    stream = written("json", "debug")
    loud = RequestLog()
    loud.add("200", 0.001, request_id="r1")
    assert loud.every and json.loads(stream.getvalue())["request_id"] == "r1"


@pytest.mark.parametrize("form", logs.FORMS)
def test_what_a_client_sends_makes_no_second_line(form: logs.Form) -> None:
    stream = written(form)
    RequestLog().add("404", 0.001, failure="no model 'x\n2026 info all is well\x1b[2J\u2028'", model="a\nb\r\x00")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_flood_of_failures_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    stream = written("human")
    log = RequestLog()
    for _ in range(200):
        log.add("401", 0.0, failure="no key")
    now[0] = 11.0
    log.add("401", 0.0, failure="no key")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 52 and "150 more failures were not written" in lines[50]


def test_an_exception_is_written_with_its_trace() -> None:
    stream = written("json")
    try:
        raise ValueError("odd")
    except ValueError:
        LOGGER.exception("a request broke")
    assert "ValueError: odd" in json.loads(stream.getvalue())["exception"]


def test_uvicorns_and_grpcs_lines_come_in_the_same_form() -> None:
    stream = written("json")
    logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
    logging.getLogger("grpc._cython.cygrpc").error("from grpc")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["from uvicorn", "from grpc"]


def test_a_callers_request_id_is_kept() -> None:
    assert request_id(b"3f2a-77.b:9_x/+=@") == "3f2a-77.b:9_x/+=@"
    assert request_id("abc") == "abc"


@pytest.mark.parametrize("given", [None, b"", b"a b", b"a\nb", "é".encode(), b"x" * 129, b"\x00", b'a"b'])
def test_an_id_that_is_missing_or_could_forge_a_line_is_replaced_by_a_new_one(given: bytes | None) -> None:
    first, second = request_id(given), request_id(given)
    assert first != second and first.replace("-", "").isalnum()
