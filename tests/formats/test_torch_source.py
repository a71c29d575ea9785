"""Python source of a converted graph: runs alone, is trained, reads like the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import tightship as ts
from tests import nets
from tightship import bridges, formats
from tightship.core import graph
from tightship.errors import UnsupportedError

pytest.importorskip("torch")

LOOP = """<ir_version: 9, opset_import: ["" : 17]>
net (float[2, 3] x, int64 n) => (float[2, 3] y) {
  yes = Constant <value_int = 1> ()
  go = Cast <to = 9> (yes)
  y = Loop (n, go, x) <body = step (int64 i, bool c, float[2, 3] v) => (bool again, float[2, 3] w) {
    again = Identity (c)
    w = Add (v, x)
  }>
}"""

BRANCH = """<ir_version: 9, opset_import: ["" : 17]>
net (float[2, 3] x) => (float[2, 3] pad, float[2, 5] softmax) {
  pad = Softmax (x)
  t = Constant <value_ints = [0, 1, 0, 1]> ()
  softmax = Pad (pad, t)
}"""


def saved(text: str, folder: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), folder / "net.onnx")
    return folder / "net.onnx"


def test_the_source_runs_and_trains_without_tightship(tmp_path: Path) -> None:
    source = nets.save(nets.conv_net(), tmp_path)
    assert ts.convert(source, tmp_path / "net.py").proven
    code = """
import sys, torch
from net import example, load
module, inputs = example()
module.train()
optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
before = [parameter.detach().clone() for parameter in module.parameters()]
loss = module(*inputs)["logits"].square().sum()
loss.backward()
optimizer.step()
assert all((old != new).any() for old, new in zip(before, module.parameters(), strict=True))
assert "tightship" not in sys.modules and "onnx" not in sys.modules
print(type(module.get_submodule("w1" if hasattr(module, "w1") else next(iter(dict(module.named_children()))))).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Conv2d"


def test_the_source_computes_what_the_graph_does_in_a_process_of_its_own(tmp_path: Path) -> None:
    source = nets.save(nets.lstm_net(), tmp_path)
    ts.convert(source, tmp_path / "net.py")
    x = np.random.default_rng(0).standard_normal((3, 12, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = "import numpy, torch, net; numpy.save('y', net.load()(torch.from_numpy(numpy.load('x.npy')))['y'].detach())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    import onnxruntime

    (wanted,) = onnxruntime.InferenceSession(source).run(None, {"x": x})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wanted, rtol=0, atol=1e-6)


def test_names_of_values_do_not_hide_functions(tmp_path: Path) -> None:
    assert ts.convert(saved(BRANCH, tmp_path), tmp_path / "out" / "net.py").proven


def test_a_loop_becomes_a_class_of_its_own(tmp_path: Path) -> None:
    module = bridges.route(formats.read(formats.recognise(str(saved(LOOP, tmp_path)))), "module")
    formats.write(module, tmp_path / "made.py")
    text = (tmp_path / "made.py").read_text()
    assert text.count("(nn.Module):") == 2
    code = "import torch, made; print(made.load()(torch.ones(2, 3), torch.tensor(3))['y'].sum().item())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "24.0", done.stderr  # six ones, and three times six more


def test_the_source_depends_on_torch_and_safetensors_only(tmp_path: Path) -> None:
    ts.convert(nets.save(nets.conv_net(), tmp_path), tmp_path / "net.py")
    lines = [line for line in (tmp_path / "net.py").read_text().splitlines() if line.startswith(("import ", "from "))]
    homes = {line.split()[1].partition(".")[0] for line in lines}
    assert homes <= {*sys.stdlib_module_names, "torch", "safetensors"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("float[4, 4]", "a = MatMul (x, w) b = Tanh (a) c = MatMul (b, w)"),
        ("int64[4]", "a = Gather (w, x) b = Tanh (a) c = MatMul (w, b)"),
    ],
    ids=["two layers", "a layer and an operator"],
)
def test_weights_that_are_used_twice_stay_shared(tmp_path: Path, kind: str, body: str) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 17]>
    net ({kind} x) => (float[4, 4] y) <float[4, 4] w = {{1,2,3,4, 5,6,7,8, 9,1,2,3, 4,5,6,7}}>
    {{ {body} y = Sigmoid (c) }}"""
    assert ts.convert(saved(text, tmp_path), tmp_path / "out" / "net.py").proven
    code = "import net; print(sum(p.numel() for p in net.load().parameters()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "16"


def test_a_module_that_was_no_graph_goes_through_one(tmp_path: Path) -> None:
    evidence = ts.convert("examples.resnet_cifar10:resnet20", tmp_path / "resnet.py")
    assert [step.name for step in evidence.steps] == ["torch-to-onnx", "onnx-to-torch", "write-torch-source"]


def test_a_module_that_was_no_graph_is_not_printed_itself(tmp_path: Path) -> None:
    model = formats.read(formats.recognise("examples.resnet_cifar10:resnet20"))
    with pytest.raises(UnsupportedError, match="from a module that was a graph, found ResNet"):
        formats.write(model, tmp_path / "net.py")
    assert list(tmp_path.iterdir()) == []


def test_a_python_file_is_read_by_its_function(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    with pytest.raises(UnsupportedError, match="net:example"):
        formats.recognise(str(tmp_path / "net.py"))


def test_the_graph_is_not_changed_by_printing(tmp_path: Path) -> None:
    model = bridges.route(graph.from_bytes(onnx.parser.parse_model(BRANCH).SerializeToString()), "module")
    before = model.content.module.code
    formats.write(model, tmp_path / "net.py")
    assert model.content.module.code == before
