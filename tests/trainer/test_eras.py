"""The recipe of the trainer up to 0.9.2 as data: its shifts, boundaries and multiples are the facts'."""

from __future__ import annotations

import pytest

from wan_ui.engine.recipes import RECIPES, scheduler_spec
from wan_ui.models import MODELS, WanModel


@pytest.mark.parametrize("row", MODELS.values(), ids=MODELS)
def test_the_old_trainers_recipe(row: WanModel) -> None:
    recipe = RECIPES["preview_unipc"]
    assert (recipe.sampler, recipe.whole_bf16, recipe.lora, recipe.sigmas) == ("unipc", True, "merge", "before_0_36")
    spec = scheduler_spec(row, recipe)
    assert spec.class_name == "UniPCMultistepScheduler"
    assert spec.config is not None
    assert spec.config["flow_shift"] == (5.0 if row.id == "wan22_5b" else 3.0)
    assert row.divisor["preview_unipc"] == row.divisor["preview"]
    assert row.boundary["preview_unipc"] == (0.875 if row.two_transformers else None)


def test_the_other_recipes_take_the_installed_sigmas() -> None:
    assert {id for id, recipe in RECIPES.items() if recipe.sigmas == "own"} == {"reference", "preview"}
