"""A plain folder that runs by itself: the model, `run.py`, `requirements.txt`, a Dockerfile and a README."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.errors import UnsupportedError
from tightship.package.exports.export import Export
from tightship.package.exports.exportable import Exportable
from tightship.package.exports.interface import one_line, plain_name
from tightship.package.exports.requirements import RUNS, pinned

__all__ = ["Folder"]

BELOW = "model"
"""The model's own files lie in a folder of their own: they may have any name."""

OPENERS = {
    "onnx": """\
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays)))
""",
    "openvino-ir": """\
    import openvino

    model = openvino.Core().compile_model(path, "CPU")
    names = [entry.get_any_name() for entry in model.outputs]
    return lambda arrays: dict(zip(names, model(arrays).values()))
""",
    "tflite": """\
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)

    inputs = dict(zip(INPUTS, (entry["index"] for entry in interpreter.get_input_details())))
    outputs = dict(zip(OUTPUTS, (entry["index"] for entry in interpreter.get_output_details())))

    def run(arrays):
        for name, index in inputs.items():
            interpreter.resize_tensor_input(index, arrays[name].shape)
        interpreter.allocate_tensors()
        for name, index in inputs.items():
            interpreter.set_tensor(index, arrays[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in outputs.items()}

    return run
""",
    "torch-export": """\
    import torch

    program = torch.export.load(path)
    module = program.module(check_guards=False)
    positions, keywords = program.example_inputs

    def run(arrays):
        tensors = [torch.from_numpy(arrays[name]) for name in INPUTS]
        named = dict(zip(keywords, tensors[len(positions) :]))
        with torch.no_grad():
            found = module(*tensors[: len(positions)], **named)
        leaves = torch.utils._pytree.tree_leaves(found)
        return {name: tensor.numpy() for name, tensor in zip(OUTPUTS, leaves)}

    return run
""",
}

SCRIPT = '''\
"""Run the model: python run.py inputs.npz outputs.npz (arrays by the names of inputs and outputs)."""

import sys
from pathlib import Path

import numpy as np

INPUTS = {inputs!r}
OUTPUTS = {outputs!r}


def open_model(path):
{opener}

def main():
    if len(sys.argv) != 3:
        sys.exit("usage: run.py inputs.npz outputs.npz; inputs: " + ", ".join(INPUTS))
    with np.load(sys.argv[1], allow_pickle=False) as file:
        arrays = {{name: file[name] for name in file.files}}
    missing = [name for name in INPUTS if name not in arrays]
    if missing:
        sys.exit(f"{{sys.argv[1]}} lacks {{', '.join(missing)}}; it has {{', '.join(arrays)}}")
    run = open_model(str(Path(__file__).parent / {folder!r} / {file!r}))
    np.savez(sys.argv[2], **run({{name: arrays[name] for name in INPUTS}}))


if __name__ == "__main__":
    main()
'''

DOCKERFILE = """\
FROM python:{python}-slim
WORKDIR /opt/model
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
USER 65534
ENTRYPOINT ["python", "/opt/model/run.py"]
"""


@dataclass(frozen=True)
class Folder(Export):
    """A folder with all that is needed to run the model, by hand or in a container."""

    name = "dir"
    about = "a plain folder with run.py, requirements.txt, Dockerfile and README"
    takes: ClassVar[tuple[str, ...]] = tuple(OPENERS)

    def ours(self, model: Exportable) -> frozenset[str]:
        return frozenset({BELOW, "run.py", "requirements.txt", "Dockerfile", ".dockerignore", "README.md"})

    def write(self, model: Exportable, folder: Path) -> Path:
        model.write_files(folder / BELOW)
        texts = {
            "run.py": _script(model),
            "requirements.txt": "".join(f"{line}\n" for line in pinned(RUNS[model.artifact.format])),
            "Dockerfile": DOCKERFILE.format(python=_python()),
            ".dockerignore": "*.npz\n",
            "README.md": "\n".join(_readme(model)) + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder / BELOW / model.file_name


def _script(model: Exportable) -> str:
    if model.artifact.format not in OPENERS:
        raise UnsupportedError(f"{model.file_name}: no script runs {model.artifact.format} files")
    return SCRIPT.format(
        inputs=[spec.name for spec in model.inputs],
        outputs=[spec.name for spec in model.outputs],
        opener=OPENERS[model.artifact.format],
        folder=BELOW,
        file=model.file_name,
    )


def _python() -> str:
    """The Python that the versions in requirements.txt were installed for."""
    return ".".join(platform.python_version_tuple()[:2])


def _readme(model: Exportable) -> Iterator[str]:
    manifest, name = model.manifest, plain_name(model.manifest.name)
    version = f", version {one_line(manifest.version)}" if manifest.version else ""
    yield f"# {one_line(manifest.name)}{version}"
    if manifest.intended_use:
        yield f"\n{one_line(manifest.intended_use)}"
    yield "\n## Run it\n"
    yield "```sh"
    yield "pip install -r requirements.txt"
    yield "python run.py inputs.npz outputs.npz"
    yield "```\n"
    yield "or in a container:\n"
    yield "```sh"
    yield f"docker build -t {name} ."
    yield f'docker run --rm --user "$(id -u)" -v "$PWD:/data" {name} /data/inputs.npz /data/outputs.npz'
    yield "```\n"
    yield "`inputs.npz` holds one array for each input, by its name.\n"
    yield "| | name | type | shape |"
    yield "|---|---|---|---|"
    for kind, specs in (("input", model.inputs), ("output", model.outputs)):
        for spec in specs:
            shape = ", ".join(map(str, spec.shape))
            yield f"| {kind} | {one_line(spec.name)} | {spec.dtype} | {one_line(f'[{shape}]')} |"
    yield from _origin(model)


def _origin(model: Exportable) -> Iterator[str]:
    manifest = model.manifest
    facts = {
        "licence": manifest.licence,
        "what was proven": manifest.verdict,
        "made by": manifest.made_by,
        "manifest of the package, SHA-256": model.digest,
    }
    yield "\n## Where it is from\n"
    yield from (f"- {what}: {one_line(fact)}" for what, fact in facts.items() if fact)
    for name, path in model.files.items():
        yield f"- {one_line(f'{BELOW}/{path}')}, SHA-256: {model.digests.get(name, 'not known')}"
