"""The verbs, in the order a person meets them. The command line is a thin skin over these functions.

inspect   what is in a model, and what looks risky
convert   write a model in another format, and prove that it computes the same
check     do two models compute the same
bench     which of several models and engines is fastest here
compress  apply one recipe, nothing decided
weights   write the tensors of a model in another container, bit by bit the same
optimize  search for the smallest or fastest model within a budget, with the evidence
run       run a model or a package on data
pack      put models and their evidence into one file, signed and sealed
unpack    write the files of a package into a folder (`tightship open`)
verify    check signature and digests of a package
sign      sign a package that is there
rekey     change who can open a sealed package
diff      say what differs between two packages
push      put a package into a registry
pull      fetch a package from a registry
export    write a model as MLflow, Triton or KServe read it
serve     answer for packages and model files over HTTP and gRPC until told to stop
rollout   bring a new version live on a running server: `find_server`, `start_rollout`
doctor    what this machine has and can do
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightship.api.benching import BenchRow, bench
    from tightship.api.checking import check
    from tightship.api.compressing import compress
    from tightship.api.converting import convert, list_formats
    from tightship.api.inspecting import inspect
    from tightship.api.optimizing import optimize
    from tightship.api.options import Options
    from tightship.api.packing import Keyless, diff, pack, rekey, sign, unpack, verify
    from tightship.api.rolling import find_server, start_rollout
    from tightship.api.running import run
    from tightship.api.serving import serve
    from tightship.api.sharing import Access, export, pull, push
    from tightship.api.weighing import Weighed, weights
    from tightship.measure.doctor import examine as doctor
    from tightship.package.opening import Identity, Keys, Sigstore

__all__ = [
    "Access",
    "BenchRow",
    "Identity",
    "Keyless",
    "Keys",
    "Options",
    "Sigstore",
    "Weighed",
    "bench",
    "check",
    "compress",
    "convert",
    "diff",
    "doctor",
    "export",
    "find_server",
    "inspect",
    "list_formats",
    "optimize",
    "pack",
    "pull",
    "push",
    "rekey",
    "run",
    "serve",
    "sign",
    "start_rollout",
    "unpack",
    "verify",
    "weights",
]

_NAMED_OTHERWISE = {"doctor": "examine"}
_HOMES = {
    "Access": "api.sharing",
    "bench": "api.benching",
    "BenchRow": "api.benching",
    "check": "api.checking",
    "compress": "api.compressing",
    "convert": "api.converting",
    "diff": "api.packing",
    "doctor": "measure.doctor",
    "export": "api.sharing",
    "find_server": "api.rolling",
    "Identity": "package.opening",
    "inspect": "api.inspecting",
    "Keyless": "api.packing",
    "Keys": "package.opening",
    "list_formats": "api.converting",
    "optimize": "api.optimizing",
    "Options": "api.options",
    "pack": "api.packing",
    "pull": "api.sharing",
    "push": "api.sharing",
    "rekey": "api.packing",
    "run": "api.running",
    "serve": "api.serving",
    "sign": "api.packing",
    "Sigstore": "package.opening",
    "start_rollout": "api.rolling",
    "unpack": "api.packing",
    "verify": "api.packing",
    "Weighed": "api.weighing",
    "weights": "api.weighing",
}
"""Where each name lives; it is imported when it is first used, so that no verb waits for what another one needs."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tightship.api' has no attribute {name!r}")
    module = importlib.import_module(f"tightship.{_HOMES[name]}")
    return getattr(module, _NAMED_OTHERWISE.get(name, name))
