"""What is signed: the in-toto statement of OpenSSF Model Signing v1.0, a name and the SHA-256 of every file.

https://github.com/sigstore/model-transparency, https://github.com/in-toto/attestation/tree/main/spec/v1
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tightship.errors import SignatureError, UsageError
from tightship.package import strict_json

__all__ = ["PAYLOAD_TYPE", "Statement", "compare", "read_statement", "write_statement"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
DIGEST = re.compile(r"[0-9a-f]{64}")
SHOWN = 5

Statement = tuple[str, dict[str, str]]
"""The name of the model, and the SHA-256 (hex) of each of its files by POSIX path."""


def write_statement(digests: Mapping[str, str], name: str) -> bytes:
    """The statement as JSON, files in the order of their path's parts, as model-signing has them."""
    wrong = [path for path, digest in digests.items() if not DIGEST.fullmatch(digest) or not _is_plain(path)]
    if wrong or not digests:
        raise UsageError(f"expected relative paths with their SHA-256 in hex to sign, found {wrong[:1] or 'none'}")
    resources = [
        {"name": path, "algorithm": "sha256", "digest": digests[path]} for path in sorted(digests, key=PurePosixPath)
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root_digest(resources)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": resources,
        },
    }
    return json.dumps(statement, indent=2).encode()


def read_statement(payload: bytes) -> Statement:
    """Name and digests of a statement whose signature holds. Raises `SignatureError` where it is not such a one."""
    try:
        statement = strict_json.load(payload)
        _expect("_type", statement["_type"], STATEMENT_TYPE)
        _expect("predicateType", statement["predicateType"], PREDICATE_TYPE)
        (subject,) = statement["subject"]
        predicate = statement["predicate"]
        _expect("method", predicate["serialization"]["method"], "files")
        _expect("hash_type", predicate["serialization"]["hash_type"], "sha256")
        digests = {_path(entry): _digest(entry) for entry in predicate["resources"]}
        _expect("number of different files", len(digests), len(predicate["resources"]))
        _expect("root digest", subject["digest"]["sha256"], _root_digest(predicate["resources"]))
        if not isinstance(subject["name"], str):
            raise ValueError("the subject's name is not a text")
        return subject["name"], digests
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SignatureError(f"the signed statement is not one of OpenSSF Model Signing v1.0: {what}") from error


def compare(signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise `SignatureError` naming the files that were changed, added or removed since they were signed."""
    changed = sorted(path for path in signed.keys() & found.keys() if signed[path] != found[path])
    kinds = {
        "changed": [f"{path} (signed {signed[path][:12]}, found {found[path][:12]})" for path in changed],
        "added": sorted(found.keys() - signed.keys()),
        "removed": sorted(signed.keys() - found.keys()),
    }
    told = [f"{kind}: {_some(paths)}" for kind, paths in kinds.items() if paths]
    if told:
        raise SignatureError(f"the files are not those that were signed; {'; '.join(told)}; get them anew")


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def _root_digest(resources: list[dict[str, Any]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(entry["digest"]) for entry in resources)).hexdigest()


def _path(entry: Mapping[str, Any]) -> str:
    if not isinstance(entry["name"], str) or not _is_plain(entry["name"]):
        raise ValueError(f"{entry['name']!r} is not a relative path of a file")
    return entry["name"]


def _digest(entry: Mapping[str, Any]) -> str:
    _expect("algorithm", entry["algorithm"], "sha256")
    if not isinstance(entry["digest"], str) or not DIGEST.fullmatch(entry["digest"]):
        raise ValueError(f"{entry['digest']!r} is not a SHA-256 in hex")
    return entry["digest"]


def _is_plain(path: str) -> bool:
    """Whether a path is relative, stays inside, and is written in the one way that names its file."""
    return bool(path) and path == str(PurePosixPath(path)) and not path.startswith("/") and ".." not in path.split("/")


def _expect(what: str, found: Any, expected: Any) -> None:
    if found != expected or isinstance(found, bool) != isinstance(expected, bool):
        raise ValueError(f"{what} is {str(found)[:80]!r}, expected {expected!r}")
