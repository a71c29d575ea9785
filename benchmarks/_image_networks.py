"""A depthwise CNN and a small vision transformer, trained on real images in about two minutes each on one core.

The images are 5,000 MNIST digits, 900 of Fashion-MNIST and the 1,797 digits of scikit-learn, told apart as 30 classes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.report import BUILD
from tightship import bridges, formats
from tightship.core.artifact import Artifact
from tightship.core.torch_module import from_torch
from tightship.passes.simplify import Simplify

__all__ = ["NETWORKS", "Images", "images", "trained"]

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))
N_CLASSES = 30
N_TRAINING = 5000
BATCH = 64
INPUT = "image"


@dataclass(frozen=True)
class Images:
    """Images `[N, 1, 28, 28]`, float32 of mean 0 and deviation 1, and their classes `[N]`."""

    x: np.ndarray
    y: np.ndarray


def images() -> tuple[Images, Images]:
    """Images to train on, and those that neither training nor calibration sees."""
    from sklearn.datasets import load_digits

    mnist = np.load(DATA / "mnist_onnx" / "mnist_first5000.npz")
    fashion = np.load(DATA / "data_fashion_mnist" / "fashion_mnist_900.npz")
    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None] * (255 / 16)
    large = functional.interpolate(small, (28, 28), mode="bilinear").numpy()
    parts = [mnist["x"].reshape(-1, 1, 28, 28), fashion["x"].reshape(-1, 1, 28, 28), large]
    x = np.concatenate([part.astype(np.float32) for part in parts])
    y = np.concatenate([mnist["y"].astype(np.int64), 10 + fashion["y"].astype(np.int64), 20 + digits.target])
    x = (x - x.mean()) / x.std()
    order = np.random.default_rng(0).permutation(len(x))
    kept, held = order[:N_TRAINING], order[N_TRAINING:]
    return Images(x[kept], y[kept]), Images(x[held], y[held])


def trained(name: str) -> Path:
    """The trained network as a simplified ONNX file, made once for each edition of this file."""
    edition = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = BUILD / "networks" / f"images-{edition}" / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        module = _train(NETWORKS[name](), images()[0])
        formats.write(bridges.route(from_torch(module, (torch.zeros(1, 1, 28, 28),)), "graph"), path)
        formats.write(Simplify().apply(formats.read(Artifact(path, "onnx"))).model, path)
    return path


class DepthwiseCnn(nn.Sequential):
    """Depthwise-separable convolutions as in MobileNetV1 (arXiv:1704.04861), with ReLU: 0.2 million parameters."""

    def __init__(self) -> None:
        blocks = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
        layers = [*_convolution(1, 32, 3, 2)]
        for n_in, n_out, stride in blocks:
            layers += [*_convolution(n_in, n_in, 3, stride, n_in), *_convolution(n_in, n_out, 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, N_CLASSES))


class SmallVit(nn.Module):
    """A vision transformer (arXiv:2010.11929) of 3 layers on 16 patches, no class token: 1.4 million parameters."""

    def __init__(self, width: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(torch.randn(16, width) * 0.02)
        self.layers = nn.Sequential(*(_Layer(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, N_CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits


class _Layer(nn.Module):
    def __init__(self, width: int, n_heads: int = 3) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        query, key, value = (
            layer(normed).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.norm2(x))))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"depthwise cnn": DepthwiseCnn, "small vit": SmallVit}
N_EPOCHS = {"DepthwiseCnn": 5, "SmallVit": 6}


def _convolution(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    layer = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return layer, nn.BatchNorm2d(n_out), nn.ReLU()


def _train(module: nn.Module, data: Images) -> nn.Module:
    torch.manual_seed(0)
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    n_epochs = N_EPOCHS[type(module).__name__]
    n_steps = n_epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3 if isinstance(module, SmallVit) else 4e-3, n_steps)
    module.train()
    for epoch in range(n_epochs):
        for rows in torch.randperm(len(x))[: n_steps // n_epochs * BATCH].split(BATCH):
            loss = functional.cross_entropy(module(_shifted(x[rows])), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"{type(module).__name__} epoch {epoch + 1} of {n_epochs}: loss {loss.item():.3f}", flush=True)
    return module.eval()


def _shifted(x: Tensor) -> Tensor:
    """Each batch moved by up to two pixels, so that a few epochs generalise."""
    down, right = (int(shift) for shift in torch.randint(-2, 3, (2,)))
    return torch.roll(x, (down, right), (2, 3))
