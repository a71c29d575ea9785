"""What is exported: one artifact of a package, or a model file, what is known of it, and how its files are written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tightship.core.artifact import file_digest
from tightship.core.specs import TensorSpec
from tightship.errors import PackageError, UnsupportedError, UsageError, nearest
from tightship.package.contents import gather
from tightship.package.manifest import Manifest, PackedArtifact
from tightship.package.package import Package

__all__ = ["Exportable", "of_model", "of_package"]

Put = Callable[[str, Path], None]


@dataclass(frozen=True)
class Exportable:
    """`put` writes the file that has a name in the package to a path; `digest` is the package's, or empty."""

    manifest: Manifest
    artifact: PackedArtifact
    names: tuple[str, ...]
    digests: Mapping[str, str]
    digest: str
    put: Put

    @property
    def file_name(self) -> str:
        """The name of its main file, or folder."""
        return PurePosixPath(self.artifact.path).name

    @property
    def files(self) -> Mapping[str, str]:
        """Its files: the path below the model's folder, by the name in the package."""
        folder = PurePosixPath(self.artifact.path).parent
        return {
            name: PurePosixPath(name).relative_to(folder).as_posix()
            for name in self.names
            if PurePosixPath(name).is_relative_to(folder)
        }

    @property
    def tops(self) -> frozenset[str]:
        """What of its files lies directly in the model's folder."""
        return frozenset(path.partition("/")[0] for path in self.files.values())

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes. Raises `UnsupportedError` where it is not known."""
        if not self.manifest.inputs or not self.manifest.outputs:
            raise UnsupportedError(
                f"the inputs and outputs of {self.file_name} are not known; install what reads {self.artifact.format} "
                "files and pack or export it anew"
            )
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self.manifest.outputs

    def write_files(self, folder: Path) -> None:
        """Write the model's files into a folder, byte by byte as they are. Raises `PackageError` where one is not."""
        for name, path in self.files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            self.put(name, place)
            if name in self.digests and file_digest(place) != self.digests[name]:
                raise PackageError(f"{name}: what was written is not what the manifest says; nothing is left behind")


def of_package(package: Package, takes: tuple[str, ...], name: str = "") -> Exportable:
    """Choose the artifact called `name`, or the first of a format that is taken.

    Raises `UsageError` for an unknown name, and `UnsupportedError` where there is none to take.
    """
    manifest = package.manifest
    digests = {name: record.sha256 for name, record in manifest.files.items()}
    artifact = _chosen(manifest.artifacts, takes, name, str(package.path))

    def put(inside: str, place: Path) -> None:
        place.write_bytes(package.read(inside))

    return Exportable(manifest, artifact, package.names(), digests, package.digest, put)


def of_model(model: Path, takes: tuple[str, ...]) -> Exportable:
    """A model file with what lies beside it, as it would be packed."""
    contents = gather([str(model)], model.stem, "", "", "")
    artifact = _chosen(contents.manifest.artifacts, takes, "", str(model))

    def put(inside: str, place: Path) -> None:
        shutil.copyfile(contents.files[inside], place)

    digests = {name: file_digest(path) for name, path in contents.files.items() if name.startswith("artifacts/")}
    return Exportable(contents.manifest, artifact, tuple(contents.files), digests, "", put)


def _chosen(artifacts: tuple[PackedArtifact, ...], takes: tuple[str, ...], name: str, place: str) -> PackedArtifact:
    known = {artifact.name: artifact for artifact in artifacts}
    if name and name not in known:
        raise UsageError(f"{place} has no artifact {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    fitting = [entry for entry in ((known[name],) if name else artifacts) if entry.format in takes]
    if not fitting:
        found = ", ".join(dict.fromkeys(entry.format for entry in artifacts))
        raise UnsupportedError(
            f"{place}: this export takes {' or '.join(takes)}, found {found}; convert first: tightship convert"
        )
    return fitting[0]
