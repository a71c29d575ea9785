"""Pictures: decoded by Pillow within bounds, turned upright, scaled, cut, and made numbers.

Scaling is Pillow's, which smooths when it makes smaller: what torchvision does, and Keras' `load_img`.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import extras
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.package.processing import ImageInput
from tightship.serve.failures import BadRequest, TooLarge

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "ImageReader"]

MAX_PIXELS = 64_000_000
"""A few bytes can say that they are a picture of gigabytes; this is 192 MB in memory, and more than phones take."""

LARGE_PIXELS = 16_000_000
"""A JPEG above this is decoded at half its size, or a quarter, ..., as long as that is twice what is needed."""

MAX_DECODING = 4
"""So many at a time; the others wait, so that many large pictures at once take no more memory than these."""

FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/gif": "GIF",
}


class ImageReader:
    """Makes one input of a picture. What is drawn in it counts, not how it is turned or which kind is claimed."""

    content_types = (*FORMATS, "image/*")

    def __init__(self, image: ImageInput, spec: TensorSpec) -> None:
        pillow = extras.require("PIL.Image", "reading pictures")
        warnings.simplefilter("ignore", pillow.DecompressionBombWarning)  # of a bound that is twice as wide as ours
        self._image = image
        self._spec = spec
        assert image.size is not None  # the declaration was fitted to the model
        longest = 2 * max(*image.size, image.shorter_side)
        self._enough = (longest, longest)
        self._slots = threading.BoundedSemaphore(MAX_DECODING)

    def read(self, body: bytes, parameters: Mapping[str, str]) -> Arrays:
        """Return the input by its name."""
        with self._slots, self._decoded(body) as picture:
            pixels = np.asarray(self._fitted(_plain(picture, self._image.colour == "L")))
        return {self._spec.name: self._values(pixels)}

    def _decoded(self, body: bytes) -> Image:
        """Open and decode. Only formats named here, whatever else Pillow knows; of a moving picture the first frame."""
        from PIL import Image as pillow
        from PIL import ImageOps

        try:
            picture = pillow.open(io.BytesIO(body), formats=sorted(set(FORMATS.values())))
            if picture.width * picture.height > MAX_PIXELS:
                raise TooLarge(f"the picture has {picture.width} x {picture.height} pixels; {MAX_PIXELS:,} are allowed")
            if picture.format == "JPEG" and picture.width * picture.height > LARGE_PIXELS:
                picture.draft(None, self._enough)
            picture.load()
            return ImageOps.exif_transpose(picture)
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
            told = "not JPEG, PNG, WebP, BMP or GIF" if "cannot identify" in str(error) else str(error)[:200]
            raise BadRequest(f"the body is no picture that can be read: {told}") from error
        except (pillow.DecompressionBombError, pillow.DecompressionBombWarning, MemoryError) as error:
            raise TooLarge(f"the picture has too many pixels; {MAX_PIXELS:,} are allowed") from error

    def _fitted(self, picture: Image) -> Image:
        """The picture in the model's size, (height, width)."""
        image = self._image
        assert image.size is not None
        height, width = image.size
        if image.fit == "stretch":
            return self._scaled(picture, height, width)
        if image.fit == "crop":
            shorter = image.shorter_side
            ratio = shorter / min(picture.size) if shorter else max(height / picture.height, width / picture.width)
            scaled = self._scaled(picture, *_times(picture, ratio, (height, width)))
            top, left = round((scaled.height - height) / 2), round((scaled.width - width) / 2)
            return scaled.crop((left, top, left + width, top + height))
        from PIL import Image as pillow

        scaled = self._scaled(picture, *_times(picture, min(height / picture.height, width / picture.width), (1, 1)))
        canvas = pillow.new(picture.mode, (width, height))
        canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
        return canvas

    def _scaled(self, picture: Image, height: int, width: int) -> Image:
        from PIL import Image as pillow

        if height * width > MAX_PIXELS:  # a line of pixels, blown up until its shorter side fits
            raise BadRequest(f"a picture of {picture.width} x {picture.height} cannot be cut to the model's size")
        if picture.size == (width, height):
            return picture
        return picture.resize((width, height), pillow.Resampling[self._image.interpolation.upper()])

    def _values(self, pixels: np.ndarray) -> np.ndarray:
        """[height, width] or [height, width, 3] in uint8 as the model's input: its layout, type and shape."""
        image, dtype = self._image, np.dtype(self._spec.dtype)
        low, high = image.range
        found = np.atleast_3d(pixels)
        found = found[:, :, ::-1] if image.colour == "BGR" else found
        if dtype == np.uint8 and (low, high) == (0.0, 255.0) and not (image.mean or image.std):
            values = found
        else:
            values = found.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)
            values = (values - np.array(image.mean or (0,), np.float32)) / np.array(image.std or (1,), np.float32)
        values = values.transpose(2, 0, 1) if image.layout == "NCHW" else values
        if dtype.kind in "iu" and values.dtype != dtype:
            bounds = np.iinfo(dtype)
            values = np.clip(np.rint(values), bounds.min, bounds.max)
        shape = {4: values.shape, 3: pixels.shape[:2]}.get(len(self._spec.shape), (values.size,))
        return np.ascontiguousarray(values, dtype).reshape(1, *shape)


def _plain(picture: Image, grey: bool) -> Image:
    """In RGB or grey, 8 bits a channel; what has 16 loses the lower half, and transparency counts for nothing."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        from PIL import Image as pillow

        picture = pillow.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return picture.convert("L" if grey else "RGB")


def _times(picture: Image, ratio: float, least: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled by a ratio, and not less than `least`; cut off as torchvision does, not rounded."""
    exact = 1e-6  # of a pixel: a side that is meant to be whole must not lose one to floating point
    return max(int(picture.height * ratio + exact), least[0]), max(int(picture.width * ratio + exact), least[1])
