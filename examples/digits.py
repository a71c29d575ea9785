"""Train a small convolutional network on scikit-learn's digits and write it as ONNX, with the images it never saw.

python examples/digits.py FOLDER    ->  FOLDER/digits.onnx, FOLDER/held_out.npz
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

N_TRAINING = 600
N_EPOCHS = 15


def network() -> nn.Module:
    """Four convolutions and a classifier; input [batch, 1, 8, 8] in 0..1, output 10 logits."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 16), (16, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10))


def images() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 images as float32 [n, 1, 8, 8] in 0..1 with their labels, in a fixed random order."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return (digits.images[order, None] / 16).astype(np.float32), digits.target[order]


def train(x: np.ndarray, y: np.ndarray) -> nn.Module:
    """Train for a few seconds, shifting images by up to one pixel."""
    torch.manual_seed(0)
    net, inputs, labels = network(), torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_EPOCHS)
    for _ in range(N_EPOCHS):
        for index in torch.randperm(len(inputs)).split(32):
            shift = tuple(torch.randint(-1, 2, (2,)).tolist())
            loss = nn.functional.cross_entropy(net(inputs[index].roll(shift, (2, 3))), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def main(folder: Path) -> None:
    """Train, and write the network and the held-out images."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    folder.mkdir(parents=True, exist_ok=True)
    x, y = images()
    net = train(x[:N_TRAINING], y[:N_TRAINING])
    torch.onnx.export(
        net,
        (torch.from_numpy(x[:2]),),
        folder / "digits.onnx",
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    np.savez(folder / "held_out.npz", image=x[N_TRAINING:], labels=y[N_TRAINING:])
    with torch.inference_mode():
        correct = net(torch.from_numpy(x[N_TRAINING:])).argmax(1).numpy() == y[N_TRAINING:]
    print(f"trained on {N_TRAINING} images, {correct.mean():.2%} of {len(correct)} held-out images right")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/digits"))
