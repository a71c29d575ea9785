"""Core ML packages read back: does what we read agree with what coremltools was given?

Networks of `examples` written by us from PyTorch in both precisions, Keras models converted by coremltools, and
packages compressed by `coremltools.optimize`, which must agree with the weights as coremltools decompresses them.
Whatever is read runs in ONNX Runtime. Errors are the largest difference of any output over its largest value.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tightship import formats
from tightship.core import graph
from tightship.core.model import Model
from tightship.formats.coreml import CoreMl

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))

NETWORKS = (
    "examples.zoo.several:three_heads",
    "examples.networks:lstm",
    "examples.zoo.sequences:bigru",
    "examples.zoo.sequences:genomics",
    "examples.zoo.several:dlrm",
    "examples.zoo.images:resnet18",
    "examples.networks:mobilenet_v3_large",
    "examples.zoo.images:unet",
    "examples.networks:vit_tiny",
    "examples.zoo.images:convnext_atto",
    "examples.zoo.images:efficientnet_b0",
    "examples.zoo.language:bert",
    "examples.zoo.language:llama",
    "examples.zoo.language:t5",
)
"""From quick to slow."""

ALLOWED = {"float32": 1e-4, "float16": 2e-2, "compressed": 1e-3}
"""The largest error that counts as agreement: of half precision it is that of weights rounded to 11 bits."""

Arrays = Mapping[str, np.ndarray]


def run(model: Model, inputs: Arrays) -> dict[str, np.ndarray]:
    """Run a graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    wanted = {entry.name: entry.type for entry in session.get_inputs()}
    given = {name: _fitted(array, wanted[name]) for name, array in inputs.items() if name in wanted}
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def _fitted(array: np.ndarray, kind: str) -> np.ndarray:
    """Core ML has no integers but those of 32 bits."""
    return array.astype({"tensor(int32)": np.int32, "tensor(float16)": np.float16}.get(kind, array.dtype))


def error(found: Arrays, wanted: Arrays) -> float:
    """The largest difference of any output over the largest value of that output."""
    largest = 0.0
    for name, want in wanted.items():
        difference = np.abs(found[name].reshape(want.shape).astype(np.float64) - want).max()
        largest = max(largest, float(difference / max(1e-9, np.abs(want).max())))
    return largest


def networks(folder: Path) -> Iterator[dict[str, Any]]:
    """Our own packages against the modules that they were written from."""
    import torch

    for source in NETWORKS:
        name = source.partition(":")[2]
        torch.manual_seed(0)
        model = formats.read(formats.recognise(source))
        tensors = model.content.example_inputs
        inputs = {spec.name: tensor.numpy() for spec, tensor in zip(model.inputs, tensors, strict=True)}
        with torch.no_grad():
            wanted = _by_name(model, model.content.module(*tensors))
        for precision in ("float32", "float16"):
            path = folder / f"{name}-{precision}.mlpackage"
            yield judged(f"{name} (PyTorch)", precision, lambda: _agreement(model, precision, path, inputs, wanted))  # noqa: B023
        gc.collect()


def _by_name(model: Model, outputs: Any) -> dict[str, np.ndarray]:
    import torch

    flat = list(outputs.values()) if isinstance(outputs, dict) else outputs
    flat = [flat] if isinstance(flat, torch.Tensor) else list(flat)
    return {spec.name: tensor.numpy() for spec, tensor in zip(model.outputs, flat, strict=True)}


def _agreement(model: Model, precision: Any, path: Path, inputs: Arrays, wanted: Arrays) -> float:
    CoreMl(precision).write(model, path)
    return error(run(formats.read(formats.recognise(str(path))), inputs), wanted)


