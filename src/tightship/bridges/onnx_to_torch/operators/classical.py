"""Classical machine learning (ai.onnx.ml) and text features, as far as they are numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("ArrayFeatureExtractor", 1, domain="ai.onnx.ml")
def array_feature_extractor(x: Tensor, columns: Tensor) -> Tensor:
    return x.index_select(-1, columns.reshape(-1).long())


@OPERATORS.op("Binarizer", 1, domain="ai.onnx.ml")
def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    return (x > threshold).to(x.dtype)


@OPERATORS.op("TfIdfVectorizer", 9)
def tf_idf_vectorizer(
    x: Tensor,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: list[int],
    ngram_indexes: list[int],
    pool_int64s: list[int] | None = None,
    pool_strings: list[str] | None = None,
    weights: list[float] | None = None,
) -> Tensor:
    """How often each n-gram of the pool occurs in a row (TF), whether it does (IDF), weighted.

    Items of an n-gram may lie up to `max_skip_count + 1` apart.
    """
    assert pool_int64s is not None
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    counts = torch.zeros(rows.shape[0], max(ngram_indexes) + 1)
    gram = 0
    for size, start in enumerate(ngram_counts, 1):
        end = ngram_counts[size] if size < len(ngram_counts) else len(pool_int64s)
        for place in range(start, end, size):
            if min_gram_length <= size <= max_gram_length:
                pattern = torch.tensor(pool_int64s[place : place + size], dtype=rows.dtype)
                counts[:, ngram_indexes[gram]] += occurrences(rows, pattern, max_skip_count)
            gram += 1
    factors = 1.0 if weights is None else grams_in_order(weights, ngram_indexes)
    y = counts if mode == "TF" else (counts > 0).float() * factors if mode == "IDF" else counts * factors
    return y[0] if x.ndim == 1 else y


def occurrences(rows: Tensor, pattern: Tensor, max_skip_count: int) -> Tensor:
    """How often a pattern occurs in each row, with the same gap between all its items."""
    size = pattern.shape[0]
    found = torch.zeros(rows.shape[0])
    for gap in range(1, (max_skip_count if size > 1 else 0) + 2):
        reach = (size - 1) * gap + 1
        if reach <= rows.shape[1]:
            windows = rows.unfold(1, reach, 1)[..., ::gap]
            found = found + (windows == pattern).all(-1).sum(-1)
    return found


def grams_in_order(weights: list[float], places: list[int]) -> Tensor:
    """Weights at the columns of their n-grams."""
    ordered = torch.ones(max(places) + 1)
    ordered[torch.tensor(places)] = torch.tensor(weights)
    return ordered
