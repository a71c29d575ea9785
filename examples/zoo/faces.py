"""Detectors of faces, laid out as the published weights are.

    tightship convert examples.zoo.faces:rfb320 --weights version-RFB-320.pth -o rfb320.onnx

Ultra-Light-Fast-Generic-Face-Detector-1MB (github.com/Linzaer): RGB images of 240 x 320, (x - 127) / 128. MTCNN
(arXiv:1604.02878) as in facenet-pytorch (github.com/timesler): RGB images, (x - 127.5) / 128.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["onet", "pnet", "rfb320", "rnet", "slim320"]


def rfb320() -> tuple[nn.Module, Tensor]:
    """The detector with a receptive-field block: 0.3 million parameters; 4,420 scores and boxes."""
    return UltraFace(RfbBlock()).eval(), noise(240, 320)


def slim320() -> tuple[nn.Module, Tensor]:
    """The detector with a plain block in its place."""
    return UltraFace(separable(64, 64, 1)).eval(), noise(240, 320)


def pnet() -> tuple[nn.Module, Tensor]:
    """The first of the three networks of MTCNN: proposals all over an image of any size."""
    return ProposalNet().eval(), noise(48, 64)


def rnet() -> tuple[nn.Module, Tensor]:
    """The second: refines a proposal of 24 x 24."""
    return RefineNet().eval(), noise(24, 24)


def onet() -> tuple[nn.Module, Tensor]:
    """The third: refines one of 48 x 48 and finds five points."""
    return OutputNet().eval(), noise(48, 48)


def noise(height: int, width: int) -> Tensor:
    """One image of noise, the same each time."""
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


class UltraFace(nn.Module):
    """A single-shot detector: four maps, each with heads for scores (face or not) and boxes."""

    SOURCES = (8, 11, 13)
    """Layers of the trunk after which a map is taken; the fourth comes after all."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        rows = ((16, 32, 1), (32, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1))
        late = ((64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.base_net = nn.ModuleList(
            [first, *(separable(*row) for row in rows), middle, *(separable(*row) for row in late)]
        )
        self.extras = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(256, 64, 1), nn.ReLU(), without_norm(64, 256, 2), nn.ReLU())]
        )
        self.classification_headers = self._heads(2)
        self.regression_headers = self._heads(4)

    @staticmethod
    def _heads(n_values: int) -> nn.ModuleList:
        rows = ((64, 3), (128, 2), (256, 2))
        last = nn.Conv2d(256, 3 * n_values, 3, padding=1)
        return nn.ModuleList([*(without_norm(width, n_priors * n_values) for width, n_priors in rows), last])

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        x, maps = input, []
        for number, layer in enumerate(self.base_net, start=1):
            x = layer(x)
            if number in self.SOURCES:
                maps.append(x)
        maps.append(self.extras[0](x))
        scores = torch.cat([rows(head(x), 2) for head, x in zip(self.classification_headers, maps, strict=True)], 1)
        boxes = torch.cat([rows(head(x), 4) for head, x in zip(self.regression_headers, maps, strict=True)], 1)
        return {"scores": torch.softmax(scores, 2), "boxes": boxes}


def rows(x: Tensor, n_values: int) -> Tensor:
    """[batch, priors * values, height, width] to [batch, priors, values]."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, n_values)


def separable(n_in: int, n_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(n_in, n_in, 3, stride, 1, groups=n_in, bias=False), nn.BatchNorm2d(n_in), nn.ReLU(),
        nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
    )  # fmt: skip


def without_norm(n_in: int, n_out: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_in, n_in, 3, stride, 1, groups=n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 1))


class NormedConv(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel: int, dilation: int = 1, relu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class RfbBlock(nn.Module):
    """Three branches that look wider and wider (arXiv:1711.07767)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(
            NormedConv(64, 8, 1), NormedConv(8, 16, 3, relu=True), NormedConv(16, 16, 3, dilation=2)
        )
        self.branch1 = nn.Sequential(
            NormedConv(64, 8, 1), NormedConv(8, 16, 3, relu=True), NormedConv(16, 16, 3, dilation=3)
        )
        self.branch2 = nn.Sequential(
            NormedConv(64, 8, 1), NormedConv(8, 12, 3, relu=True), NormedConv(12, 16, 3, relu=True),
            NormedConv(16, 16, 3, dilation=5),
        )  # fmt: skip
        self.ConvLinear = NormedConv(48, 64, 1)
        self.shortcut = NormedConv(64, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.cat([self.branch0(x), self.branch1(x), self.branch2(x)], 1)
        return torch.relu(self.ConvLinear(wide) + self.shortcut(x))


class ProposalNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return {"boxes": self.conv4_2(x), "scores": torch.softmax(self.conv4_1(x), 1)}


class RefineNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)  # the order in which Caffe flattens
        x = self.prelu4(self.dense4(x))
        return {"boxes": self.dense5_2(x), "scores": torch.softmax(self.dense5_1(x), 1)}


class OutputNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu5(self.dense5(x))
        return {"boxes": self.dense6_2(x), "points": self.dense6_3(x), "scores": torch.softmax(self.dense6_1(x), 1)}
