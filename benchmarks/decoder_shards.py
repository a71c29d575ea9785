"""Memory and time of rounding a 7B-shaped decoder to 4 bits, block by block, from sharded safetensors.

A checkpoint of random bfloat16 weights is written shard by shard for each number of blocks, and compressed in a process
of its own. To reach: a peak below 3 GB that does not grow with the blocks. What a whole model would take is worked out
from the differences, and marked as such.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

TO_REACH_BYTES = 3e9
BLOCKS = (1, 2, 4)
N_ITEMS, N_TOKENS = 16, 128
_SAMPLE_S = 0.02
_BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-type decoder; `n_blocks` of them are written."""

    hidden: int = 4096
    inner: int = 11008
    heads: int = 32
    shared_heads: int = 32
    vocabulary: int = 4096

    def config(self, n_blocks: int) -> dict[str, Any]:
        """The `config.json` of a checkpoint."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": n_blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.shared_heads,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 4096,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def block(self, index: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights of one block."""
        head = self.hidden // self.heads
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (self.heads * head, self.hidden),
            "self_attn.k_proj": (self.shared_heads * head, self.hidden),
            "self_attn.v_proj": (self.shared_heads * head, self.hidden),
            "self_attn.o_proj": (self.hidden, self.heads * head),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        return {f"model.layers.{index}.{name}.weight": shape for name, shape in shapes.items()}

    @property
    def block_weights(self) -> int:
        """Numbers in the products of one block."""
        return sum(int(np.prod(shape)) for shape in self.block(0).values() if len(shape) == 2)


LLAMA_7B, LLAMA_70B = Shape(vocabulary=32000), Shape(8192, 28672, 64, 8, 32000)


@dataclass(frozen=True)
class Cost:
    """One run: wall and processor seconds, peaks of resident memory in bytes, and the bytes of both models.

    `anonymous` is what the process itself allocated; `total` counts mapped files as well, which the system drops at
    need.
    """

    n_blocks: int
    wall_s: float
    cpu_s: float
    anonymous_bytes: int
    total_bytes: int
    source_bytes: int
    made_bytes: int


def write_checkpoint(folder: Path, shape: Shape, n_blocks: int, seed: int = 0) -> None:
    """Write a checkpoint of random weights, one shard per block and one for what stands around them."""
    folder.mkdir(parents=True, exist_ok=True)
    around = {
        "model.embed_tokens.weight": (shape.vocabulary, shape.hidden),
        "model.norm.weight": (shape.hidden,),
        "lm_head.weight": (shape.vocabulary, shape.hidden),
    }
    shards = [around, *(shape.block(index) for index in range(n_blocks))]
    places = {}
    for index, shapes in enumerate(shards):
        name = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shapes, np.random.default_rng((seed, index)))
        places.update(dict.fromkeys(shapes, name))
    total = sum(_BFLOAT16_BYTES * int(np.prod(it)) for shapes in shards for it in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(shape.config(n_blocks)), encoding="utf-8")


def _write_shard(path: Path, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    header, position = {}, 0
    for name, shape in shapes.items():
        n_bytes = _BFLOAT16_BYTES * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (position, position + n_bytes)}
        position += n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(_bfloat16(_weight(name, shape, rng)).data)


