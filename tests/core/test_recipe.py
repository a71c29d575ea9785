"""Recipes go to TOML and back, and mistakes are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from tightship.core.dataset import Dataset
from tightship.core.model import Form, Model
from tightship.core.passes import DataNeed, Pass, PassResult
from tightship.core.progress import SILENT, Progress
from tightship.core.recipe import Recipe
from tightship.core.table import Table
from tightship.core.target import Target
from tightship.errors import UsageError


@dataclass(frozen=True)
class Shrink(Pass):
    """Shrink."""

    name: ClassVar[str] = "shrink"
    form: ClassVar[Form] = "graph"
    data: ClassVar[DataNeed] = "none"
    lossless: ClassVar[bool] = True

    bits: Literal[4, 8] = 8
    exclude: tuple[str, ...] = ()

    def apply(self, model: Model, data: Dataset | None = None, progress: Progress = SILENT) -> PassResult:
        return PassResult(model, False)


TABLE: Table[type[Pass]] = Table("pass", {"shrink": Shrink})


def test_a_recipe_comes_back_from_toml_as_it_was() -> None:
    recipe = Recipe((Shrink(4, ("a", "b")), Shrink()), Target("openvino", "bf16", threads=1))
    assert Recipe.from_toml(recipe.to_toml(), TABLE) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("passes = 3", r"\[\[passes\]\]"),
        ("[[passes]]\nbits = 4", "without a name"),
        ('[[passes]]\nname = "shrnk"', r"unknown pass 'shrnk' \(did you mean 'shrink'\?\)"),
        ('[[passes]]\nname = "shrink"\nbit = 4', r"unknown field 'bit' \(did you mean 'bits'\?\)"),
        ('[[passes]]\nname = "shrink"\nbits = 5', "bits"),
        ("[taget]", r"unknown table 'taget' \(did you mean 'target'\?\)"),
        ("[[[", "not a TOML file"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.from_toml(text, TABLE)


def test_a_recipe_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read recipe"):
        Recipe.read(tmp_path / "recipe.toml", TABLE)