def judged(source: str, kind: str, measure: Callable[[], float]) -> dict[str, Any]:
    """One row of the table."""
    started = time.process_time()
    row: dict[str, Any] = {"source": source, "kind": kind}
    try:
        found = measure()
        row |= {"error": found, "agrees": found <= ALLOWED.get(kind, ALLOWED["compressed"]), "message": ""}
    except Exception as caught:  # coremltools raises what its parts raise; the row says what
        row |= {"error": None, "agrees": False, "message": f"{type(caught).__name__}: {str(caught)[:200]}"}
    row["cpu s"] = time.process_time() - started
    print(row, flush=True)
    return row


def keras_models() -> dict[str, Callable[[], Any]]:
    """Models of the layers that coremltools takes from Keras."""
    from keras import Sequential, layers

    return {
        "convolutions (Keras)": lambda: Sequential(
            [
                layers.Input((16, 16, 3), batch_size=1),
                layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
                layers.DepthwiseConv2D(3, padding="same"),
                layers.BatchNormalization(),
                layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
                layers.MaxPooling2D(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(5, activation="softmax"),
            ]
        ),
        "LSTM (Keras)": lambda: Sequential(
            [layers.Input((12, 6), batch_size=1), layers.LSTM(8, return_sequences=True), layers.Dense(3)]
        ),
    }


def published_keras() -> dict[str, Callable[[], Any]]:
    """The MLPerf Tiny networks with their published weights, where they are."""
    return {
        f"{name} (Keras)": lambda path=DATA / "mlperf_tiny" / f"{name}.h5": (
            formats.read(formats.recognise(str(path))).content
        )
        for name in ("ad01", "pretrainedResnet", "str_ww_ref_model", "vww_96")
        if (DATA / "mlperf_tiny" / f"{name}.h5").exists()
    }


def from_keras(folder: Path) -> Iterator[dict[str, Any]]:
    """What coremltools makes of Keras models, against Keras."""
    for name, build in {**keras_models(), **published_keras()}.items():
        yield judged(name, "float32", lambda: _keras_agreement(build(), folder / "keras.mlpackage"))  # noqa: B023


def _keras_agreement(model: Any, path: Path) -> float:
    import coremltools
    import tensorflow as tf

    shape = (1, *model.inputs[0].shape[1:])
    function = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(shape, name="x")])
    package = coremltools.convert(
        [function.get_concrete_function()],
        source="tensorflow",
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    package.save(str(path))
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (found,) = run(formats.read(formats.recognise(str(path))), {"x": values}).values()
    return error({"y": found}, {"y": np.asarray(model(values, training=False))})


COMPRESSED = (
    "examples.zoo.images:resnet18",
    "examples.zoo.language:bert",
    "examples.zoo.several:dlrm",
    "examples.zoo.sequences:bigru",
)


def compressed(folder: Path) -> Iterator[dict[str, Any]]:
    """Compressed packages against the same weights as coremltools decompresses them."""
    import coremltools

    for source in COMPRESSED:
        name = source.partition(":")[2]
        model = formats.read(formats.recognise(source))
        inputs = {
            spec.name: tensor.numpy() for spec, tensor in zip(model.inputs, model.content.example_inputs, strict=True)
        }
        path, newer = folder / f"{name}-compressed.mlpackage", folder / f"{name}-compressed-newer.mlpackage"
        CoreMl("float32").write(model, path)
        _write_for_ios18(model, newer)
        for place, ways in ((path, compressions()), (newer, newer_compressions())):
            for kind, compress in ways.items():
                package = coremltools.models.MLModel(str(place), skip_model_load=True)
                yield judged(
                    f"{name} (PyTorch)",
                    kind,
                    lambda: _same_weights(compress(package), folder, inputs),  # noqa: B023
                )
        gc.collect()


def _write_for_ios18(model: Model, path: Path) -> None:
    """Groups, blocks, 4-bit integers and vectors came with iOS 18."""
    import coremltools

    from tightship.core.exported import export

    program = export(model, batch=False).run_decompositions({})
    coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS18,
        compute_precision=coremltools.precision.FLOAT32,
        inputs=[
            coremltools.TensorType(name=spec.name, shape=tuple(tensor.shape))
            for spec, tensor in zip(model.inputs, model.content.example_inputs, strict=True)
        ],
        outputs=[coremltools.TensorType(name=spec.name) for spec in model.outputs],
        skip_model_load=True,
    ).save(str(path))


