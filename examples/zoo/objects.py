"""FastestDet (github.com/dog-qiuqiu/FastestDet): a detector of the 80 kinds of COCO, laid out as its weights are.

    tightship convert examples.zoo.objects:fastestdet --weights weight_AP05_0.253207_280-epoch.pth -o fastestdet.onnx

Inputs are BGR images in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["fastestdet"]


def fastestdet() -> tuple[nn.Module, Tensor]:
    """On a backbone of ShuffleNetV2 (arXiv:1807.11164): 0.2 million parameters; objectness, box and kinds per cell."""
    generator = torch.Generator().manual_seed(0)
    return FastestDet().eval(), torch.rand(1, 3, 352, 352, generator=generator)


class FastestDet(nn.Module):
    WIDTH = 96

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ShuffleNet()
        self.SPP = SpatialPyramid(7 * self.WIDTH // 2, self.WIDTH)
        self.detect_head = DetectHead(self.WIDTH, n_kinds=80)

    def forward(self, x: Tensor) -> Tensor:
        early, middle, late = self.backbone(x)
        joined = torch.cat(
            [functional.avg_pool2d(early, 3, 2, 1), middle, functional.interpolate(late, scale_factor=2)], 1
        )
        return self.detect_head(self.SPP(joined))


class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*conv(3, 24, 3, 2), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2, self.stage3, self.stage4 = stage(24, 48, 4), stage(48, 96, 8), stage(96, 192, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        early = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(early)
        return early, middle, self.stage4(middle)


def conv(n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, and its normalization."""
    return [nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(n_out)]


def stage(n_in: int, n_out: int, n_blocks: int) -> nn.Module:
    half = n_out // 2
    return nn.Sequential(HalvingBlock(n_in, n_out - n_in), *(ShuffleBlock(half) for _ in range(n_blocks - 1)))


def main_branch(n_in: int, n_out: int, stride: int) -> nn.Module:
    n_inside = n_out if stride == 1 else n_in
    return nn.Sequential(
        *conv(n_in, n_inside),
        nn.ReLU(),
        *conv(n_inside, n_inside, 3, stride, n_inside),
        *conv(n_inside, n_out),
        nn.ReLU(),
    )


class HalvingBlock(nn.Module):
    """Both branches see all channels, and halve the size."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.branch_main = main_branch(n_in, n_out, 2)
        self.branch_proj = nn.Sequential(*conv(n_in, n_in, 3, 2, n_in), *conv(n_in, n_in), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)


class ShuffleBlock(nn.Module):
    """One half of the channels passes, the other is worked on; even and odd ones change places first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch_main = main_branch(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
        x = x.reshape(2, -1, channels // 2, height, width)
        return torch.cat([x[0], self.branch_main(x[1])], 1)


class Conv1x1(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*conv(n_in, n_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x)


class SpatialPyramid(nn.Module):
    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Conv1x1(n_in, width)
        self.S1, self.S2, self.S3 = (nn.Sequential(*depthwise(width, count)) for count in (1, 2, 3))
        self.output = nn.Sequential(*conv(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        return torch.relu(x + self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1)))


def depthwise(width: int, count: int) -> list[nn.Module]:
    return [layer for _ in range(count) for layer in (*conv(width, width, 5, groups=width), nn.ReLU())]


class Conv5x5(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*conv(n_in, n_in, 5, groups=n_in), nn.ReLU(), *conv(n_in, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv5x5(x)


class DetectHead(nn.Module):
    def __init__(self, width: int, n_kinds: int) -> None:
        super().__init__()
        self.conv1x1 = Conv1x1(width, width)
        self.obj_layers, self.reg_layers, self.cls_layers = (Conv5x5(width, count) for count in (1, 4, n_kinds))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        objectness, kinds = torch.sigmoid(self.obj_layers(x)), torch.softmax(self.cls_layers(x), 1)
        return torch.cat([objectness, self.reg_layers(x), kinds], 1)
