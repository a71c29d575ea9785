"""Sessions and models from packages: computed as from the file, and from memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import nets
from tightship import api, engines
from tightship.core.target import Target
from tightship.errors import UnsupportedError
from tightship.package import opening
from tightship.package.keys import new_key, write_pair
from tightship.package.kinds import PrivateKey
from tightship.package.opening import Keys


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return new_key("x25519")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_session_from_a_package_computes_what_the_file_does(
    tmp_path: Path, key: PrivateKey, engine: str, sealed: bool
) -> None:
    file = nets.save(nets.mlp(256), tmp_path)  # its weights are large enough to be used where they lie
    private, public = write_pair(key, tmp_path / "k")
    api.pack([file], tmp_path / "a.ship", seal_to=[public] if sealed else ())
    x = {"x": np.random.default_rng(0).random((3, 256), np.float32)}
    with (
        engines.open_session(file, Target(engine)) as plain,
        opening.open_session(tmp_path / "a.ship", engine, keys=Keys(str(private))) as packed,
    ):
        assert np.array_equal(plain.run(x)["y"], packed.run(x)["y"])


def test_external_data_is_read_from_memory(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / "weights").mkdir()
    plain = nets.save(nets.mlp(64), tmp_path, "plain.onnx")
    outside = {"save_as_external_data": True, "location": "weights/m.data", "size_threshold": 64}
    onnx.save_model(nets.mlp(64), tmp_path / "m.onnx", **outside)
    private, public = write_pair(key, tmp_path / "k")
    api.pack([tmp_path / "m.onnx"], tmp_path / "a.ship", seal_to=[public])
    (tmp_path / "weights" / "m.data").unlink()
    assert api.check(plain, tmp_path / "a.ship", keys=Keys(str(private))).agreement.max_abs == 0
    x = {"x": np.random.default_rng(0).random((3, 64), np.float32)}
    with (
        engines.open_session(plain, Target()) as session,
        opening.open_session(tmp_path / "a.ship", keys=Keys(str(private))) as packed,
    ):
        assert np.array_equal(session.run(x)["y"], packed.run(x)["y"])


def test_another_format_is_opened_in_a_folder_in_memory_that_is_gone_afterwards(
    tmp_path: Path, key: PrivateKey
) -> None:
    file = nets.save(nets.conv_net(), tmp_path)
    api.convert(file, tmp_path / "m.xml")
    private, public = write_pair(key, tmp_path / "k")
    packed = api.pack([file, tmp_path / "m.xml"], tmp_path / "a.ship", seal_to=[public])
    assert packed.manifest is not None and [entry.name for entry in packed.manifest.artifacts] == [
        "onnx",
        "openvino-ir",
    ]
    x = {"image": np.random.default_rng(0).random((3, 1, 8, 8), np.float32)}
    keys = Keys(str(private))
    with opening.open_session(tmp_path / "a.ship", keys=keys, name="openvino-ir") as session:
        assert session.target.engine == "openvino"
        assert session.run(x)["logits"].shape == (3, 4)
    home = opening._process_folder()
    assert home.is_relative_to("/dev/shm") and home.stat().st_mode & 0o777 == 0o700
    assert not list(home.iterdir())


def test_without_a_folder_in_memory_a_sealed_model_of_another_format_is_not_opened(
    tmp_path: Path, key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = nets.save(nets.conv_net(), tmp_path)
    api.convert(file, tmp_path / "m.xml")
    private, public = write_pair(key, tmp_path / "k")
    api.pack([tmp_path / "m.xml"], tmp_path / "a.ship", seal_to=[public])
    monkeypatch.setattr(opening, "MEMORY_FOLDER", tmp_path / "absent")
    with pytest.raises(UnsupportedError, match="no folder in memory"):
        opening.open_session(tmp_path / "a.ship", keys=Keys(str(private)))
