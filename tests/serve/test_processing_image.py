"""Pictures become what torchvision and Pillow would make of them, and hostile ones a typed error."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from tightship.core.specs import TensorSpec
from tightship.package.processing import ImageInput, OutputMeaning, Processing
from tightship.serve.failures import BadRequest, TooLarge
from tightship.serve.processing import Processor, ready
from tightship.serve.processing.image import LARGE_PIXELS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCORES = (TensorSpec("scores", "float32", ("N", 10)),)


def processor(image: ImageInput, shape: tuple[int | str, ...], dtype: str = "float32") -> Processor:
    spec = TensorSpec("pixels", dtype, shape)
    return ready(Processing(image=image, outputs=OutputMeaning()), (spec,), SCORES, {}.__getitem__)


def made(image: ImageInput, shape: tuple[int | str, ...], picture: Image.Image, dtype: str = "float32") -> np.ndarray:
    return processor(image, shape, dtype).prepare(encoded(picture), "image/png")["pixels"]


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth enough to be scaled, with something different everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin((x * a + y * b) / 9.0 + c) for a, b, c in ((1, 0.3, 0), (0.4, 1, 1), (-1, 1, 2))]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode)


def test_scaling_and_cutting_are_those_of_torch_vision_classifiers() -> None:
    picture = photo(301, 223)
    image = ImageInput(range=(0.0, 1.0), size=(64, 64), shorter_side=73, mean=MEAN, std=STD)
    found = made(image, ("N", 3, 64, 64), picture)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(pixels, (73, 73 * 301 // 223), mode="bilinear", antialias=True)
    top, left = round((73 - 64) / 2), round((scaled.shape[3] - 64) / 2)
    cut = scaled[:, :, top : top + 64, left : left + 64].float() / 255
    wanted = (cut - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    # Both round to whole pixels in between, and may round a half differently: one step of 1/255, divided by std.
    assert np.abs(found - wanted.numpy()).max() <= 1.01 / 255 / min(STD)
    assert np.mean(np.abs(found - wanted.numpy())) < 0.1 / 255 / min(STD)


def test_a_picture_of_the_model_s_size_is_taken_as_it_is() -> None:
    picture = photo(32, 32)
    found = made(ImageInput(range=(0.0, 1.0)), (1, 3, 32, 32), picture)
    np.testing.assert_array_equal(found[0], np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_stretching_is_pillow_s(name: str) -> None:
    picture = photo(50, 31)
    image = ImageInput(range=(0.0, 255.0), fit="stretch", interpolation=name)  # type: ignore[arg-type]
    found = made(image, (1, 20, 24, 3), picture, "uint8")
    np.testing.assert_array_equal(found[0], np.asarray(picture.resize((24, 20), Image.Resampling[name.upper()])))


def test_padding_keeps_the_whole_picture_and_its_shape() -> None:
    white = Image.new("L", (40, 10), 255)
    found = made(ImageInput(range=(0.0, 1.0), fit="pad"), (1, 1, 20, 20), white)[0, 0]
    np.testing.assert_array_equal(found.sum(1), [0.0] * 7 + [20.0] * 5 + [0.0] * 8)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 8), (4000, 3)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_every_shape_of_picture_gives_the_model_s_shape(size: tuple[int, int], fit: str) -> None:
    image = ImageInput(range=(0.0, 1.0), fit=fit)  # type: ignore[arg-type]
    assert made(image, (1, 3, 8, 9), photo(*size)).shape == (1, 3, 8, 9)


def test_colours_come_in_the_order_that_is_declared() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for colour, channel in (("RGB", 0), ("BGR", 2)):
        image = ImageInput(range=(0.0, 1.0), colour=colour)  # type: ignore[arg-type]
        assert made(image, (1, 3, 4, 4), red)[0, :, 0, 0].tolist() == [float(channel == index) for index in range(3)]
    assert made(ImageInput(range=(0.0, 255.0)), (1, 4, 4, 1), red, "uint8")[0, 0, 0, 0] == 76  # ITU-R 601 luma


def test_whole_numbers_are_rounded_and_held_within_their_type() -> None:
    picture = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    assert made(ImageInput(range=(-128.0, 127.0)), (1, 1, 1, 4), picture, "int8").ravel().tolist() == [-128, -1, 0, 127]
    assert made(ImageInput(range=(0.0, 510.0)), (1, 1, 1, 4), picture, "uint8").ravel().tolist() == [0, 254, 255, 255]


def test_a_model_of_rows_gets_the_pixels_in_one() -> None:
    picture = photo(4, 3, "L")
    found = made(ImageInput(range=(0.0, 255.0), size=(3, 4), colour="L"), ("N", 12), picture)
    assert found.shape == (1, 12)
    np.testing.assert_array_equal(found[0], np.asarray(picture).ravel())


def test_a_camera_that_was_held_on_its_side_gives_an_upright_picture() -> None:
    upright = photo(8, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the camera's note of it
    body = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    found = processor(ImageInput(range=(0.0, 255.0)), (1, 16, 8, 3)).prepare(body, "image/png")["pixels"][0]
    np.testing.assert_array_equal(found, np.asarray(upright))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_of_picture_is_read(mode: str) -> None:
    wanted = photo(8, 8)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(wanted.convert("L")).astype(np.uint16) * 257)
    else:
        picture = wanted.convert(mode)
    body = encoded(picture, "JPEG" if mode == "CMYK" else "PNG")
    found = processor(ImageInput(range=(0.0, 255.0)), (1, 8, 8, 3)).prepare(body, "image/*")["pixels"][0]
    wanted = wanted if mode in ("P", "RGBA", "CMYK") else Image.open(io.BytesIO(encoded(wanted.convert("L"))))
    far = {"1": 256, "P": 60, "CMYK": 30}.get(mode, 0)  # dithered; of few colours; JPEG
    assert np.abs(found - np.asarray(wanted.convert("RGB")).astype(np.float32)).max() <= far


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_the_usual_formats_are_read_whatever_the_content_type_claims(kind: str) -> None:
    body = encoded(photo(16, 16), kind)
    found = processor(ImageInput(range=(0.0, 1.0)), (1, 3, 16, 16)).prepare(body, "image/jpeg; q=1")
    assert found["pixels"].std() > 0.1


def test_a_very_large_photograph_is_decoded_smaller_and_shows_the_same() -> None:
    small = photo(300, 212)
    picture = small.resize((4800, 3392), Image.Resampling.NEAREST)
    image = ImageInput(range=(0.0, 1.0))
    found = processor(image, (1, 3, 64, 64)).prepare(encoded(picture, "JPEG", quality=95), "image/jpeg")["pixels"]
    assert picture.width * picture.height > LARGE_PIXELS
    assert np.abs(found - made(image, (1, 3, 64, 64), small)).max() < 6 / 255


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that claims to be a picture of very many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(30_000, 30_000), (2**31 - 1, 1), (8000, 8001)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(sides: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="pixels"):
        processor(ImageInput(range=(0.0, 1.0)), (1, 3, 8, 8)).prepare(bomb(*sides), "image/png")


def test_a_line_of_pixels_is_not_blown_up_without_bounds() -> None:
    with pytest.raises(BadRequest, match="cannot be cut"):
        made(ImageInput(range=(0.0, 1.0)), (1, 3, 512, 512), Image.new("RGB", (40_000, 1)))


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", encoded(photo(8, 8), "TIFF")],
    ids=["empty", "text", "png magic", "postscript", "svg", "tiff"],
)
def test_what_is_no_picture_of_a_known_format_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="no picture that can be read"):
        processor(ImageInput(range=(0.0, 1.0)), (1, 3, 8, 8)).prepare(body, "image/png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_damaged_pictures_are_read_or_refused_and_nothing_else(kind: str) -> None:
    whole = bytearray(encoded(photo(16, 16), kind))
    read: Callable[[bytes, str], object] = processor(ImageInput(range=(0.0, 1.0)), (1, 3, 8, 8)).prepare
    rng = np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(0, 256)
        for body in (bytes(damaged), bytes(whole[: rng.integers(0, len(whole))])):
            try:
                read(body, "image/png")
            except (BadRequest, TooLarge):
                continue


def test_another_kind_of_body_is_told_what_is_taken() -> None:
    with pytest.raises(BadRequest, match="does not take text/plain; it takes image/jpeg"):
        processor(ImageInput(range=(0.0, 1.0)), (1, 3, 8, 8)).prepare(b"x", "text/plain")
