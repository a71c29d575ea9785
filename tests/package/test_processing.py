"""What a package declares about pictures, texts and sounds: read, fitted to its model, and kept in its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from tests.nets import conv_net
from tightship.api import packing
from tightship.cli.commands import inspect as inspect_command
from tightship.core.specs import TensorSpec
from tightship.errors import PackageError, UsageError
from tightship.package import open_package
from tightship.package.declaring import ProcessingFiles, read_labels
from tightship.package.fitting import fit
from tightship.package.manifest import read_manifest, write_json
from tightship.package.processing import AudioInput, ImageInput, LogMel, OutputMeaning, Processing, TextInput

PICTURE = Processing(image=ImageInput(range=(0.0, 1.0)))
SCORES = (TensorSpec("scores", "float32", ("N", 10)),)


def picture_model(*shape: int | str, dtype: str = "float32") -> tuple[TensorSpec, ...]:
    return (TensorSpec("pixels", dtype, shape),)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(conv_net(), path)
    return path


def declare(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "processing.toml"
    path.write_text(text)
    return path


def test_size_layout_and_colour_are_taken_from_the_model() -> None:
    fitted = fit(PICTURE, picture_model("N", 224, 192, 3), SCORES).image
    assert fitted == ImageInput(range=(0.0, 1.0), input="pixels", size=(224, 192), colour="RGB", layout="NHWC")
    grey = fit(PICTURE, picture_model(1, 1, 28, 28), SCORES).image
    assert (grey.size, grey.colour, grey.layout) == ((28, 28), "L", "NCHW")


def test_what_is_fitted_once_fits_again() -> None:
    inputs = picture_model("N", 3, 32, 32)
    declared = Processing(image=ImageInput(range=(0.0, 1.0)), outputs=OutputMeaning())
    fitted = fit(declared, inputs, SCORES)
    assert fit(fitted, inputs, SCORES) == fitted != declared


@pytest.mark.parametrize(
    ("image", "shape", "match"),
    [
        ({"size": (32, 32)}, (1, 3, 64, 64), "size .* does not fit"),
        ({"colour": "L"}, (1, 3, 64, 64), "L does not fit the 3 channels"),
        ({}, (1, 3, 3, 3), "which axis"),
        ({}, (1, 8, 64, 64), "which axis"),
        ({}, (1, 3, "h", "w"), "say which: size"),
        ({}, (4, 3, 64, 64), "takes 4 at a time"),
        ({}, (1, 3, 8, 64, 64), "has 5 axes"),
        ({"size": (8, 8), "colour": "L"}, (1, 784), "64 values do not fill"),
        ({"mean": (0.5, 0.5, 0.5), "colour": "L"}, (1, 1, 8, 8), "one number per channel"),
    ],
)
def test_a_picture_that_does_not_fit_is_told_why(
    image: dict[str, object], shape: tuple[int | str, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        fit(Processing(image=ImageInput(range=(0.0, 1.0), **image)), picture_model(*shape), SCORES)  # type: ignore[arg-type]


def test_inputs_that_nothing_fills_are_told() -> None:
    two = (*picture_model("N", 3, 8, 8), TensorSpec("scale", "float32", (1,)))
    with pytest.raises(ValueError, match="2 inputs"):
        fit(PICTURE, two, SCORES)
    tokens = (TensorSpec("input_ids", "int64", ("N", "T")), TensorSpec("position_ids", "int64", ("N", "T")))
    with pytest.raises(ValueError, match="nothing fills the input position_ids"):
        fit(Processing(text=TextInput(tokens="bytes")), tokens, SCORES)


def test_a_text_finds_the_usual_inputs_by_their_names() -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")
    tokens = tuple(TensorSpec(name, "int64", ("N", 64)) for name in names)
    text = fit(Processing(text=TextInput(tokens="bytes")), tokens, SCORES).text
    assert (text.input, text.mask, text.types, text.max_length) == (*names, 64)


def test_samples_are_taken_from_a_model_of_one_length() -> None:
    audio = fit(Processing(audio=AudioInput(rate_hz=8000)), picture_model(1, 4000), SCORES).audio
    assert audio.samples == 4000


def test_frames_that_do_not_fill_the_input_are_told() -> None:
    mel = LogMel(window=480, hop=320, fft=512, mels=40)
    declared = Processing(audio=AudioInput(rate_hz=16000, samples=16000, log_mel=mel))
    assert fit(declared, picture_model(1, 49, 40), SCORES).audio.input == "pixels"
    with pytest.raises(ValueError, match="49 frames of 40 do not fill"):
        fit(declared, picture_model(1, 50, 40), SCORES)


def test_labels_must_be_one_per_class() -> None:
    meaning = Processing(outputs=OutputMeaning())
    assert fit(meaning, picture_model(1, 3), SCORES, 10).outputs.output == "scores"
    with pytest.raises(ValueError, match="9 labels for the 10 values"):
        fit(meaning, picture_model(1, 3), SCORES, 9)
    with pytest.raises(ValueError, match="which output is meant"):
        fit(meaning, picture_model(1, 3), (*SCORES, TensorSpec("boxes", "float32", (1, 4))))


def test_a_package_holds_what_is_declared_and_its_files(tmp_path: Path, model: Path) -> None:
    toml = declare(tmp_path, '[image]\nrange = [0, 1]\n[outputs]\nlabels = "names.txt"\nactivation = "softmax"\n')
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    packing.pack([model], tmp_path / "net.ship", processing=ProcessingFiles(toml))
    with open_package(tmp_path / "net.ship") as package:
        found = package.manifest.processing
        assert found is not None and found.outputs is not None
        assert read_labels(bytes(package.read(found.outputs.labels)), "x") == ("ant", "bee", "cat", "dog")
    assert found.image == ImageInput(range=(0, 1), input="image", size=(8, 8), colour="L", layout="NCHW")
    assert (found.outputs.output, found.outputs.activation) == ("logits", "softmax")


def test_what_differs_between_two_declarations_is_shown(tmp_path: Path, model: Path) -> None:
    for name, text in (("a", ""), ("b", "[image]\nrange = [0, 1]\n"), ("c", "[image]\nrange = [0, 2]\n")):
        packing.pack([model], tmp_path / f"{name}.ship", "net", processing=ProcessingFiles(declare(tmp_path, text)))
    usual = "input image, size (8, 8), colour L, layout NCHW"
    (found,) = packing.diff(tmp_path / "b.ship", tmp_path / "c.ship")
    assert (found.name, found.first, found.second) == (
        "processing",
        f"image: range (0.0, 1.0), {usual}",
        f"image: range (0.0, 2.0), {usual}",
    )
    (found,) = packing.diff(tmp_path / "a.ship", tmp_path / "b.ship")
    assert (found.name, found.first) == ("processing", None)


def test_a_package_without_processing_is_written_as_before(tmp_path: Path, model: Path) -> None:
    packing.pack([model], tmp_path / "net.ship")
    with open_package(tmp_path / "net.ship") as package:
        assert package.manifest.processing is None
        assert b"processing" not in package.documents()["manifest.json"]


def test_inspect_shows_what_is_declared(tmp_path: Path, model: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    toml = declare(tmp_path, "[image]\nrange = [-1, 1]\n")
    packing.pack([model], tmp_path / "net.ship", processing=ProcessingFiles(toml, tmp_path / "names.txt"))
    shown = CliRunner().invoke(inspect_command.command, [str(tmp_path / "net.ship")]).output
    assert "image: range (-1.0, 1.0), input image, size (8, 8)" in shown
    assert "outputs: output logits, labels processing/labels.txt" in shown


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[image", "declares no processing"),
        ("[image]\n", "missing required field `range`"),
        ("[image]\nrange = [0, 1]\nsise = [8, 8]\n", "unknown name 'image.sise' .did you mean 'size'"),
        ("[image]\nrange = [1, 0]\n", "low less than high"),
        ("[image]\nrange = [0, inf]\n", "finite"),
        ("[image]\nrange = [0, 1]\nsize = [0, 8]\n", "size: 1 to 8192"),
        ("[image]\nrange = [0, 1]\nfit = 'squeeze'\n", "squeeze"),
        ("[image]\nrange = [0, 1]\n[audio]\nrate_hz = 16000\n", "one of image, text and audio"),
        ("[text]\ntokens = 'tokenizer'\n", "needs a file"),
        ("[outputs]\nlabels = 'absent.txt'\n", "absent.txt cannot be read"),
        ("[audio]\nrate_hz = 192000\nmax_seconds = 3600\n", "numbers of one sound"),
        ("[audio]\nrate_hz = 16000\n[audio.log_mel]\nwindow = 600\nhop = 10\nfft = 512\nmels = 40\n", "at most fft"),
        ("x = " + "[" * 20000, "declares no processing"),
    ],
)
def test_a_declaration_that_is_wrong_is_told_before_anything_is_written(
    tmp_path: Path, model: Path, text: str, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        packing.pack([model], tmp_path / "net.ship", processing=ProcessingFiles(declare(tmp_path, text)))
    assert not (tmp_path / "net.ship").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"a\n" * (1 << 21), b"x" * 2000], ids=len)
def test_files_that_are_no_labels_are_refused(tmp_path: Path, model: Path, content: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"labels\.txt|1 labels for the 4"):
        packing.pack([model], tmp_path / "net.ship", processing=ProcessingFiles(labels=tmp_path / "labels.txt"))


def test_labels_are_lines_or_a_json_list() -> None:
    assert read_labels(b"a b\r\nc\r\n", "x.txt") == ("a b", "c")
    assert read_labels(json.dumps(["\n", "b"]).encode(), "x.json") == ("\n", "b")
    with pytest.raises(PackageError, match="no list of labels"):
        read_labels(b'{"a": 1}', "x.json")


@pytest.mark.parametrize(
    ("processing", "match"),
    [
        ({"outputs": {"labels": "processing/labels.txt"}}, "names the file processing/labels.txt"),
        ({"image": {"range": [0, 1], "future": True}}, "unknown name 'processing.image.future'"),
        ({"smell": {}}, "unknown name"),
        ({"image": {"range": [0, 1], "size": [1, 10**9]}}, "size"),
    ],
)
def test_a_manifest_whose_processing_is_not_sound_is_refused(
    tmp_path: Path, model: Path, processing: dict[str, object], match: str
) -> None:
    manifest = packing.pack([model], tmp_path / "net.ship").manifest
    assert manifest is not None
    fields = {**json.loads(write_json(manifest)), "processing": processing}
    with pytest.raises(PackageError, match=match):
        read_manifest(json.dumps(fields).encode(), False)
