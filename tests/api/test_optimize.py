"""The main job, end to end, on small models: what must hold whatever the clock says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import tightship as ts
from tests import nets
from tightship.core.plan import Plan
from tightship.errors import BudgetError, DatasetError, DatasetMismatch, OutputError, UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return nets.save(nets.conv_net(), tmp_path)


@pytest.fixture
def data(tmp_path: Path, model: Path) -> str:
    """400 random images labelled by the model itself, so that the source is always right."""
    images = np.random.default_rng(0).standard_normal((400, 1, 8, 8)).astype(np.float32)
    (logits,) = ort.InferenceSession(model).run(None, {"image": images})
    np.savez(tmp_path / "data.npz", image=images, labels=logits.argmax(1))
    return str(tmp_path / "data.npz")


def options(tmp_path: Path, **values: object) -> ts.Options:
    return ts.Options(work=tmp_path / "work", **values)  # type: ignore[arg-type]


def test_a_folder_holds_the_model_the_plan_the_recipe_and_the_report(tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, tmp_path / "out", ts.Budget(max_drop=0.05), options(tmp_path))
    names = {child.name for child in (tmp_path / "out").iterdir()}
    assert {"plan.json", "recipe.toml", "report.html"} < names
    assert Plan.from_json((tmp_path / "out" / "plan.json").read_text()) == plan
    assert plan.output is not None and Path(plan.output).name in names


def test_what_was_written_computes_what_the_source_does(tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, tmp_path / "out", ts.Budget(max_drop=0.05, goal="size"), options(tmp_path))
    arrays = np.load(data)
    (logits,) = ort.InferenceSession(str(plan.output)).run(None, {"image": arrays["image"]})
    # The budget allows 5 points on the population; 400 items of it may be off by two standard errors more.
    assert (logits.argmax(1) == arrays["labels"]).mean() >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)


def test_every_candidate_has_a_verdict_with_its_reason(tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, None, ts.Budget(max_drop=0.05), options(tmp_path))
    assert plan.baseline.name == "source"
    assert len(plan.candidates) > 3
    assert all(entry.reason for entry in plan.candidates)
    assert len({entry.name for entry in plan.candidates}) == len(plan.candidates)
    assert sum(entry.name == plan.chosen for entry in plan.candidates) == 1


def test_the_chosen_is_never_slower_and_its_drop_is_bounded(tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, None, ts.Budget(max_drop=0.05, goal="size"), options(tmp_path))
    if plan.best.status == "baseline":
        pytest.skip("on this machine nothing was smaller without being slower")
    measured = plan.best.measurement
    assert measured is not None and measured.ratio is not None and not measured.ratio.slower
    assert measured.drop is None or measured.drop.upper <= 0.05
    assert measured.drop is not None or measured.agreement is not None


def test_items_that_calibrate_do_not_decide(tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, None, options=options(tmp_path, calibration=60))
    assert (plan.n_calibration, plan.n_decision) == (60, 340)


def test_without_data_fidelity_decides_and_the_plan_says_so(tmp_path: Path, model: Path) -> None:
    plan = ts.optimize(model, None, tmp_path / "out", options=options(tmp_path))
    assert plan.metric == "cosine" and plan.generated
    assert any("takes the place of accuracy" in note for note in plan.notes)


def test_an_output_file_has_the_others_beside_it(tmp_path: Path, model: Path) -> None:
    ts.optimize(model, None, tmp_path / "small.onnx", options=options(tmp_path))
    names = sorted(child.name for child in tmp_path.iterdir() if child.name.startswith("small"))
    assert names == ["small.onnx", "small.plan.json", "small.recipe.toml", "small.report.html"]


def test_the_same_run_again_gives_the_same_plan(tmp_path: Path, model: Path, data: str) -> None:
    first = ts.optimize(model, data, None, options=options(tmp_path))
    assert ts.optimize(model, data, None, options=options(tmp_path)) == first


def test_the_recipe_it_left_can_be_judged_again(tmp_path: Path, model: Path, data: str) -> None:
    ts.optimize(model, data, tmp_path / "out", ts.Budget(max_drop=0.05, goal="size"), options(tmp_path))
    again = ts.optimize(
        model,
        data,
        None,
        ts.Budget(max_drop=0.05, goal="size"),
        options(tmp_path, recipe=tmp_path / "out" / "recipe.toml"),
    )
    assert len(again.candidates) == 2


def test_a_dry_run_lists_candidates_and_writes_nothing(tmp_path: Path, model: Path) -> None:
    plan = ts.optimize(model, None, tmp_path / "out", options=options(tmp_path, dry_run=True))
    assert len(plan.candidates) > 3 and all(entry.measurement is None for entry in plan.candidates)
    assert not (tmp_path / "out").exists()


def test_the_source_stays_as_it_was(tmp_path: Path, model: Path) -> None:
    before = model.read_bytes()
    ts.optimize(model, None, tmp_path / "out", options=options(tmp_path))
    assert model.read_bytes() == before


def test_a_size_limit_that_nothing_meets_is_a_budget_error_with_the_report(tmp_path: Path, model: Path) -> None:
    with pytest.raises(BudgetError, match=r"0\.0001 MB are allowed"):
        ts.optimize(model, None, tmp_path / "out", ts.Budget(max_size_mb=1e-4), options(tmp_path))
    assert {child.name for child in (tmp_path / "out").iterdir()} == {"plan.json", "recipe.toml", "report.html"}


def test_data_of_another_shape_is_refused_before_any_work(tmp_path: Path, model: Path) -> None:
    np.savez(tmp_path / "bad.npz", image=np.zeros((9, 3, 8, 8), np.float32))
    with pytest.raises(DatasetMismatch, match=r"expected shape \[1, 8, 8\], found \[3, 8, 8\]"):
        ts.optimize(model, str(tmp_path / "bad.npz"), tmp_path / "out", options=options(tmp_path))
    assert not (tmp_path / "out").exists()


def test_calibration_that_leaves_nothing_to_decide_is_refused(tmp_path: Path, model: Path, data: str) -> None:
    with pytest.raises(DatasetError, match="leave none to decide with"):
        ts.optimize(model, data, None, options=options(tmp_path, calibration=400))


def test_an_output_folder_with_strangers_is_refused_before_any_work(tmp_path: Path, model: Path) -> None:
    with pytest.raises(OutputError, match="files that are not ours"):
        ts.optimize(model, None, tmp_path, options=options(tmp_path))


def test_an_unknown_engine_is_a_usage_error_with_the_nearest_name(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'openvino'"):
        ts.optimize(model, None, None, options=options(tmp_path, engines=("openvno",)))