Compress = Callable[[Any], Any]


def _with(function: Any, config: Any) -> Compress:
    from coremltools.optimize import coreml as opt

    return lambda package: function(package, opt.OptimizationConfig(global_config=config))


def compressions() -> dict[str, Compress]:
    """Every way of `coremltools.optimize.coreml` that needs no data, as of iOS 16."""
    from coremltools.optimize import coreml as opt

    return {
        **{
            f"palettized, {bits} bits": _with(opt.palettize_weights, opt.OpPalettizerConfig(mode="uniform", nbits=bits))
            for bits in (8, 6, 4, 2, 1)
        },
        "linear, int8": _with(opt.linear_quantize_weights, opt.OpLinearQuantizerConfig(mode="linear_symmetric")),
        "linear, int8, asymmetric": _with(opt.linear_quantize_weights, opt.OpLinearQuantizerConfig(mode="linear")),
        "pruned, 60 %": _with(opt.prune_weights, opt.OpMagnitudePrunerConfig(target_sparsity=0.6)),
    }


def newer_compressions() -> dict[str, Compress]:
    """What iOS 18 added."""
    from coremltools.optimize import coreml as opt

    groups = {"granularity": "per_grouped_channel", "group_size": 8}
    pruned = _with(opt.prune_weights, opt.OpMagnitudePrunerConfig(target_sparsity=0.6))
    joint = opt.OptimizationConfig(global_config=opt.OpPalettizerConfig(mode="uniform", nbits=4))
    return {
        "linear, int4, by channels": _with(
            opt.linear_quantize_weights, opt.OpLinearQuantizerConfig(dtype="int4", granularity="per_channel")
        ),
        "linear, int4, blocks of 8": _with(
            opt.linear_quantize_weights,
            opt.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=8),
        ),
        "palettized, 4 bits, groups of 8": _with(
            opt.palettize_weights, opt.OpPalettizerConfig(mode="uniform", nbits=4, **groups)
        ),
        "palettized, 2 bits, vectors of 2": _with(
            opt.palettize_weights, opt.OpPalettizerConfig(mode="kmeans", nbits=2, cluster_dim=2)
        ),
        "pruned, 60 %, then 4 bits": lambda package: opt.palettize_weights(
            pruned(package), joint, joint_compression=True
        ),
    }


def _same_weights(package: Any, folder: Path, inputs: Arrays) -> float:
    from coremltools.optimize import coreml as opt

    paths = [folder / "compressed.mlpackage", folder / "decompressed.mlpackage"]
    package.save(str(paths[0]))
    opt.decompress_weights(package).save(str(paths[1]))
    found, wanted = (run(formats.read(formats.recognise(str(path))), inputs) for path in paths)
    return error(found, wanted)


def main() -> None:
    """Measure all, or the parts that are named, and write the result; other rows stay until they are measured again."""
    from benchmarks.report import RESULTS, finish

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    gc.freeze()
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("coremltools", "torch", "tensorflow-cpu", "onnxruntime")
    )
    parts = {part.__name__: part for part in (compressed, from_keras, networks)}
    earlier = json.loads((RESULTS / "coreml.json").read_text())["rows"] if (RESULTS / "coreml.json").exists() else []
    rows = {(row["source"], row["kind"]): row for row in earlier}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or parts:
            for row in parts[name](Path(folder)):
                rows[row["source"], row["kind"]] = {**row, "versions": versions}
                finish("coreml", "Core ML packages read back, against their sources", list(rows.values()))


if __name__ == "__main__":
    main()
