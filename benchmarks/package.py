"""Packages: how long opening one takes beside the plain file, and how fast packing, checking and changing receivers is.

Opening is timed in a fresh process each (libraries loaded, a small session made before), plain file and packages in
turn, on a network of ResNet-50's shape with random weights: 102 MB, one thread. CPU time is compared, since the machine
may have other work: on the clock both sides wait for it. The rest is timed on 1 GB of random bytes, in the page cache.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.report import finish
from tightship import api
from tightship.core.target import Target
from tightship.package import Manifest, PackedArtifact, recipient_slots
from tightship.package.assembly import write_package
from tightship.package.envelope import Envelope
from tightship.package.keys import new_key, write_pair
from tightship.package.opening import Keys
from tightship.package.recipients import unwrap, wrap

PAYLOAD_BYTES = 10**9
N_TRIALS = 11

OPENING = """
import sys, time
from pathlib import Path
import numpy as np, onnx, onnx_ir, cryptography.hazmat.primitives.ciphers.aead
from tests import nets
from tightship import engines
from tightship.api import opening
from tightship.core.graph import from_bytes
from tightship.core.target import Target
path, engine, key = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
target = Target(engine, threads=1)
engines.open_session(from_bytes(nets.mlp(8).SerializeToString()), target).close()
if path.suffix == ".ship":
    opening.open_session(Path(sys.argv[4]), engine, 1, opening.Keys(key)).close()
started, cpu = time.perf_counter(), time.process_time()
if path.suffix == ".ship":
    opening.open_session(path, engine, 1, opening.Keys(key))
else:
    engines.open_session(path, target)
print(time.perf_counter() - started, time.process_time() - cpu)
"""


def resnet(path: Path) -> None:
    """Write a network with the convolutions of ResNet-50 and random weights."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(x: str, n_in: int, n_out: int, size: int, stride: int) -> str:
        name = f"conv{len(nodes)}"
        kernel = rng.standard_normal((n_out, n_in, size, size)) * np.sqrt(2 / (n_in * size * size))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"{name}.w"))
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", [x, f"{name}.w"], [name], name, strides=[stride] * 2, pads=pads))
        return name

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.relu"], f"{x}.relu"))
        return f"{x}.relu"

    x, n_in = relu(conv("image", 3, 64, 7, 2)), 64
    for width, repeats in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for index in range(repeats):
            stride = 1 if index else 2
            inner = relu(conv(relu(conv(x, n_in, width, 1, 1)), width, width, 3, stride))
            beside = x if index else conv(x, n_in, 4 * width, 1, stride)
            y, n_in = conv(inner, width, 4 * width, 1, 1), 4 * width
            nodes.append(helper.make_node("Add", [y, beside], [f"{y}.sum"], f"{y}.sum"))
            x = relu(f"{y}.sum")
    last = rng.standard_normal((n_in, 1000)).astype(np.float32) / 50
    weights.append(numpy_helper.from_array(last, "last.w"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"], "pooled"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flat"))
    nodes.append(helper.make_node("MatMul", ["flat", "last.w"], ["logits"], "logits"))
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 1000])
    graph = helper.make_graph(nodes, "net", [image], [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def opening(folder: Path) -> list[dict[str, Any]]:
    """Times of opening a ready session, and their ratio to that of the plain file."""
    resnet(folder / "net.onnx")
    private, public = write_pair(new_key("x25519"), folder / "k")
    api.pack([folder / "net.onnx"], folder / "plain.ship")
    api.pack([folder / "net.onnx"], folder / "sealed.ship", seal_to=[public])
    from tests import nets

    api.pack([nets.save(nets.mlp(8), folder, "tiny.onnx")], folder / "tiny.ship", seal_to=[public])
    rows = []
    for engine in ("onnxruntime", "openvino"):
        names = ("net.onnx", "plain.ship", "sealed.ship")
        times: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
        for _ in range(N_TRIALS):
            for name in names:
                words = [sys.executable, "-c", OPENING, str(folder / name), engine, str(private)]
                done = subprocess.run([*words, str(folder / "tiny.ship")], capture_output=True, text=True, check=True)
                times[name].append(tuple(map(float, done.stdout.split())))
        for name in names:
            walls, cpus = zip(*times[name], strict=True)
            plain = [cpu for _, cpu in times["net.onnx"]]
            rows.append(
                {
                    "what": f"open {name} in {engine}, CPU",
                    "ms": 1e3 * median(cpus),
                    "beside": f"the plain file; {1e3 * median(walls):.0f} ms on the clock",
                    "ratio": median(mine / its for mine, its in zip(cpus, plain, strict=True)),
                    "wanted": "" if name == "net.onnx" else "<= 1.15",
                }
            )
    return rows


def timed(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest time of several, in seconds: what else runs here only adds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def payload(folder: Path) -> list[dict[str, Any]]:
    """Packing, checking, and changing receivers of 1 GB."""
    data, key, signer = folder / "data", new_key("x25519"), new_key("ed25519")
    with data.open("wb") as file:
        for _ in range(PAYLOAD_BYTES // 10**7):
            file.write(os.urandom(10**7))
    private, _ = write_pair(key, folder / "r")
    _, trusted = write_pair(signer, folder / "s")
    name = "artifacts/onnx/model.onnx"
    manifest = Manifest("net", "1", (PackedArtifact("onnx", "onnx", name, Target(), PAYLOAD_BYTES),), {})
    plain, sealed = folder / "p.ship", folder / "e.ship"

    def hashed() -> None:
        with data.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    def rekeyed() -> None:
        with Envelope(sealed) as envelope:
            context = envelope.header.context
            data_key = unwrap(envelope.recipients.recipients, context, key)
            recipient_slots.rewrite(envelope.archive, wrap(data_key, context, [key.public]))

    hash_s = timed(hashed)
    works: dict[str, Callable[[], object]] = {
        "pack": lambda: write_package(plain, manifest, {name: data}),
        "pack, signed": lambda: write_package(plain, manifest, {name: data}, (), signer),
        "pack, sealed": lambda: write_package(sealed, manifest, {name: data}, [key.public]),
        "pack, sealed and signed": lambda: write_package(sealed, manifest, {name: data}, [key.public], signer),
        "verify": lambda: api.verify(plain),
        "verify, signature": lambda: api.verify(plain, Keys(trust=(str(trusted),))),
        "verify, sealed, signature, no key": lambda: api.verify(sealed, Keys(trust=(str(trusted),))),
        "verify, sealed, with key": lambda: api.verify(sealed, Keys(str(private))),
    }
    rows = [row("SHA-256 of the file alone", hash_s, hash_s, "")]
    for what, work in works.items():
        wanted = "about 1" if what.startswith("verify") and "with key" not in what else ""
        rows.append(row(what, timed(work, 3), hash_s, wanted))
    rekey_s = timed(rekeyed, 20)
    rows.append({"what": "rekey", "ms": 1e3 * rekey_s, "beside": "", "ratio": "", "wanted": "< 50 ms"})
    return rows


def row(what: str, seconds: float, hash_s: float, wanted: str) -> dict[str, Any]:
    """One row on 1 GB."""
    beside = f"SHA-256; {PAYLOAD_BYTES / seconds / 1e9:.2f} GB/s"
    return {"what": f"{what}, 1 GB", "ms": 1e3 * seconds, "beside": beside, "ratio": seconds / hash_s, "wanted": wanted}


def main() -> None:
    """Measure all, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        rows = [*opening(Path(name)), *payload(Path(name))]
    finish("package", "packages: opened beside the plain file; packed, checked and rekeyed", rows)


if __name__ == "__main__":
    main()
