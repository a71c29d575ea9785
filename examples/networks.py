"""Well-known networks in plain PyTorch, with random weights that behave like trained ones.

    tightship optimize examples.networks:resnet50 -o out

A freshly initialised network gives nearly the same output for every input, and then every change to it looks harmless.
So weights are seeded and scaled such that outputs differ, and differ no more after rounding than in trained networks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["bert_base", "lstm", "mobilenet_v3_large", "resnet50", "vit_tiny"]

N_NOISE = 8
"""Inputs of noise on which statistics are measured."""


def resnet50() -> tuple[nn.Module, Tensor]:
    """ResNet-50 (arXiv:1512.03385, stride on the 3x3 convolution): 25.6 million parameters."""
    torch.manual_seed(0)
    return settle(ResNet50(), torch.randn(N_NOISE, 3, 224, 224)), torch.randn(1, 3, 224, 224)


def mobilenet_v3_large() -> tuple[nn.Module, Tensor]:
    """MobileNetV3-Large (arXiv:1905.02244, table 1): 5.5 million parameters."""
    torch.manual_seed(0)
    return settle(MobileNetV3Large(), torch.randn(N_NOISE, 3, 224, 224)), torch.randn(1, 3, 224, 224)


def vit_tiny() -> tuple[nn.Module, Tensor]:
    """ViT-Ti/16 (arXiv:2012.12877): 5.7 million parameters."""
    torch.manual_seed(0)
    return settle(VisionTransformer(), torch.randn(N_NOISE, 3, 224, 224)), torch.randn(1, 3, 224, 224)


def lstm() -> tuple[nn.Module, Tensor]:
    """A classifier of series with two LSTM layers: 0.9 million parameters."""
    torch.manual_seed(0)
    return settle(LstmClassifier(), torch.randn(N_NOISE, 100, 64)), torch.randn(1, 100, 64)


def bert_base() -> tuple[nn.Module, dict[str, Tensor]]:
    """BERT-base (arXiv:1810.04805) of the transformers library, on 128 tokens: 109 million parameters."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    module = BertModel(BertConfig()).eval()
    tokens = torch.randint(1000, 30000, (N_NOISE + 1, 128))
    with torch.no_grad():
        hidden = module(tokens[1:]).last_hidden_state
        module.encoder.layer[-1].output.LayerNorm.bias -= hidden.mean((0, 1))
        module.pooler.dense.bias -= module.pooler.dense(hidden[:, 0] - hidden.mean((0, 1))).mean(0)
    return module, {"input_ids": tokens[:1], "attention_mask": torch.ones_like(tokens[:1])}


def settle(module: nn.Module, noise: Tensor) -> nn.Module:
    """Scale the weights, measure normalization statistics on noise, and fit `module.head` to what comes out there.

    Each output is then a constant of its own (deviation 2) plus what the input makes of it (deviation 1). Residual
    branches add little, as in trained networks: else each block adds to the error of all before, rounding included.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0.1, 0.1)
            layer.momentum = 1  # keep the statistics of the batch as they are
        elif isinstance(layer, nn.LSTM):
            for name, weight in layer.named_parameters():
                if name.startswith("weight"):
                    nn.init.orthogonal_(weight)
    for layer in module.modules():
        if isinstance(layer, Residual) and isinstance(layer.last, nn.BatchNorm2d):
            nn.init.uniform_(layer.last.weight, 0.05, 0.2)
    with torch.no_grad():
        outputs = module.train()(noise)
        deviation = outputs.std(0).mean()
        module.head.weight /= deviation
        module.head.bias.copy_((module.head.bias - outputs.mean(0)) / deviation)
        module.head.bias += 2 * torch.randn(outputs.shape[1])
    return module.eval()


def conv(n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Iterator[nn.Module]:
    """A convolution that keeps the size at stride 1, and its normalization."""
    yield nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    yield nn.BatchNorm2d(n_out)


class Residual(nn.Module):
    """activation(body(x) + shortcut(x))"""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.activation = activation or nn.Identity()

    @property
    def last(self) -> nn.Module:
        """The last layer of the branch."""
        return list(self.body.modules())[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        n_in = 64
        for width, n_blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for stride in (first_stride, *(1,) * (n_blocks - 1)):
                layers.append(bottleneck(n_in, width, stride))
                n_in = 4 * width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def bottleneck(n_in: int, width: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        *conv(n_in, width), nn.ReLU(), *conv(width, width, 3, stride), nn.ReLU(), *conv(width, 4 * width)
    )
    shortcut = None if n_in == 4 * width else nn.Sequential(*conv(n_in, 4 * width, 1, stride))
    return Residual(body, shortcut, nn.ReLU())


class MobileNetV3Large(nn.Module):
    # kernel, expanded channels, output channels, squeeze-and-excitation, h-swish, stride
    ROWS = (
        (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        layers = [*conv(3, 16, 3, 2), nn.Hardswish()]
        n_in = 16
        for kernel, expanded, n_out, squeeze, swish, stride in self.ROWS:
            layers.append(inverted_residual(n_in, kernel, expanded, n_out, squeeze, swish, stride))
            n_in = n_out
        self.features = nn.Sequential(*layers, *conv(160, 960), nn.Hardswish())
        self.hidden = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish())
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(x).mean((2, 3))))


def inverted_residual(
    n_in: int, kernel: int, expanded: int, n_out: int, squeeze: bool, swish: bool, stride: int
) -> nn.Module:
    activation = nn.Hardswish if swish else nn.ReLU
    layers = [*conv(n_in, expanded), activation()] if expanded != n_in else []
    layers += [*conv(expanded, expanded, kernel, stride, groups=expanded), activation()]
    layers += [SqueezeExcite(expanded)] if squeeze else []
    body = nn.Sequential(*layers, *conv(expanded, n_out))
    return Residual(body) if stride == 1 and n_in == n_out else body


class SqueezeExcite(nn.Module):
    """Channels scaled by what the whole image says (arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = (channels // 4 + 4) // 8 * 8
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 192, depth: int = 12, n_heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 197, width) * 0.2)
        blocks = []
        for _ in range(depth):
            mlp = (nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            blocks += [Residual(Attention(width, n_heads)), Residual(nn.Sequential(*mlp))]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.blocks(x)[:, 0])


class Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            self.inputs(self.norm(x)).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class LstmClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(64, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])
