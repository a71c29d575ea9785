"""The commands around packages as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests import nets
from tests.package.certificate_chain import Chain
from tests.package.key_pairs import key
from tightship.cli import main
from tightship.package.keys import write_pair


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where model, data and keys lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    nets.save(nets.conv_net(), tmp_path)
    np.savez("data.npz", image=np.random.default_rng(0).random((20, 1, 8, 8), np.float32))
    for name, kind in (("signer", "ed25519"), ("receiver", "x25519"), ("colleague", "x25519")):
        assert run("keys", "new", "--type", kind, "-o", name) == 0
    return tmp_path


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("name", ["pack", "open", "verify", "sign", "rekey", "diff", "run"])
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"    tightship {name} " in capsys.readouterr().out.replace("  tightship", "    tightship")


def test_a_model_is_packed_verified_and_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pack", "model.onnx", "-o", "model.ship", "--licence", "MIT") == 0
    assert "not signed, not sealed" in capsys.readouterr().out
    assert run("verify", "model.ship") == 0
    assert "2 files and the manifest are as they were packed" in capsys.readouterr().out
    assert run("open", "model.ship", "-o", "opened") == 0
    assert (folder / "opened/artifacts/onnx/model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert {child.name for child in (folder / "opened").iterdir()} == {
        "artifacts",
        "bom.cdx.json",
        "format.json",
        "manifest.json",
    }


def test_a_package_is_opened_over_an_earlier_one_and_not_over_a_stranger(folder: Path) -> None:
    run("pack", "model.onnx", "-o", "model.ship")
    assert run("open", "model.ship", "-o", "opened") == run("open", "model.ship", "-o", "opened") == 0
    (folder / "opened" / "mine.txt").write_text("precious")
    assert run("open", "model.ship", "-o", "opened") == 10
    assert (folder / "opened" / "mine.txt").read_text() == "precious"


def test_a_sealed_and_signed_package_from_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pack", "model.onnx", "-o", "m.ship", "--sign", "signer.key", "--seal", "receiver.pub") == 0
    assert run("verify", "m.ship", "--trust", "signer.pub") == 0
    assert "as it was signed, and was not opened" in capsys.readouterr().out
    assert run("verify", "m.ship") == 2
    assert run("inspect", "m.ship") == 0
    shown = capsys.readouterr().out
    assert "sealed to 1 receiver" in shown and "what is in it is not shown" in shown and "Conv" not in shown
    assert run("rekey", "m.ship", "--key", "receiver.key", "--seal", "colleague.pub") == 0
    assert run("inspect", "m.ship", "--key", "receiver.key") == 13
    assert run("inspect", "m.ship", "--key", "colleague.key", "--trust", "signer.pub") == 0
    assert "signed by ed25519 key" in (shown := capsys.readouterr().out) and "Conv" in shown
    assert run("open", "m.ship", "-o", "opened", "--key", "colleague.key") == 0
    assert (folder / "opened/artifacts/onnx/model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_a_passphrase_seals_and_opens(folder: Path) -> None:
    for name, text in (("right.txt", "correct horse\n"), ("wrong.txt", "battery staple\n")):
        (folder / name).touch(0o600)
        (folder / name).write_text(text)
    assert run("pack", "model.onnx", "-o", "m.ship", "--passphrase-file", "right.txt") == 0
    assert run("verify", "m.ship", "--passphrase-file", "right.txt") == 0
    assert run("verify", "m.ship", "--passphrase-file", "wrong.txt") == 13


def test_outputs_of_a_package_are_those_of_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pack", "model.onnx", "-o", "m.ship", "--seal", "receiver.pub")
    assert run("run", "model.onnx", "--data", "data.npz", "-o", "plain.npz") == 0
    assert run("run", "m.ship", "--data", "data.npz", "-o", "packed.npz", "--key", "receiver.key") == 0
    assert "20 items of data.npz on onnxruntime f32" in capsys.readouterr().out
    with np.load("plain.npz") as plain, np.load("packed.npz") as packed:
        assert plain["logits"].shape == (20, 4)
        assert np.array_equal(plain["logits"], packed["logits"])


def test_check_and_bench_take_packages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pack", "model.onnx", "-o", "m.ship", "--seal", "receiver.pub")
    assert run("check", "model.onnx", "m.ship", "--key", "receiver.key") == 0
    assert "they compute the same" in capsys.readouterr().out
    words = ("--engine", "onnxruntime", "--seconds", "0.05", "--json")
    assert run("bench", "model.onnx", "m.ship", "--key", "receiver.key", *words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [Path(row["model"]).name for row in rows] == ["model.onnx", "m.ship"]


def test_diff_tells_what_differs_and_nothing_where_nothing_does(capsys: pytest.CaptureFixture[str]) -> None:
    run("pack", "model.onnx", "-o", "a.ship", "--name", "net")
    run("pack", "model.onnx", "-o", "b.ship", "--name", "net", "--licence", "MIT", "--version", "2")
    capsys.readouterr()
    assert run("diff", "a.ship", "a.ship") == 0
    assert "hold the same" in capsys.readouterr().out
    assert run("diff", "a.ship", "b.ship", "--json") == 0
    found = {row["name"]: (row["first"], row["second"]) for row in json.loads(capsys.readouterr().out)}
    assert found["licence"] == (None, "MIT") and found["version"] == ("1", "2")
    assert set(found) == {"licence", "version", "bom.cdx.json"}


def test_optimize_writes_a_package_with_its_evidence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.toml").write_text('[[passes]]\nname = "simplify"\n')
    words = ("--recipe", "recipe.toml", "--engine", "onnxruntime", "--seconds", "0.05")
    assert run("optimize", "model.onnx", *words, "-o", "best.ship") == 0
    assert "report: in it" in capsys.readouterr().out
    assert run("inspect", "best.ship", "--json") == 0
    found = json.loads(capsys.readouterr().out)["manifest"]
    assert {"evidence/plan.json", "evidence/recipe.toml", "report.html"} <= set(found["files"])
    assert found["verdict"] and "size_bytes" in found["metrics"] and found["source_digest"]
    assert not [child for child in folder.iterdir() if child.name.startswith(".tmp")]
    assert run("run", "best.ship", "--data", "data.npz", "-o", "out.npz") == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pack", "absent.onnx", "-o", "a.ship"], 3, "absent.onnx"),
        (["pack", "model.onnx", "-o", "a.zip"], 2, "a package ends in .ship; expected for instance a.ship"),
        (["pack", "model.onnx", "-o", "a.ship", "--seal", "signer.pub"], 2, "ed25519"),
        (["pack", "model.onnx", "-o", "a.ship", "--seal", "receiver.key"], 2, "private key"),
        (["pack", "model.onnx", "-o", "a.ship", "--sign", "receiver.key"], 2, "x25519"),
        (["pack", "model.onnx", "-o", "/proc/nowhere/a.ship"], 10, "cannot write"),
        (["verify", "absent.ship"], 11, "cannot be opened: No such file"),
        (["verify", "model.onnx"], 11, "no package"),
        (["verify", "p.ship", "--trust", "signer.pub"], 12, "is not signed"),
        (["rekey", "p.ship", "--key", "receiver.key", "--seal", "colleague.pub"], 2, "is not sealed"),
        (["rekey", "p.ship", "--seal", "colleague.pub"], 2, "needs a key"),
        (["run", "p.ship", "--data", "data.npz", "-o", "out.txt"], 2, "written as .npz"),
        (["run", "p.ship", "--data", "data.npz", "-o", "o.npz", "--artifact", "onx"], 2, "did you mean 'onnx'"),
        (["run", "p.ship", "--data", "data.npz", "-o", "o.npz", "--engine", "tensorrt"], 2, "unknown engine"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("pack", "model.onnx", "-o", "p.ship")
    capsys.readouterr()
    assert run(*words) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_who_trusts_a_root_needs_no_key_of_the_signer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, stranger = Chain(), Chain()
    (folder / "chain.pem").write_bytes(b"".join(entry.public_bytes(Encoding.PEM) for entry in chain.chain))
    for name, each in (("root", chain), ("stranger", stranger)):
        (folder / f"{name}.pem").write_bytes(each.root.public_bytes(Encoding.PEM))
    write_pair(key("ec-p256"), folder / "maker")
    run("pack", "model.onnx", "-o", "model.ship")
    assert run("sign", "model.ship", "--with", "maker.key", "--certificate", "chain.pem") == 0
    assert run("verify", "model.ship", "--trust", "root.pem") == 0
    assert run("verify", "model.ship", "--trust", "stranger.pem") == 12
    assert run("verify", "model.ship", "--trust", "maker.pub") == 12
    assert "name one with --trust" in capsys.readouterr().err
    assert run("run", "model.ship", "--data", "data.npz", "--trust", "root.pem", "-o", "out.npz") == 0
