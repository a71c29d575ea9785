"""What `doctor` says of machines unlike this one."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import msgspec
import pytest

from tightship.core import extras, processor
from tightship.engines import ENGINES
from tightship.measure import doctor


def features_are(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(processor, "features", lambda: flags)


def put_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_every_engine_and_instruction_set_is_named() -> None:
    found = doctor.examine()
    assert [state.name for state in found.engines] == list(ENGINES)
    assert [feature.name for feature in found.features] == list(processor.FEATURES)


def test_the_diagnosis_goes_to_json_and_back() -> None:
    found = doctor.examine()
    assert msgspec.json.decode(msgspec.json.encode(found), type=doctor.Diagnosis) == found


def test_an_installed_engine_has_a_version_and_nothing_to_install() -> None:
    state = next(state for state in doctor.examine().engines if state.name == "onnxruntime")
    assert state.version[0].isdigit() and state.precisions == ("f32",) and not state.install


def test_a_missing_engine_says_what_it_gives_and_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "available", lambda module: module != "openvino")
    found = doctor.examine()
    state = next(state for state in found.engines if state.name == "openvino")
    assert state.version == "" and state.install == "pip install 'tightship[openvino]'"
    assert any(state.gives in line and state.install in line for line in found.advice)


def test_without_vnni_it_says_that_weights_are_kept_to_7_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    features_are(monkeypatch, "avx2")
    assert any("7 bits" in line for line in doctor.examine().advice)


@pytest.mark.parametrize("flag", ["avx_vnni", "avx512_vnni", "amx_int8"])
def test_with_8_bit_dot_products_it_does_not(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    features_are(monkeypatch, "avx2", flag)
    assert not any("7 bits" in line for line in doctor.examine().advice)


def test_where_instruction_sets_are_unknown_nothing_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    features_are(monkeypatch)
    advice = " ".join(doctor.examine().advice)
    assert "does not tell" in advice
    assert "VNNI" not in advice and "bfloat16" not in advice


def test_a_gpu_is_named_as_its_driver_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_nvidia_smi(monkeypatch, tmp_path, "echo 'NVIDIA H200'")
    assert doctor.examine().gpus == ("NVIDIA H200",)


@pytest.mark.parametrize("script", ["exit 9", "echo failed >&2; exit 1"])
def test_a_driver_that_fails_counts_as_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    put_nvidia_smi(monkeypatch, tmp_path, script)
    assert doctor.examine().gpus == ()


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from tightship.measure import doctor; doctor.examine(); "
        "print([name for name in ('torch', 'openvino', 'onnxruntime', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
