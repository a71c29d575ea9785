"""The page on serving: every declaration of processing in it is one, and its first example gives the label it shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.serve.live import serving
from tightship.cli import main
from tightship.package.declaring import ProcessingFiles
from tightship.package.processing import AudioInput, ImageInput, LogMel, OutputMeaning, TextInput

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Pictures, texts and sounds")[1].split("\n## ")[0]
DECLARATIONS = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.parametrize("text", DECLARATIONS)
def test_every_declaration_on_the_page_is_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    (tmp_path / "imagenet.txt").write_text("a\nb\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    declared, _ = ProcessingFiles(tmp_path / "p.toml").load((), ())
    assert declared is not None and str(declared) != "tensors"


@pytest.mark.parametrize("kind", [ImageInput, TextInput, AudioInput, LogMel, OutputMeaning])
def test_every_field_is_explained(kind: type) -> None:
    missing = [name for name in kind.__dataclass_fields__ if f"`{name}`" not in SECTION]
    assert missing in ([], ["input"], ["log_mel"], ["input", "log_mel"])


def test_the_first_example_gives_the_answer_that_it_shows(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert")
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    folder = data_dir / "tflite_mobilenet_v1_025"
    shutil.copy(folder / "mobilenet_v1_0.25_224_1_default_1.tflite", tmp_path / "mobilenet.tflite")
    shutil.copy(folder / "burger.jpg", tmp_path)
    zipfile.ZipFile(folder / "mobilenet_v1_0.25_224_quant.tflite").extract("labels.txt", tmp_path)
    (tmp_path / "photos.toml").write_text(DECLARATIONS[0])
    monkeypatch.chdir(tmp_path)
    pack, _, curl = re.findall(r"^\$ (.*)", SECTION, re.MULTILINE)
    assert main(shlex.split(pack)[1:]) == 0
    with serving(tmp_path, [tmp_path / "photos.ship"], "--no-grpc") as server:
        words = shlex.split(curl.replace("http://127.0.0.1:8000", server.url))
        answer = json.loads(subprocess.run([*words, "--silent"], capture_output=True, check=True).stdout)
    (shown,) = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)
    for found, wanted in zip(answer["classes"], json.loads(shown)["classes"], strict=False):
        assert (found["label"], found["index"]) == (wanted["label"], wanted["index"])
        assert found["score"] == pytest.approx(wanted["score"], abs=0.01)  # Pillow and engines differ by a little
