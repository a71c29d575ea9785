"""The command line as a person types it: answers, errors and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tightship.cli import main
from tightship.core import atomic
from tightship.passes import PASSES


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(nets.save(nets.conv_net(), tmp_path))


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_help_shows_an_example_of_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "tightship optimize model.onnx --data calib.npz --max-drop 0.01 -o out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["optimize", "inspect", "check", "bench", "compress", "doctor", "recipes"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"tightship {name}" in capsys.readouterr().out


def test_inspect_tells_inputs_and_operators(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", model) == 0
    out = capsys.readouterr().out
    assert "float32[N, 1, 8, 8]" in out and "Conv 2" in out


def test_inspect_as_json_counts_parameters(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_parameters"] == 16 * 9 + 16 + 32 * 16 * 9 + 32 + 4 * 32 + 4


def test_check_of_a_model_with_itself_agrees(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", model, model) == 0
    assert "they compute the same" in capsys.readouterr().out


def test_check_of_different_models_ends_with_7_and_names_an_operator(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = nets.save(nets.conv_net(seed=1), tmp_path, "other.onnx")
    assert run("check", model, other) == 7
    out = capsys.readouterr().out
    assert "they differ" in out and "first operator that differs" in out


def test_bench_compares_with_the_first(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", model, model, "--engine", "onnxruntime", "--seconds", "0.1", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["ratio"] is None and rows[1]["ratio"]["median"] > 0


def test_doctor_names_every_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)["engines"]} >= {"onnxruntime", "openvino"}


def test_recipes_lists_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == set(PASSES)


@pytest.mark.parametrize("name", list(PASSES))
def test_every_pass_can_be_applied_by_its_name(name: str, model: str, tmp_path: Path) -> None:
    assert run("compress", name, model, "-o", tmp_path / "made.onnx", "--calibration", 8) == 0
    assert (tmp_path / "made.onnx").stat().st_size > 0


def test_the_fields_of_a_pass_are_its_flags(model: str, tmp_path: Path) -> None:
    for bits in (4, 8):
        assert run("compress", "weight-only", model, "--bits", bits, "-o", tmp_path / f"{bits}.onnx") == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["inspect", "missing.onnx"], 3, "missing.onnx"),
        (["inspect", "model.docx"], 3, "no format has this suffix"),
        (["inspect", "no_such_module_at_all:function"], 3, "cannot import"),
        (["optimize", "{model}", "--data", "missing.npz"], 4, "no such file"),
        (["optimize", "{model}", "--engine", "tensorrt"], 2, "unknown engine"),
        (["optimize", "{model}", "--metric", "acuracy"], 2, "did you mean 'accuracy'"),
        (["optimize", "{model}", "--max-drop", "-1"], 2, "max drop must be zero or more"),
        (["optimize", "{model}", "--recipe", "missing.toml"], 2, "cannot read recipe"),
        (["optimize", "{model}", "-o", "/proc/nowhere/out"], 10, "cannot write"),
        (["compress", "int8-statc", "{model}", "-o", "x.onnx"], 2, "did you mean 'int8-static'"),
        (["optimise"], 2, "optimise"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    words: list[str], code: int, message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(word.format(model=model) for word in words)) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_error_as_json_carries_its_type_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "missing.onnx", "--json") == 3
    assert json.loads(capsys.readouterr().out)["error"] == "ArtifactNotFound"


def test_labels_of_another_length_are_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "d.npz", image=np.zeros((8, 1, 8, 8), np.float32), labels=np.zeros(7))
    assert run("optimize", model, "--data", tmp_path / "d.npz") == 4
    assert "image 8, labels 7" in capsys.readouterr().err


def test_optimize_prints_the_choice_and_where_the_report_is(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("optimize", model, "--engine", "onnxruntime", "-o", tmp_path / "out", "--seconds", 0.05) == 0
    out = capsys.readouterr().out
    assert "report.html" in out and "takes the place of accuracy" in out


def test_a_killed_run_continues_to_the_same_answer_and_leaves_nothing_torn(model: str, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    words = [
        sys.executable,
        "-m",
        "tightship",
        "optimize",
        model,
        "--work",
        str(work),
        "-o",
        str(out),
        "--json",
        "--seconds",
        "0.2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for seconds in (1.5, 3.0, 5.0, 8.0):
        started = subprocess.Popen([*words, "--goal", "size"], stdout=subprocess.DEVNULL, env=environment)
        try:
            started.wait(seconds)
        except subprocess.TimeoutExpired:
            started.kill()
        started.wait()
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*.json")}
    first, again = (
        subprocess.run([*words, "--goal", "size"], capture_output=True, check=False, env=environment) for _ in range(2)
    )
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "a finished step was done again"
    assert not [child for child in (*work.iterdir(), *tmp_path.iterdir()) if child.name.startswith(".tmp-")]
    assert atomic.sweep(tmp_path) == 0
