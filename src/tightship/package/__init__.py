"""What leaves the house: a package of artifacts and evidence, signed, sealed, and opened straight into memory."""

from __future__ import annotations

from tightship.package.manifest import FileRecord, Manifest, PackedArtifact
from tightship.package.package import Package, open_package

__all__ = ["FileRecord", "Manifest", "Package", "PackedArtifact", "open_package"]