def _weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows and columns of log-normal sizes, a hundredth of the columns four times as large, as trained ones are."""
    if len(shape) == 1:
        return np.exp(0.2 * rng.standard_normal(shape, np.float32))
    rows, columns = (np.exp(0.3 * rng.standard_normal(n, np.float32)) for n in shape)
    columns[rng.random(shape[1]) < 0.01] *= 4
    weight = rng.standard_normal(shape, np.float32)
    weight *= rows[:, None]
    weight *= columns * np.float32(1.0 if "embed" in name else shape[1] ** -0.5)
    return weight


def _bfloat16(array: np.ndarray) -> np.ndarray:
    words = array.view(np.uint32)
    words += 0x7FFF + ((words >> 16) & 1)  # to the nearest, ties to even
    return np.ascontiguousarray((words >> 16).astype(np.uint16)).reshape(-1).view(np.uint8)


def measure(folder: Path, data: Path, made: Path, options: list[str], n_blocks: int, cache: Path) -> Cost:
    """Compress in a process of its own, looking at its memory every fiftieth of a second."""
    command = [sys.executable, "-m", "tightship", "compress", "low-bit", str(folder), "--data", str(data)]
    command += ["-o", str(made), "--calibration", "1000000", *options]
    environment = {**_environment(), "XDG_CACHE_HOME": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    watch = _Watch(process.pid)
    _, status, usage = _wait4(process.pid)
    watch.stop()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return Cost(
        n_blocks,
        time.perf_counter() - started,
        usage.ru_utime + usage.ru_stime,
        watch.anonymous_bytes,
        usage.ru_maxrss * 1024,
        sum(path.stat().st_size for path in folder.iterdir()),
        sum(path.stat().st_size for path in made.parent.glob(f"{made.name}*")),
    )


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _wait4(pid: int) -> tuple[int, int, Any]:
    import os

    return os.wait4(pid, 0)


class _Watch:
    """Looks at the anonymous memory of a process until it is told to stop."""

    def __init__(self, pid: int) -> None:
        self.anonymous_bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            found = next((line for line in lines if line.startswith("RssAnon:")), "RssAnon: 0 kB")
            self.anonymous_bytes = max(self.anonymous_bytes, int(found.split()[1]) * 1024)


def rows(costs: list[Cost], shape: Shape) -> Iterator[dict[str, Any]]:
    """What was measured, what one more block takes, and what follows from it for whole models."""
    for cost in costs:
        yield _row(f"{cost.n_blocks} blocks of {shape.hidden}", "measured", asdict(cost))
    first, last = asdict(costs[0]), asdict(costs[-1])
    n_more = last["n_blocks"] - first["n_blocks"]
    more = {key: (last[key] - first[key]) / n_more for key in last} if n_more else first
    if n_more:
        yield _row(f"one more block of {shape.hidden}", "difference", more)
    if shape.hidden != LLAMA_7B.hidden:
        return
    around = first["cpu_s"] - more["cpu_s"] * first["n_blocks"]
    kind = "extrapolated" if n_more else "extrapolated from one block, at most"
    for name, whole, n_blocks in (("7B, 32 blocks", LLAMA_7B, 32), ("70B, 80 blocks", LLAMA_70B, 80)):
        yield {**_extrapolated(name, whole, n_blocks, shape, costs[-1], more["cpu_s"], around), "kind": kind}


def _row(model: str, kind: str, cost: Mapping[str, float]) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "anonymous_gb": cost["anonymous_bytes"] / 1e9,
        "total_gb": cost["total_bytes"] / 1e9,
        "cpu_s": cost["cpu_s"],
        "wall_s": cost["wall_s"],
        "source_gb": cost["source_bytes"] / 1e9,
        "made_gb": cost["made_bytes"] / 1e9,
    }


def _extrapolated(
    name: str, whole: Shape, n_blocks: int, shape: Shape, last: Cost, per_block: float, around: float
) -> dict[str, Any]:
    # Time goes with weights times the width they are read at (feeding errors back is N K^2); memory with the square of
    # the widest product's columns, since that is the size of its second moments.
    wider = sum(n * k**2 for n, k in _matrices(whole)) / sum(n * k**2 for n, k in _matrices(shape))
    squares = (whole.inner / shape.inner) ** 2
    weights = n_blocks * whole.block_weights + 2 * whole.vocabulary * whole.hidden
    return {
        "model": name,
        "kind": "extrapolated",
        "anonymous_gb": last.anonymous_bytes * squares / 1e9,
        "total_gb": last.total_bytes * squares / 1e9,
        "cpu_s": around + per_block * wider * n_blocks,
        "wall_s": None,
        "source_gb": weights * _BFLOAT16_BYTES / 1e9,
        "made_gb": weights * last.made_bytes / last.source_bytes * _BFLOAT16_BYTES / 1e9,
    }


def _matrices(shape: Shape) -> list[tuple[int, int]]:
    return [(it[0], it[1]) for it in shape.block(0).values() if len(it) == 2]


def main() -> None:
    """Write, compress and measure; what was measured before with the same settings is not done again."""
    from benchmarks.report import BUILD

    chosen = _arguments()
    shape = Shape(chosen.hidden, chosen.inner, chosen.heads, chosen.heads, chosen.vocabulary)
    settings = {"shape": asdict(shape), "items": chosen.items, "tokens": chosen.tokens, "preset": chosen.preset}
    kept = BUILD / "decoder_shards.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() and not chosen.again else []
    done = [entry["cost"]["n_blocks"] for entry in known if entry["settings"] == settings]
    for n_blocks in sorted(set(chosen.blocks) - set(done)):
        cost = _measured(BUILD / f"decoder_shards_{shape.hidden}", shape, n_blocks, chosen)
        known.append({"settings": settings, "cost": asdict(cost)})
        kept.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(known[-1]), flush=True)
    _report(known)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=list(BLOCKS))
    parser.add_argument("--hidden", type=int, default=Shape.hidden)
    parser.add_argument("--inner", type=int, default=Shape.inner)
    parser.add_argument("--heads", type=int, default=Shape.heads)
    parser.add_argument("--vocabulary", type=int, default=Shape.vocabulary)
    parser.add_argument("--items", type=int, default=N_ITEMS)
    parser.add_argument("--tokens", type=int, default=N_TOKENS)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    return parser.parse_args()


def _measured(work: Path, shape: Shape, n_blocks: int, chosen: argparse.Namespace) -> Cost:
    shutil.rmtree(work, ignore_errors=True)
    write_checkpoint(work / "checkpoint", shape, n_blocks)
    ids = np.random.default_rng(0).integers(0, shape.vocabulary, (chosen.items, chosen.tokens))
    np.savez(work / "data.npz", input_ids=ids)
    options = ["--bits", "4", "--block", "128", "--preset", chosen.preset]
    cost = measure(work / "checkpoint", work / "data.npz", work / "made.onnx", options, n_blocks, work / "cache")
    shutil.rmtree(work)
    return cost


def _report(known: list[dict[str, Any]]) -> None:
    from benchmarks.report import finish

    found, about = [], []
    for settings in {json.dumps(entry["settings"]): entry["settings"] for entry in known}.values():
        costs = sorted(
            (Cost(**entry["cost"]) for entry in known if entry["settings"] == settings), key=lambda cost: cost.n_blocks
        )
        found += rows(costs, Shape(**settings["shape"]))
        sizes = f"hidden {settings['shape']['hidden']}, inner {settings['shape']['inner']}"
        about.append(f"{sizes}: {settings['items']} x {settings['tokens']} tokens, preset {settings['preset']}")
    finish("decoder_shards", f"low-bit at 4 bits, block 128, one thread; {'; '.join(about)}", found)


if __name__ == "__main__":
    main()
