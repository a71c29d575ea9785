"""A KServe InferenceService (serving.kserve.io/v1beta1, protocol v2), and the model repository that it serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.errors import UsageError
from tightship.package.exports.export import Export
from tightship.package.exports.exportable import Exportable
from tightship.package.exports.interface import plain_name
from tightship.package.exports.triton import Triton
from tightship.package.exports.yaml_text import to_yaml

__all__ = ["KServe"]

MANIFEST = "inferenceservice.yaml"
REPOSITORY = "model-repository"
README = "README.md"
PLACEHOLDER = "s3://REPLACE-ME/model-repository"


@dataclass(frozen=True)
class KServe(Export):
    """An InferenceService for KServe's Triton runtime.

    `storage_uri` is where `model-repository/` will lie for the cluster: s3://, gs://, pvc://, https://, hf://.
    """

    storage_uri: str = PLACEHOLDER
    max_batch: int = 8

    name = "kserve"
    about = "a KServe InferenceService (protocol v2) with the model repository that it serves"
    takes: ClassVar[tuple[str, ...]] = Triton.takes

    def __post_init__(self) -> None:
        if "://" not in self.storage_uri:
            raise UsageError(f"--storage-uri {self.storage_uri!r} is no URI; expected one such as s3://bucket/folder")

    def ours(self, model: Exportable) -> frozenset[str]:
        return frozenset({MANIFEST, REPOSITORY, README})

    def write(self, model: Exportable, folder: Path) -> Path:
        path = Triton(self.max_batch).write(model, folder / REPOSITORY)
        (folder / MANIFEST).write_text(self.manifest(model), encoding="utf-8")
        (folder / README).write_text(self._readme(model), encoding="utf-8")
        return path

    def manifest(self, model: Exportable) -> str:
        """Return the text of the InferenceService."""
        digest = model.digests.get(model.artifact.path, model.digest)
        return to_yaml(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {
                    "name": plain_name(model.manifest.name),
                    "annotations": {"tightship/model-sha256": digest},
                },
                "spec": {
                    "predictor": {
                        "model": {
                            "modelFormat": {"name": "triton", "version": "2"},
                            "protocolVersion": "v2",
                            "runtime": "kserve-tritonserver",
                            "storageUri": self.storage_uri,
                        }
                    }
                },
            }
        )

    def _readme(self, model: Exportable) -> str:
        name = plain_name(model.manifest.name)
        return (
            f"# {name} on KServe\n\n"
            f"1. Copy `{REPOSITORY}/` to where the cluster can read it, and write that place as `storageUri` into\n"
            f"   `{MANIFEST}` (now: `{self.storage_uri}`).\n"
            f"2. `kubectl apply -f {MANIFEST}`\n"
            f"3. `kubectl get inferenceservice {name}`; then POST to `/v2/models/{name}/infer` (Open Inference "
            "Protocol).\n"
        )
