"""What every server here runs."""

import numpy as np
import onnxruntime

DTYPES = {"FP32": np.float32}


def open_model(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(request: dict) -> dict:
    """Arrays of a request of the Open Inference Protocol."""
    return {
        part["name"]: np.array(part["data"], DTYPES[part["datatype"]]).reshape(part["shape"])
        for part in request["inputs"]
    }


def answer(session: onnxruntime.InferenceSession, outputs: list) -> dict:
    return {
        "model_name": "model",
        "outputs": [
            {"name": entry.name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
            for entry, array in zip(session.get_outputs(), outputs, strict=True)
        ],
    }
