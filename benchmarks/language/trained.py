"""The decoder trained once: weights, windows and ONNX file lie in a folder named after their definition."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import BUILD
from tightship.core import atomic

if TYPE_CHECKING:
    from benchmarks.language.decoder import Decoder


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training left in `folder`."""

    folder: Path

    @property
    def onnx(self) -> Path:
        return self.folder / "decoder.onnx"

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def calibration(self) -> np.ndarray:
        """int64 `[windows, length]`."""
        tokens: np.ndarray = np.load(self.folder / "calibration.npy")
        return tokens

    @property
    def held_out(self) -> np.ndarray:
        """int64 `[windows, length]`."""
        tokens: np.ndarray = np.load(self.folder / "held_out.npy")
        return tokens

    def module(self) -> Decoder:
        """The float decoder in PyTorch."""
        from safetensors.torch import load_file

        from benchmarks.language.decoder import Decoder

        decoder = Decoder()
        decoder.load_state_dict(load_file(self.weights))
        return decoder.eval()


def trained() -> Trained:
    """Return the trained decoder, trained now (minutes on one core) where it is not there yet."""
    from safetensors.torch import save_file

    from benchmarks.language import text, training

    sources = (Path(__file__).with_name(name).read_bytes() for name in ("text.py", "decoder.py", "training.py"))
    edition = hashlib.sha256(b"".join(sources)).hexdigest()[:8]
    found = Trained(BUILD / "language" / edition)
    if not found.onnx.exists():
        found.folder.mkdir(parents=True, exist_ok=True)
        windows = text.build(found.folder / "tokenizer.json")
        np.save(found.folder / "calibration.npy", windows.calibration)
        np.save(found.folder / "held_out.npy", windows.held_out)
        if not found.weights.exists():
            decoder = training.train(windows.training)
            with atomic.writing(found.weights) as temporary:
                save_file(decoder.state_dict(), temporary)
        export(found)
    return found


def export(found: Trained) -> None:
    """Write `decoder.onnx`, by our own bridge."""
    import torch

    from tightship import bridges, formats
    from tightship.core.torch_module import from_torch

    example = torch.from_numpy(found.held_out[:1])
    formats.write(bridges.route(from_torch(found.module(), (example,)), "graph"), found.onnx)


if __name__ == "__main__":
    print(trained().folder)
