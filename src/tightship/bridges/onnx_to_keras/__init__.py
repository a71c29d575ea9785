"""ONNX graphs to Keras. `to_keras` is the bridge; adding an operator is one function in `operators/`."""

from tightship.bridges.onnx_to_keras.convert import to_keras

__all__ = ["to_keras"]
