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

SECONDS = 0.05
"""Timed briefly: no test here depends on which candidate is the fastest."""


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


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work folder for all: each step is done once, as it would be for a person who tries several commands."""
    return tmp_path_factory.mktemp("work")


def test_a_folder_holds_the_model_the_plan_the_recipe_and_the_report(
    work: Path, tmp_path: Path, model: Path, data: str
) -> None:
    plan = ts.optimize(model, data, tmp_path / "out", ts.Budget(max_drop=0.05), ts.Options(work=work, seconds=SECONDS))
    names = {child.name for child in (tmp_path / "out").iterdir()}
    assert {"plan.json", "recipe.toml", "report.html"} < names
    assert Plan.from_json((tmp_path / "out" / "plan.json").read_text()) == plan
    assert plan.output is not None and Path(plan.output).name in names


def test_what_was_written_computes_what_the_source_does(work: Path, tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(
        model, data, tmp_path / "out", ts.Budget(max_drop=0.05, goal="size"), ts.Options(work=work, seconds=SECONDS)
    )
    arrays = np.load(data)
    (logits,) = ort.InferenceSession(str(plan.output)).run(None, {"image": arrays["image"]})
    # The budget allows 5 points on the population; 400 items of it may be off by two standard errors more.
    assert (logits.argmax(1) == arrays["labels"]).mean() >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)


def test_every_candidate_has_a_verdict_with_its_reason(work: Path, tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, None, ts.Budget(max_drop=0.05), ts.Options(work=work, seconds=SECONDS))
    assert plan.baseline.name == "source"
    assert len(plan.candidates) > 3
    assert all(entry.reason for entry in plan.candidates)
    assert len({entry.name for entry in plan.candidates}) == len(plan.candidates)
    assert sum(entry.name == plan.chosen for entry in plan.candidates) == 1


def test_the_chosen_is_never_slower_and_its_drop_is_bounded(work: Path, tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, None, ts.Budget(max_drop=0.05, goal="size"), ts.Options(work=work, seconds=SECONDS))
    if plan.best.status == "baseline":
        pytest.skip("on this machine nothing was smaller without being slower")
    measured = plan.best.measurement
    assert measured is not None and measured.ratio is not None and not measured.ratio.slower
    assert measured.drop is None or measured.drop.upper <= 0.05
    assert measured.drop is not None or measured.agreement is not None


def test_items_that_calibrate_do_not_decide(work: Path, tmp_path: Path, model: Path, data: str) -> None:
    plan = ts.optimize(model, data, None, options=ts.Options(work=work, seconds=SECONDS, calibration=60))
    assert (plan.n_calibration, plan.n_decision) == (60, 340)


def test_without_data_fidelity_decides_and_the_plan_says_so(work: Path, tmp_path: Path, model: Path) -> None:
    plan = ts.optimize(model, None, tmp_path / "out", options=ts.Options(work=work, seconds=SECONDS))
    assert plan.metric == "cosine" and plan.generated
    assert any("takes the place of accuracy" in note for note in plan.notes)


def test_an_output_file_has_the_others_beside_it(work: Path, tmp_path: Path, model: Path) -> None:
    ts.optimize(model, None, tmp_path / "small.onnx", options=ts.Options(work=work, seconds=SECONDS))
    names = sorted(child.name for child in tmp_path.iterdir() if child.name.startswith("small"))
    assert names == ["small.onnx", "small.plan.json", "small.recipe.toml", "small.report.html"]


def test_the_same_run_again_gives_the_same_plan(work: Path, tmp_path: Path, model: Path, data: str) -> None:
    first = ts.optimize(model, data, None, options=ts.Options(work=work, seconds=SECONDS))
    assert ts.optimize(model, data, None, options=ts.Options(work=work, seconds=SECONDS)) == first


def test_the_recipe_it_left_can_be_judged_again(work: Path, tmp_path: Path, model: Path, data: str) -> None:
    ts.optimize(
        model, data, tmp_path / "out", ts.Budget(max_drop=0.05, goal="size"), ts.Options(work=work, seconds=SECONDS)
    )
    again = ts.optimize(
        model,
        data,
        None,
        ts.Budget(max_drop=0.05, goal="size"),
        ts.Options(work=work, seconds=SECONDS, recipe=tmp_path / "out" / "recipe.toml"),
    )
    assert len(again.candidates) == 2


def test_a_dry_run_lists_candidates_and_writes_nothing(work: Path, tmp_path: Path, model: Path) -> None:
    plan = ts.optimize(model, None, tmp_path / "out", options=ts.Options(work=work, seconds=SECONDS, dry_run=True))
    assert len(plan.candidates) > 3 and all(entry.measurement is None for entry in plan.candidates)
    assert not (tmp_path / "out").exists()


def test_the_source_stays_as_it_was(work: Path, tmp_path: Path, model: Path) -> None:
    before = model.read_bytes()
    ts.optimize(model, None, tmp_path / "out", options=ts.Options(work=work, seconds=SECONDS))
    assert model.read_bytes() == before


def test_a_size_limit_that_nothing_meets_is_a_budget_error_with_the_report(
    work: Path, tmp_path: Path, model: Path
) -> None:
    with pytest.raises(BudgetError, match=r"0\.0001 MB are allowed"):
        ts.optimize(model, None, tmp_path / "out", ts.Budget(max_size_mb=1e-4), ts.Options(work=work, seconds=SECONDS))
    assert {child.name for child in (tmp_path / "out").iterdir()} == {"plan.json", "recipe.toml", "report.html"}


def test_data_of_another_shape_is_refused_before_any_work(work: Path, tmp_path: Path, model: Path) -> None:
    np.savez(tmp_path / "bad.npz", image=np.zeros((9, 3, 8, 8), np.float32))
    with pytest.raises(DatasetMismatch, match=r"expected shape \[1, 8, 8\], found \[3, 8, 8\]"):
        ts.optimize(model, str(tmp_path / "bad.npz"), tmp_path / "out", options=ts.Options(work=work, seconds=SECONDS))
    assert not (tmp_path / "out").exists()


def test_calibration_that_leaves_nothing_to_decide_is_refused(
    work: Path, tmp_path: Path, model: Path, data: str
) -> None:
    with pytest.raises(DatasetError, match="leave none to decide with"):
        ts.optimize(model, data, None, options=ts.Options(work=work, seconds=SECONDS, calibration=400))


def test_an_output_folder_with_strangers_is_refused_before_any_work(work: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(OutputError, match="files that are not ours"):
        ts.optimize(model, None, tmp_path, options=ts.Options(work=work, seconds=SECONDS))


def test_the_source_is_never_replaced_by_the_output(work: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(OutputError, match="would replace the source"):
        ts.optimize(model, None, model, options=ts.Options(work=work, seconds=SECONDS))


def test_an_unknown_engine_is_a_usage_error_with_the_nearest_name(work: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'openvino'"):
        ts.optimize(model, None, None, options=ts.Options(work=work, seconds=SECONDS, engines=("openvno",)))
