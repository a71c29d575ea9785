"""Networks that coremltools converted from torch and TensorFlow to the older kind, against their source."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import pytest
import torch
from torch import nn

from tests.formats.neural_network_cases import assert_close, run


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(12, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.recurrent(x)[0])


class Gru(nn.Module):
    """coremltools writes it as a loop with a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(12, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(x)[0][:, -1]


class Block(nn.Module):
    """A transformer block over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv, self.out = nn.Embedding(50, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.norm(x)).reshape(1, 10, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(1, 10, 32))
        return x + self.mlp(self.second(x))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.up, self.other = nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1)
        self.last = nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = torch.relu(self.top(x))
        down = torch.relu(self.norm(self.down(top)))
        return torch.sigmoid(self.last(torch.cat([top, self.up(down), self.other(down)], 1)))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, dilation=2, padding=2, groups=2),
        nn.ELU(),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 7),
    )


def mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 24, 1),
        nn.ReLU6(),
        nn.Conv2d(24, 24, 5, padding=2, groups=24),
        nn.BatchNorm2d(24),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.Softmax(-1),
    )


def over_time() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 8, padding=3),
        nn.GELU(),
        nn.MaxPool1d(3, 2, ceil_mode=True),
        nn.Conv1d(16, 8, 5, stride=2),
        nn.BatchNorm1d(8),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(112, 3),
    )


NETS = {
    "conv": (conv_net, (1, 3, 34, 34)),
    "mobile": (mobile, (1, 3, 32, 32)),
    "lstm": (Lstm, (2, 9, 12)),
    "gru": (Gru, (2, 9, 12)),
    "unet": (UNet, (1, 3, 32, 32)),
    "1-D conv": (over_time, (1, 4, 65)),
    "transformer": (Block, (1, 10)),
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def converted(model: Any, folder: Path, inputs: Any) -> Any:
    """Convert, save, and load the spec from the file."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = coremltools.convert(model, convert_to="neuralnetwork", inputs=inputs)
    result.save(str(folder / "net.mlmodel"))
    return coremltools.utils.load_spec(str(folder / "net.mlmodel"))


def sources(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = make().eval()
    for buffer in model.buffers():
        if buffer.dtype == torch.float32:
            buffer.data.uniform_(0.5, 1.5)
    x = torch.randint(0, 50, shape) if name == "transformer" else torch.rand(shape)
    with torch.no_grad():
        return model, x, model(x)


@pytest.mark.parametrize("name", NETS)
def test_a_network_from_torch_agrees_with_torch(name: str, tmp_path: Path) -> None:
    model, x, expected = sources(name)
    dtype = np.int32 if x.dtype == torch.int64 else np.float32
    traced = torch.jit.trace(model, x)
    spec = converted(traced, tmp_path, [coremltools.TensorType("x", shape=tuple(x.shape), dtype=dtype)])
    (found,) = run(spec, {"x": x.numpy()}).values()
    assert_close(found, expected.numpy(), 1e-6)


def test_an_image_network_has_its_scaling_inside(tmp_path: Path) -> None:
    model, _, _ = sources("conv")
    image = torch.randint(0, 256, (1, 3, 34, 34)).float()
    with torch.no_grad():
        expected = model(image / 127.5 - torch.tensor([1.0, 0.9, 0.8]).reshape(1, 3, 1, 1))
    traced = torch.jit.trace(model, image)
    kind = coremltools.ImageType("x", shape=(1, 3, 34, 34), scale=1 / 127.5, bias=[-1.0, -0.9, -0.8])
    (found,) = run(converted(traced, tmp_path, [kind]), {"x": image.numpy()}).values()
    assert_close(found, expected.numpy(), 1e-6)


def test_a_network_from_tensorflow_agrees_with_tensorflow(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    kernel = tf.constant(np.random.default_rng(0).standard_normal((3, 3, 3, 8)).astype(np.float32))
    dense = tf.constant(np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([1, 15, 16, 3], tf.float32, name="x")])
    def network(x: Any) -> Any:
        y = tf.nn.relu(tf.nn.conv2d(x, kernel, strides=2, padding="SAME"))
        y = tf.nn.avg_pool2d(y, 3, 2, "SAME")
        return tf.nn.softmax(tf.matmul(tf.reduce_mean(y, [1, 2]), dense))

    x = np.random.default_rng(2).random((1, 15, 16, 3)).astype(np.float32)
    function = network.get_concrete_function()
    spec = converted([function], tmp_path, [coremltools.TensorType("x", shape=x.shape)])
    (found,) = run(spec, {"x": x}).values()
    assert_close(found, network(tf.constant(x)).numpy(), 1e-6)
