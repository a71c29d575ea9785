"""Networks with random weights: what they say they are, and such that a wrong conversion would show."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from benchmarks.zoo.cells import WRITTEN
from tightship.api import loading
from tightship.measure.generate import generate
from tightship.search import Source

NETWORKS = [f"{module}:{name}" for module in WRITTEN for name in importlib.import_module(module).__all__]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Source:
    return loading.read(request.param)


def built(source: str) -> torch.nn.Module:
    module, name = source.split(":")
    network: torch.nn.Module = getattr(importlib.import_module(module), name)()[0]
    return network


def test_every_output_tells_its_inputs_apart_and_is_finite(network: Source) -> None:
    batch = next(generate(network.model, 8, seed=0).open())
    with network.open() as session:
        for name, output in session.run(batch.inputs).items():
            assert np.isfinite(output).all(), name
            assert output.std(0).mean() > 0.01 * np.abs(output).mean(), name


def test_the_batch_is_free(network: Source) -> None:
    for spec in (*network.model.inputs, *network.model.outputs):
        assert spec.shape[0] == "batch", spec


@pytest.mark.parametrize(
    "source", ["examples.zoo.images:unet", "examples.zoo.sequences:bigru", "examples.zoo.several:dlrm"]
)
def test_building_it_again_gives_the_same_weights(source: str) -> None:
    first, second = built(source).state_dict(), built(source).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("kind", "n_parameters"), [("ResNet18", 11_689_512), ("EfficientNetB0", 5_288_548)])
def test_it_has_as_many_parameters_as_the_published_network(kind: str, n_parameters: int) -> None:
    network = getattr(importlib.import_module("examples.zoo.images"), kind)()
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters


def test_a_causal_decoder_does_not_see_later_tokens() -> None:
    module, inputs = importlib.import_module("examples.zoo.language").llama()
    tokens = inputs["input_ids"]
    changed = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % 1000], 1)
    with torch.no_grad():
        first, second = module(tokens), module(changed)
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


def test_masked_tokens_do_not_change_the_others() -> None:
    module, inputs = importlib.import_module("examples.zoo.language").bert()
    tokens, mask = inputs["input_ids"], inputs["attention_mask"].clone()
    mask[:, 20:] = 0
    changed = torch.cat([tokens[:, :20], (tokens[:, 20:] + 1) % 1000], 1)
    with torch.no_grad():
        first, second = (module(ids, mask)["last_hidden_state"][:, :20] for ids in (tokens, changed))
    # Softmax gives masked tokens a weight of exp(-10000), which is zero; what is left is the order of additions.
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_buckets_of_near_distances_are_their_own_and_of_far_ones_shared() -> None:
    stack = importlib.import_module("examples.zoo.language").T5Stack(is_decoder=True)
    found = stack.buckets(torch.tensor([0, -1, -7, -8, -9, -63, -500, 3])).tolist()
    assert found == [0, 1, 7, 8, 8, 15, 15, 0]
