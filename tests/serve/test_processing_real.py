"""Real networks with real pictures, texts and sounds: what is posted gets the labels that a person would give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tightship.api import packing
from tightship.package import open_package
from tightship.package.declaring import ProcessingFiles
from tightship.package.opening import open_session
from tightship.serve.processing import ready

KEYWORDS = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown"]

MFCC = """
[audio]
rate_hz = 16000
samples = 16000
peak = true
[audio.log_mel]  # MLPerf Tiny, benchmark/training/keyword_spotting/get_dataset.py
window = 480
hop = 320
fft = 512
mels = 40
low_hz = 20.0
high_hz = 4000.0
mel_scale = "htk"
triangles = "mel"
power = 1
coefficients = 10
"""


def classes(
    model: Path, toml: str, labels: list[str] | None, bodies: list[tuple[bytes, str]], folder: Path
) -> list[dict]:
    """Pack a model with its processing, and answer bodies as the server does: the best class of each."""
    (folder / "p.toml").write_text(toml)
    (folder / "labels.txt").write_text("\n".join(labels or ()))
    files = ProcessingFiles(folder / "p.toml", folder / "labels.txt" if labels else None)
    packing.pack([model], folder / "net.ship", processing=files)
    with open_package(folder / "net.ship") as package, open_session(folder / "net.ship") as session:
        declared = package.manifest.processing
        assert declared is not None
        processor = ready(declared, session.inputs, session.outputs, package.read)
        return [processor.interpret(session.run(processor.prepare(*body)))["classes"][0] for body in bodies]


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_photograph_of_a_burger_is_called_a_cheeseburger(data_dir: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = data_dir / "tflite_mobilenet_v1_025"
    body = (folder / "burger.jpg").read_bytes()
    if kind == "png":
        Image.open(folder / "burger.jpg").save(tmp_path / "burger.png")
        body = (tmp_path / "burger.png").read_bytes()
    labels = [f"class {index}" for index in range(1001)]
    labels[934] = "cheeseburger"  # ImageNet's 933, after one for the background
    toml = '[image]\nrange = [-1, 1]\nfit = "stretch"\n'
    (best,) = classes(
        folder / "mobilenet_v1_0.25_224_1_default_1.tflite", toml, labels, [(body, f"image/{kind}")], tmp_path
    )
    assert best["label"] == "cheeseburger"
    assert best["score"] > 0.95


@pytest.mark.parametrize(
    "name", ["mlperf_tiny/kws_ref_model_float32.tflite", "mlperf_tiny_alibaba_onnx/model_kws.onnx"]
)
def test_a_voice_that_says_yes_is_heard_and_silence_too(data_dir: Path, tmp_path: Path, name: str) -> None:
    if name.endswith("tflite"):
        pytest.importorskip("ai_edge_litert")
    wavs = [
        ((data_dir / "tflite_micro" / f"{word}_1000ms.wav").read_bytes(), "audio/wav") for word in ("yes", "silence")
    ]
    toml = MFCC + '[outputs]\nactivation = "softmax"\n' if name.endswith("onnx") else MFCC
    yes, silence = classes(data_dir / name, toml, KEYWORDS, wavs, tmp_path)
    assert (yes["label"], silence["label"]) == ("yes", "silence")
    assert min(yes["score"], silence["score"]) > 0.8


def test_handwritten_digits_posted_as_pictures_get_the_label_that_their_tensors_get(
    data_dir: Path, tmp_path: Path
) -> None:
    model, pixels = (
        data_dir / "mnist_onnx" / "mnist.onnx",
        np.load(data_dir / "mnist_onnx" / "mnist_first5000.npz")["x"],
    )
    bodies = []
    for digit in pixels[:100]:
        Image.fromarray(digit).save(tmp_path / "digit.png")
        bodies.append(((tmp_path / "digit.png").read_bytes(), "image/png"))
    found = classes(model, "[image]\nrange = [0, 255]\n", list("0123456789"), bodies, tmp_path)
    with open_session(tmp_path / "net.ship") as session:
        for digit, best in zip(pixels, found, strict=False):
            scores = session.run({"Input3": digit[None, None].astype(np.float32)})["Plus214_Output_0"][0]
            assert (best["label"], best["score"]) == (str(scores.argmax()), scores.max())


@pytest.mark.slow  # TensorFlow, to build and to run it
def test_a_text_is_continued_with_the_letter_that_follows(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from examples.zoo.keras_models import textgenrnn

    folder = data_dir / "textgenrnn"
    textgenrnn(folder / "textgenrnn_weights.hdf5").save(tmp_path / "next.keras")
    numbers = json.loads((folder / "textgenrnn_vocab.json").read_text())
    labels = {number: character for character, number in numbers.items()}
    (tmp_path / "labels.json").write_text(json.dumps([labels.get(number, "") for number in range(465)]))
    toml = (
        f'[text]\ntokens = "characters"\nvocabulary = "{folder}/textgenrnn_vocab.json"\nkeep = "end"\n'
        'pad_side = "left"\n[outputs]\nlabels = "labels.json"\n'
    )
    texts = {"Happy birthda": "y", "Can you explai": "n", "New York Cit": "y", "x" * 50 + " Why is the sk": "i"}
    bodies = [(text.encode(), "text/plain") for text in texts]
    found = classes(tmp_path / "next.keras", toml, None, bodies, tmp_path)
    assert [best["label"] for best in found] == list(texts.values())
