"""Losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("NegativeLogLikelihoodLoss", 12)
def negative_log_likelihood_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Log probabilities `[N, classes, ...]` at the labels, weighted by class."""
    ignored = -100 if ignore_index is None else ignore_index
    return functional.nll_loss(x, target.long(), weight, ignore_index=ignored, reduction=reduction)


@OPERATORS.op("SoftmaxCrossEntropyLoss", 12)
def softmax_cross_entropy_loss(
    scores: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """The loss, and the log probabilities it was made of."""
    log_probabilities = torch.log_softmax(scores, 1)
    loss = negative_log_likelihood_loss(
        log_probabilities, labels, weight, ignore_index=ignore_index, reduction=reduction
    )
    return loss, log_probabilities
