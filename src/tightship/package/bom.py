"""The bill of materials of a package: CycloneDX 1.6, with a model card; the same bytes for the same package."""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tightship.core import extras
from tightship.engines import ENGINES
from tightship.package.manifest import FileRecord, Manifest

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

__all__ = ["bill_of_materials"]

_NAMESPACE = uuid.UUID("6f3f0a3e-0f8c-5d0e-9d5e-6b1a5c1f7a11")


def bill_of_materials(manifest: Manifest, files: Mapping[str, FileRecord]) -> bytes:
    """Return the BOM as JSON: the model, every file with its SHA-256, and the engines that run it.

    Raises `MissingExtra` without cyclonedx-python-lib.
    """
    extras.check("cyclonedx", "the bill of materials of a package")
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    described = json.dumps([manifest.name, manifest.version, {name: files[name].sha256 for name in sorted(files)}])
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, described))
    model = _model(manifest, files)
    bom.metadata.component = model
    engines = list(_engines(manifest))
    for engine in engines:
        bom.components.add(engine)
    bom.register_dependency(model, engines)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]  # the same package has the same BOM, whenever it is made
    document["metadata"]["component"]["modelCard"] = _card(manifest)  # the library does not know model cards yet
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _model(manifest: Manifest, files: Mapping[str, FileRecord]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    parts = [
        Component(
            name=name,
            type=ComponentType.FILE,
            bom_ref=f"file:{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=record.sha256)],
        )
        for name, record in sorted(files.items())
    ]
    return Component(
        name=manifest.name,
        version=manifest.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        licenses=[_licence(manifest.licence)] if manifest.licence else [],
        description=manifest.intended_use or None,
        components=parts,
    )


def _licence(text: str) -> Any:
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    known = fixup_id(text)
    return DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=text)


def _engines(manifest: Manifest) -> Iterator[Component]:
    """The engines that the artifacts are for, in the version that is installed here."""
    from cyclonedx.model.component import Component, ComponentType

    for name in sorted({artifact.target.engine for artifact in manifest.artifacts} & set(ENGINES)):
        package = ENGINES[name].module.replace("_", "-")
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        yield Component(name=package, version=version or None, type=ComponentType.FRAMEWORK, bom_ref=f"engine:{name}")


def _card(manifest: Manifest) -> dict[str, Any]:
    """The model card (CycloneDX 1.6, `modelCard`)."""
    card: dict[str, Any] = {
        "modelParameters": {
            "inputs": [{"format": str(spec)} for spec in manifest.inputs],
            "outputs": [{"format": str(spec)} for spec in manifest.outputs],
        }
    }
    if manifest.metrics:
        rows = [{"type": name, "value": f"{value:.6g}"} for name, value in sorted(manifest.metrics.items())]
        card["quantitativeAnalysis"] = {"performanceMetrics": rows}
    if manifest.intended_use:
        card["considerations"] = {"useCases": [manifest.intended_use]}
    return card
