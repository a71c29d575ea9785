"""A package as the CNCF ModelPack specification has it: one manifest, one config, one layer that is the package file.

https://github.com/modelpack/model-spec (docs/spec.md, docs/config.md, docs/annotations.md, v0.0.7)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tightship.errors import RegistryError
from tightship.package import strict_json

__all__ = ["MANIFEST_MEDIA_TYPE", "Content", "Descriptor", "digest_of", "parse_manifest", "write_manifest"]

MANIFEST_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_MEDIA_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_MEDIA_TYPE = "application/vnd.cncf.model.weight.v1.raw"
FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
FORMAT = "tightship"

_DIGEST_LENGTH = len("sha256:") + 64


@dataclass(frozen=True)
class Descriptor:
    """A blob by its digest (`sha256:` and 64 hex digits) and its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Content:
    """What a manifest says: the blob of the package, the blob of the config, and the file name it was pushed under."""

    layer: Descriptor
    config: Descriptor
    name: str


def digest_of(data: bytes) -> str:
    """`sha256:` and the digest as hex."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write_manifest(name: str, layer: Descriptor) -> tuple[bytes, bytes]:
    """Return manifest and config of the package file `name`: the same bytes for the same file, on any day."""
    config = _json(
        {
            "descriptor": {"name": PurePath(name).stem or name},
            "modelfs": {"type": "layers", "diffIds": [layer.digest]},
            "config": {"format": FORMAT},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_MEDIA_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {
                "mediaType": WEIGHT_MEDIA_TYPE,
                "digest": layer.digest,
                "size": layer.size,
                "annotations": {FILEPATH: name, TITLE: name},
            }
        ],
    }
    return _json(manifest), config


def parse_manifest(data: bytes, content_type: str, place: str) -> Content:
    """Read a manifest that came from anywhere.

    Raises `RegistryError` where it is no manifest of a package: other media types than those written above, a media
    type that differs from the one it was sent under, an index, a second layer, sizes and digests that are none.
    """
    manifest = _object(_load(data, place), "the manifest", place)
    _expect(manifest.get("mediaType"), MANIFEST_MEDIA_TYPE, "media type of the manifest", place)
    _expect(content_type.partition(";")[0].strip(), MANIFEST_MEDIA_TYPE, "Content-Type that it was sent under", place)
    _expect(manifest.get("artifactType"), ARTIFACT_TYPE, "artifact type", place)
    if "manifests" in manifest:
        raise RegistryError(f"{place}: the manifest is an index too, so that it can be read in two ways; refused")
    config = _object(manifest.get("config"), "the config", place)
    _expect(config.get("mediaType"), CONFIG_MEDIA_TYPE, "media type of the config", place)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        found = len(layers) if isinstance(layers, list) else "none"
        raise RegistryError(
            f"{place}: expected one layer, the package file, found {found}; was it pushed by tightship?"
        )
    layer = _object(layers[0], "the layer", place)
    _expect(layer.get("mediaType"), WEIGHT_MEDIA_TYPE, "media type of the layer", place)
    annotations = layer.get("annotations")
    name = annotations.get(FILEPATH) if isinstance(annotations, dict) else None
    return Content(_descriptor(layer, place), _descriptor(config, place), name if isinstance(name, str) else "")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _load(data: bytes, place: str) -> Any:
    try:
        return strict_json.load(data)
    except ValueError as error:
        raise RegistryError(f"{place}: the manifest is no JSON that can be trusted: {str(error)[:200]}") from error


def _object(value: Any, what: str, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RegistryError(f"{place}: {what} is no JSON object; was it pushed by tightship?")
    return value


def _expect(found: Any, wanted: str, what: str, place: str) -> None:
    if found != wanted:
        raise RegistryError(f"{place}: {what}: expected {wanted}, found {str(found)[:100]!r}; this is no package")


def _descriptor(value: dict[str, Any], place: str) -> Descriptor:
    digest, size = value.get("digest"), value.get("size")
    hexadecimal = isinstance(digest, str) and digest.startswith("sha256:") and len(digest) == _DIGEST_LENGTH
    if not hexadecimal or set(str(digest)[7:]) - set("0123456789abcdef"):
        raise RegistryError(f"{place}: expected a digest of sha256: and 64 hex digits, found {str(digest)[:100]!r}")
    if type(size) is not int or not 0 <= size < 2**63:
        raise RegistryError(f"{place}: expected a size in bytes, found {str(size)[:100]!r}")
    return Descriptor(str(digest), size)
