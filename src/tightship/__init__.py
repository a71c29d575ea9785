"""Make a trained deep-learning model small, fast and proven.

    import tightship as ts
    plan = ts.optimize("model.onnx", data="calib.npz", max_drop=0.01, output="out")

The verbs live in `tightship.api`; the nouns in `tightship.core`; errors in `tightship.errors`.
"""

__version__ = "0.1.0"
