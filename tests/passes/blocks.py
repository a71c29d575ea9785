"""A network of residual blocks with attention, for tests of what goes through a graph part by part."""

from __future__ import annotations

import numpy as np

from tests.passes.running import written
from tightship.core.dataset import Dataset
from tightship.core.model import Model

__all__ = ["WIDTH", "correlated", "decoder"]

WIDTH, INNER = 64, 128

_BLOCK = """
    h{i} = LayerNormalization <axis = -1> (r{i}, g{i})
    q{i} = MatMul (h{i}, wq{i})
    k{i} = MatMul (h{i}, wk{i})
    v{i} = MatMul (h{i}, wv{i})
    kt{i} = Transpose <perm = [0, 2, 1]> (k{i})
    s{i} = MatMul (q{i}, kt{i})
    m{i} = Add (s{i}, mask)
    p{i} = Softmax (m{i})
    c{i} = MatMul (p{i}, v{i})
    o{i} = MatMul (c{i}, wo{i})
    a{i} = Add (r{i}, o{i})
    n{i} = LayerNormalization <axis = -1> (a{i}, f{i})
    u{i} = MatMul (n{i}, wu{i})
    e{i} = Relu (u{i})
    d{i} = MatMul (e{i}, wd{i})
    r{next} = Add (a{i}, d{i})
"""


def decoder(n_blocks: int = 2, seed: int = 0) -> Model:
    """Blocks of attention and feed-forward layers: x [N, T, 64], mask [N, T, T] -> y [N, T, 16]."""
    rng = np.random.default_rng(seed)
    body = "".join(_BLOCK.format(i=i, next=i + 1) for i in range(n_blocks))
    body = f"r0 = Identity (x){body} y = MatMul (r{n_blocks}, head)"
    shapes = {"head": (WIDTH, 16)}
    for i in range(n_blocks):
        shapes |= {f"{name}{i}": (WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"wu{i}": (WIDTH, INNER), f"wd{i}": (INNER, WIDTH)}
    weights = {
        name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for name, shape in shapes.items()
    }
    for i in range(n_blocks):
        weights |= {f"{name}{i}": rng.uniform(0.5, 2, WIDTH).astype(np.float32) for name in ("g", "f")}
    text = f"net (float[N, T, {WIDTH}] x, float[N, T, T] mask) => (float[N, T, 16] y) {{ {body} }}"
    return written(text, **weights)


def correlated(n_items: int = 32, length: int = 8, seed: int = 0) -> Dataset:
    """Inputs of `decoder` whose channels go together, as activations of trained networks do, under a causal mask."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((8, WIDTH))
    x = rng.standard_normal((n_items, length, 8)) @ mixing + 0.3 * rng.standard_normal((n_items, length, WIDTH))
    mask = np.where(np.tri(length), 0, -1e4) * np.ones((n_items, 1, 1))
    return Dataset.from_arrays("c", f"seed-{seed}", {"x": x.astype(np.float32), "mask": mask.astype(np.float32)})
