"""Networks for images, with random weights that behave like trained ones (see `examples.networks.settle`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.networks import N_NOISE, Residual, conv, settle

__all__ = ["convnext_atto", "efficientnet_b0", "resnet18", "unet"]

SIZE = 96
"""Height and width of the example images; all of these take others."""


def resnet18() -> tuple[nn.Module, Tensor]:
    """ResNet-18 (arXiv:1512.03385, table 1): 11.7 million parameters."""
    torch.manual_seed(0)
    return settle(ResNet18(), images(N_NOISE)), images(1)


def efficientnet_b0() -> tuple[nn.Module, Tensor]:
    """EfficientNet-B0 (arXiv:1905.11946, table 1): 5.3 million parameters."""
    torch.manual_seed(0)
    return settle(EfficientNetB0(), images(N_NOISE)), images(1)


def convnext_atto() -> tuple[nn.Module, Tensor]:
    """ConvNeXt (arXiv:2201.03545) of the size atto (2, 2, 6, 2 blocks from 40 channels on): 3.7 million parameters."""
    torch.manual_seed(0)
    return settle(ConvNeXt(), images(N_NOISE)), images(1)


def unet() -> tuple[nn.Module, Tensor]:
    """U-Net (arXiv:1505.04597) that keeps the size, from 16 channels on: 0.5 million parameters."""
    torch.manual_seed(0)
    module = UNet()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1  # keep the statistics of the noise as they are
    with torch.no_grad():
        module.train()(torch.randn(N_NOISE, 1, 64, 64))
    return module.eval(), torch.randn(1, 1, 64, 64)


def images(count: int) -> Tensor:
    """Noise in the shape of images."""
    return torch.randn(count, 3, SIZE, SIZE)


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        n_in = 64
        for width, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            for stride in (first_stride, 1):
                layers.append(basic_block(n_in, width, stride))
                n_in = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def basic_block(n_in: int, width: int, stride: int) -> nn.Module:
    body = nn.Sequential(*conv(n_in, width, 3, stride), nn.ReLU(), *conv(width, width, 3))
    shortcut = None if n_in == width and stride == 1 else nn.Sequential(*conv(n_in, width, 1, stride))
    return Residual(body, shortcut, nn.ReLU())


class EfficientNetB0(nn.Module):
    # times as many channels inside, output channels, blocks, stride of the first, kernel
    ROWS = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        layers = [*conv(3, 32, 3, 2), nn.SiLU()]
        n_in = 32
        for expansion, n_out, n_blocks, first_stride, kernel in self.ROWS:
            for stride in (first_stride, *(1,) * (n_blocks - 1)):
                layers.append(mobile_block(n_in, n_out, expansion, stride, kernel))
                n_in = n_out
        self.features = nn.Sequential(*layers, *conv(320, 1280), nn.SiLU())
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def mobile_block(n_in: int, n_out: int, expansion: int, stride: int, kernel: int) -> nn.Module:
    inside = n_in * expansion
    layers = [*conv(n_in, inside), nn.SiLU()] if expansion > 1 else []
    layers += [*conv(inside, inside, kernel, stride, groups=inside), nn.SiLU(), SqueezeExcite(inside, n_in // 4)]
    body = nn.Sequential(*layers, *conv(inside, n_out))
    return Residual(body) if stride == 1 and n_in == n_out else body


class SqueezeExcite(nn.Module):
    """Channels scaled by what the whole image says (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.SiLU(), nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class ConvNeXt(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (2, 2, 6, 2), widths: tuple[int, ...] = (40, 80, 160, 320)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                layers += [ChannelNorm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((2, 3))))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.scale * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + inside.permute(0, 3, 1, 2)


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(double_conv(n_in, n_out) for n_in, n_out in zip((1, *widths), widths, strict=False))
        pairs = tuple(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(n_in, n_out, 2, 2) for n_in, n_out in pairs)
        self.merge = nn.ModuleList(double_conv(2 * n_out, n_out) for _, n_out in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = layers(nn.functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, merge, beside in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = merge(torch.cat([beside, up(x)], 1))
        return self.head(x)


def double_conv(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(*conv(n_in, n_out, 3), nn.ReLU(), *conv(n_out, n_out, 3), nn.ReLU())
