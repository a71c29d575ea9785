"""What a server is told to serve: at its start, and by load and unload; and the copies it makes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import nets
from tests.serve.rollouts import QUICK, House
from tightship.api import keying
from tightship.api.packing import pack
from tightship.errors import ArtifactNotFound, PackageError, SignatureError, UsageError
from tightship.package.opening import NO_KEYS, Keys
from tightship.serve.deployment import Deployment
from tightship.serve.failures import BadRequest, Conflict, NoSuchModel
from tightship.serve.packages import Packages
from tightship.serve.rollout.strategies import make_plan
from tightship.serve.routing import Routes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of `net`, versions 1 and 2, and the plain file other.onnx."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        path = nets.save(nets.mlp(8, seed), folder, f"v{seed}.onnx")
        pack([path], folder / f"v{seed}.ship", name="net", version=str(seed))
    nets.save(nets.mlp(8, 3), folder, "other.onnx")
    return folder


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, n_workers=2)
    yield made
    made.close()


def deployment(house: House, keys: Keys = NO_KEYS) -> Deployment:
    packages = Packages(house.folder / "packages", keys)
    return Deployment(house.state, house.registered, packages, house.rollouts)


def stable(house: House) -> dict[str, str]:
    found = house.state.desired().models.values()
    return {model.name: model.routes.stable for model in found if model.served}


def test_a_start_serves_packages_by_their_manifest_and_files_by_their_name(house: House, models: Path) -> None:
    assert deployment(house).start([str(models / "v1.ship"), str(models / "other.onnx")]) == ("net", "other")
    house.tick()
    assert stable(house) == {"net": "1", "other": "1"}
    assert all(len(worker.catalogue.loaded) == 2 for worker in house.workers)


def test_the_users_file_may_be_changed_or_removed_afterwards(house: House, models: Path, tmp_path: Path) -> None:
    given = tmp_path / "net.ship"
    given.write_bytes((models / "v1.ship").read_bytes())
    deployment(house).start([str(given)])
    with given.open("r+b") as file:  # in place, as `cp` over it does
        file.write(b"something else")
    copy = Path(house.state.desired().models["net"].versions[0].path)
    assert copy.read_bytes() == (models / "v1.ship").read_bytes()


def test_a_restart_with_the_same_command_keeps_what_a_rollout_decided(house: House, models: Path) -> None:
    deployment(house).start([str(models / "v1.ship")])
    house.tick()
    with house.following():
        assert deployment(house).load("net", deployment(house).packages.accept(models / "v2.ship"), "ann") == "2"
    deployment(house).start([str(models / "v1.ship")])
    assert stable(house) == {"net": "2"}


def test_a_restart_with_a_new_package_serves_that_and_can_go_back(house: House, models: Path) -> None:
    deployment(house).start([str(models / "v1.ship")])
    house.tick()
    deployment(house).start([str(models / "v2.ship")])
    assert stable(house) == {"net": "2"}
    with house.following():
        house.rollouts.rollback("net", "ann")
    assert stable(house) == {"net": "1"}


def test_a_restart_serves_no_more_what_only_an_earlier_start_named(house: House, models: Path) -> None:
    deployment(house).start([str(models / "v1.ship")])
    with house.following():
        deployment(house).load("mine", deployment(house).packages.accept(models / "v2.ship"), "ann")
    assert deployment(house).start([str(models / "other.onnx")]) == ("mine", "other")
    house.tick()
    assert all({name for name, _ in worker.catalogue.loaded} == {"mine", "other"} for worker in house.workers)
    assert deployment(house).start([]) == ("mine", "other")


def test_two_models_of_one_name_are_refused(house: House, models: Path) -> None:
    with pytest.raises(UsageError, match=r"v1.ship and .*v2.ship are both called net; pack one under another name"):
        deployment(house).start([str(models / "v1.ship"), str(models / "v2.ship")])
    assert stable(house) == {}


def test_unloading_and_loading_again(house: House, models: Path) -> None:
    deployment(house).start([str(models / "v1.ship")])
    house.tick()
    with house.following():
        deployment(house).unload("net", "ann")
        assert all(not worker.catalogue.loaded for worker in house.workers)
        assert deployment(house).load("net", None, "ann") == "1"
        assert all(worker.catalogue.routes["net"] == Routes("1") for worker in house.workers)
        with pytest.raises(NoSuchModel):
            deployment(house).unload("nett", "ann")
        with pytest.raises(NoSuchModel):
            deployment(house).load("nett", None, "ann")


def test_loading_another_version_goes_over_at_once_and_the_same_one_changes_nothing(house: House, models: Path) -> None:
    deployment(house).start([str(models / "v1.ship")])
    house.tick()
    with house.following():
        second = deployment(house).packages.accept(models / "v2.ship")
        assert deployment(house).load("net", second, "ann") == "2"
        revision = house.state.revision()
        assert deployment(house).load("net", second, "ann") == "2"
    assert house.state.revision() == revision
    assert all(worker.catalogue.routes["net"] == Routes("2") for worker in house.workers)


@pytest.mark.parametrize("known", [True, False])
def test_what_cannot_be_loaded_leaves_all_as_it_was_and_may_be_tried_again(
    house: House, models: Path, known: bool
) -> None:
    if known:
        deployment(house).start([str(models / "v1.ship")])
    house.tick()
    house.workers[1].catalogue.broken["2"] = "no memory"
    before = stable(house)
    given = deployment(house).packages.accept(models / "v2.ship")
    with house.following():
        with pytest.raises(
            BadRequest, match=r"version 2 of net cannot be served: .*no memory; all is as it was before"
        ):
            deployment(house).load("net", given, "ann")
        assert stable(house) == before
        house.workers[1].catalogue.broken.clear()
        assert deployment(house).load("net", given, "ann") == "2"


def test_loading_another_version_while_a_rollout_runs_is_refused(house: House, models: Path) -> None:
    house.serve("1")
    house.start("7")
    with pytest.raises(Conflict, match="runs; promote or abort it first"):
        deployment(house).load("net", deployment(house).packages.accept(models / "v2.ship"), "ann")


def test_unloading_ends_a_rollout(house: House) -> None:
    house.serve("1")
    rollout = house.start("2")
    house.tick(3)
    with house.following():
        deployment(house).unload("net", "ann")
    assert house.find(rollout).reason == "the model was unloaded"
    assert all(not worker.catalogue.loaded for worker in house.workers)


def test_a_package_is_copied_once_and_an_upload_is_the_same_as_a_file(house: House, models: Path) -> None:
    packages = deployment(house).packages
    first = packages.accept(models / "v1.ship")
    changed = first.path.stat().st_mtime_ns
    data = (models / "v1.ship").read_bytes()
    second = packages.receive([data[:100], data[100:]], "ann")
    assert (second.path, second.digest, second.version) == (first.path, first.digest, "1")
    assert packages.accept(models / "v1.ship").path.stat().st_mtime_ns >= changed
    assert len(list((house.folder / "packages").iterdir())) == 1


def test_the_same_bytes_may_be_served_under_two_names(house: House, models: Path, tmp_path: Path) -> None:
    for name in ("one.onnx", "two.onnx"):
        (tmp_path / name).write_bytes((models / "other.onnx").read_bytes())
    deployment(house).start([str(tmp_path / "one.onnx"), str(tmp_path / "two.onnx")])
    paths = [Path(model.versions[0].path) for model in house.state.desired().models.values()]
    assert [path.name for path in paths if path.exists()] == ["one.onnx", "two.onnx"]


def test_a_damaged_package_leaves_nothing_behind(house: House, models: Path) -> None:
    packages = deployment(house).packages
    with pytest.raises(PackageError):
        packages.receive([(models / "v1.ship").read_bytes()[:-50]], "ann")
    assert list((house.folder / "packages").iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing_behind(house: House) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"PK"
        raise BadRequest("the upload broke off")

    with pytest.raises(BadRequest):
        deployment(house).packages.receive(blocks(), "ann")
    assert list((house.folder / "packages").iterdir()) == []


def test_where_signatures_count_unsigned_packages_and_plain_files_are_refused(
    house: House, models: Path, tmp_path: Path
) -> None:
    keying.new_key("ed25519", tmp_path / "signer")
    packages = deployment(house, Keys(trust=(str(tmp_path / "signer.pub"),))).packages
    for name in ("v1.ship", "other.onnx"):
        with pytest.raises(SignatureError):
            packages.accept(models / name)
    assert list((house.folder / "packages").iterdir()) == []
    pack([models / "v1.onnx"], tmp_path / "signed.ship", name="net", sign_with=str(tmp_path / "signer.key"))
    assert packages.accept(tmp_path / "signed.ship").name == "net"


def test_external_data_is_copied_with_its_model(house: House, tmp_path: Path) -> None:
    onnx.save(nets.mlp(8, 0), tmp_path / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    copied = deployment(house).packages.accept(tmp_path / "big.onnx")
    (tmp_path / "big.data").unlink()
    found = onnx.load(copied.path)
    for one, other in zip(nets.mlp(8, 0).graph.initializer, found.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


def test_what_is_not_there_is_told(house: House, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="no such file on the server's machine"):
        deployment(house).packages.accept(tmp_path / "none.ship")
    (tmp_path / "folder.ship").mkdir()
    with pytest.raises(ArtifactNotFound, match="is not a file; a package is one"):
        deployment(house).packages.accept(tmp_path / "folder.ship")
    with pytest.raises(ArtifactNotFound, match=r"no such file on the server's machine|cannot be read by the server"):
        deployment(house).packages.accept(f"/{'x' * 5000}.ship")


def test_versions_that_nobody_will_go_back_to_are_forgotten(house: House) -> None:
    house.serve("1")
    for version in ("2", "3", "4", "5", "6"):
        house.start(version, make_plan("canary", [1.0], every_s=0.0, shadow=0.0, limits=QUICK, keep_old_s=0.0))
        house.tick(3)
        house.answers(30)
        house.tick(3)
    house.start("7")
    house.tick(3)
    with house.following():
        house.rollouts.abort("net", "ann")
        deployment(house).tidy()
        assert [version.version for version in house.state.desired().models["net"].versions] == ["3", "4", "5", "6"]
        assert [house.rollouts.rollback("net", "ann").new for _ in range(3)] == ["5", "4", "3"]
        with pytest.raises(Conflict, match="no version before 3"):
            house.rollouts.rollback("net", "ann")


def test_copies_that_nobody_refers_to_are_removed_once_they_are_old(house: House, models: Path) -> None:
    packages = deployment(house).packages
    kept, old, new = (packages.accept(models / name).path for name in ("v1.ship", "v2.ship", "other.onnx"))
    for path in (kept, old):
        os.utime(path, (time.time() - 7200,) * 2)
    assert packages.sweep([str(kept)]) == 1
    assert (kept.exists(), old.exists(), new.exists()) == (True, False, True)
