"""Foreign parsers in a process of their own: what comes back, and what becomes of every bad end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tightship.core.child import run_in_child
from tightship.errors import InvalidModel, UnsupportedOperators

SOURCE = """
import os, signal, sys, time
from pathlib import Path
from tightship.errors import UnsupportedOperators

def echo(*values):
    return [type(value).__name__ for value in values] + [value for value in values if not isinstance(value, Path)]

def write(path): path.write_text(str(os.getpid())); return path
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def abort(): print("malloc(): corrupted top size", file=sys.stderr, flush=True); os.abort()
def leave(): os._exit(3)
def sleep(path): path.write_text(str(os.getpid())); time.sleep(60)
def grow(): return len(bytes(3 * 2**30))
def refuse(): raise UnsupportedOperators("net: 2 operators: A, B")
def fail(): raise KeyError("layer")
def modules(): return sorted(sys.modules)
def noisy(): print("chatter"); return 1
def arrays(): return object()
"""


@pytest.fixture(autouse=True)
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_parser.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def call(name: str, *arguments: Any, **options: Any) -> Any:
    return run_in_child(f"foreign_parser:{name}", arguments, purpose="reading net.h5", **options)


def test_plain_values_and_paths_go_in_and_come_out(tmp_path: Path) -> None:
    assert call("echo", 1, "two", [3.5, None], {"a": True}, tmp_path) == [
        *("int", "str", "list", "dict", type(tmp_path).__name__),
        *(1, "two", [3.5, None], {"a": True}),
    ]


def test_the_function_runs_in_another_process_and_may_write_files(tmp_path: Path) -> None:
    call("write", tmp_path / "pid")
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_a_child_starts_fresh() -> None:
    assert "pytest" in sys.modules
    assert "pytest" not in call("modules")


def test_what_a_parser_prints_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("noisy") == 1
    assert capfd.readouterr() == ("", "")


def test_a_crash_is_an_invalid_model_that_names_the_file_and_the_signal() -> None:
    with pytest.raises(InvalidModel, match=r"^reading net\.h5: .*ended by SIGSEGV"):
        call("crash")


def test_the_last_words_of_an_aborted_parser_are_told() -> None:
    with pytest.raises(InvalidModel, match=r"SIGABRT.*corrupted top size"):
        call("abort")


def test_a_parser_that_ends_the_process_quietly_is_an_invalid_model() -> None:
    with pytest.raises(InvalidModel, match=r"reading net\.h5: .* status 3"):
        call("leave")


def test_a_parser_that_does_not_end_is_stopped_and_killed(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidModel, match=r"reading net\.h5: stopped after 3 s"):
        call("sleep", tmp_path / "pid", timeout_s=3)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_memory_beyond_the_limit_is_not_given() -> None:
    with pytest.raises(InvalidModel, match=r"reading net\.h5: it needs more than 1\.0 GiB"):
        call("grow", memory_bytes=2**30)
    assert call("grow", memory_bytes=8 * 2**30) == 3 * 2**30


def test_a_typed_error_comes_out_as_it_was() -> None:
    with pytest.raises(UnsupportedOperators, match=r"^net: 2 operators: A, B$"):
        call("refuse")


def test_any_other_exception_is_an_invalid_model_that_names_it() -> None:
    with pytest.raises(InvalidModel, match=r"reading net\.h5: KeyError: 'layer'"):
        call("fail")


def test_a_result_that_is_no_plain_value_is_told() -> None:
    with pytest.raises(InvalidModel, match=r"expected a plain value or a path, found object"):
        call("arrays")
