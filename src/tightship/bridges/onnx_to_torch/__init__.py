"""ONNX graphs to PyTorch: an `fx.GraphModule` of real, trainable layers, whose code a person can read.

`to_module` is the bridge. `operators/` holds one function per ONNX operator, `layers/` what becomes a layer of
`torch.nn` where its weights are constants; `lowering` walks the graph. torch is imported when `to_module` is called.
"""

from __future__ import annotations

from tightship.bridges.onnx_to_torch.conversion import to_module

__all__ = ["to_module"]
