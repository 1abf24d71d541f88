"""Adapters: nothing changes with them at first, the packed layers see them, and merged weights give the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, DistilBertConfig, DistilBertModel

from mtl.base.errors import ModelError
from mtl.model.adapters import TARGETS, add_adapters, merge_adapters
from mtl.model.encoder import Encoder
from mtl.model.network import MultiTaskNetwork
from tests.support.networks import network

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ("minilm_folder", "mpnet_folder", "tiny_folder")
PROJECTIONS = ("query", "key", "value", "attention_output")


def adapted(folder: Path, *, dropout: float = 0.0, targets: tuple[str, ...] = tuple(TARGETS)) -> Encoder:
    """Return an encoder with adapters that change what it gives."""
    encoder = Encoder.from_folder(folder)
    add_adapters(encoder.backbone, encoder.layer_names[1:], r=4, alpha=8, dropout=dropout, targets=targets)
    disturb(encoder)
    return encoder


def disturb(encoder: Encoder) -> None:
    random = torch.Generator().manual_seed(0)
    size = 0.05 if encoder.hidden_size > 100 else 0.5  # random weights, of the small encoders, hardly matter to results
    with torch.no_grad():
        for name in encoder.adapter_names:
            for _, parameter in encoder.layer_parameters(name):
                parameter.copy_(size * torch.randn(parameter.shape, generator=random))


def batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 200, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def run(encoder: Encoder, lengths: list[int], *, bf16: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the embeddings, and the gradients of the adapters as one vector."""
    parameters = [each for name in encoder.adapter_names for _, each in encoder.layer_parameters(name)]
    torch.manual_seed(seed)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        embeddings = encoder(*batch(lengths))
    loss = (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum()
    gradients = torch.autograd.grad(loss, parameters)
    return embeddings.detach(), torch.cat([each.flatten() for each in gradients])


def plain(monkeypatch: pytest.MonkeyPatch, encoder: Encoder, lengths: list[int], **how: bool) -> tuple[Tensor, Tensor]:
    """The same through the layers of transformers and the wrappers of peft."""
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "_packable", lambda *_: False)
        return run(encoder, lengths, **how)


@pytest.mark.parametrize("folder", FOLDERS)
def test_fresh_adapters_change_no_bit(folder: str, request: pytest.FixtureRequest) -> None:
    encoder = Encoder.from_folder(request.getfixturevalue(folder))
    with torch.inference_mode():
        before = encoder(*batch([7, 3]))
    add_adapters(encoder.backbone, ["layer.0", "layer.2"], r=4, alpha=8, dropout=0.5, targets=PROJECTIONS)
    assert encoder.adapter_names == ["lora.0", "lora.2"]
    with torch.inference_mode():
        after = encoder(*batch([7, 3]))
    assert torch.equal(after, before)
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("targets", [("query",), ("value", "feed_forward"), tuple(TARGETS)], ids="+".join)
@pytest.mark.parametrize("folder", FOLDERS)
def test_packed_layers_see_the_adapters_as_plain_ones_do(
    folder: str, targets: tuple[str, ...], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = adapted(request.getfixturevalue(folder), targets=targets)
    without = Encoder.from_folder(request.getfixturevalue(folder))(*batch([9, 2, 8, 1]))
    found, expected = run(encoder, [9, 2, 8, 1]), plain(monkeypatch, encoder, [9, 2, 8, 1])
    assert (found[0] - without).abs().max() > 1e-3
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
    assert found[1].any()


@pytest.mark.parametrize("folder", FOLDERS[:2])
def test_dropout_of_the_adapters_is_that_of_the_plain_layers(
    folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = adapted(request.getfixturevalue(folder), dropout=0.3)
    for name in encoder.adapter_names:
        for module in encoder.layer_modules(name):
            module.train()
    lengths = [8, 8, 8]  # without padding both draw the same random numbers for the same elements
    found, expected = run(encoder, lengths), plain(monkeypatch, encoder, lengths)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[0], run(encoder, lengths, seed=1)[0])
    assert torch.equal(run(encoder.eval(), lengths)[0], run(encoder, lengths, seed=1)[0])


def test_bf16_is_as_near_to_fp32_as_autocast(minilm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = adapted(minilm_folder)
    lengths = [31, 3, 30, 5]
    exact, packed = run(encoder, lengths), run(encoder, lengths, bf16=True)
    autocast = plain(monkeypatch, encoder, lengths, bf16=True)
    assert not torch.equal(packed[0], exact[0])
    assert torch.cosine_similarity(packed[0], exact[0]).min() > 0.9995
    errors = [((each[1] - exact[1]).norm() / exact[1].norm()).item() for each in (packed, autocast)]
    assert errors[0] < max(0.03, 2.5 * errors[1])


@pytest.mark.parametrize("folder", FOLDERS)
def test_merged_weights_give_the_same_and_nothing_of_peft_is_left(folder: str, request: pytest.FixtureRequest) -> None:
    encoder = adapted(request.getfixturevalue(folder), dropout=0.1)
    names = Encoder.from_folder(request.getfixturevalue(folder)).state_dict().keys()
    before = encoder(*batch([9, 2, 8, 1]))
    merge_adapters(encoder.backbone)
    torch.testing.assert_close(encoder(*batch([9, 2, 8, 1])), before, rtol=0, atol=1e-5)
    assert encoder.state_dict().keys() == names
    assert encoder.adapter_names == []
    assert not any("peft" in type(module).__module__ for module in encoder.modules())
    assert not hasattr(encoder.backbone, "peft_config")


def test_an_encoder_without_adapters_merges_nothing(tiny_folder: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    merge_adapters(encoder.backbone)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_an_adapter_is_a_layer_of_its_own(tiny_folder: Path) -> None:
    net: MultiTaskNetwork = network(tiny_folder)
    plain_names = {name: [each for each, _ in net.layer_parameters(name)] for name in net.layer_names}
    encoder = net.encoder
    add_adapters(encoder.backbone, ["layer.1", "layer.2"], r=4, alpha=8, dropout=0.1, targets=("query", "feed_forward"))
    assert net.layer_names == (*encoder.layer_names, "lora.1", "lora.2", "heads.topic", "heads.mood")
    # query 32 x 32, feed-forward 32 x 64 and back: r * (in + out) each
    counts = [sum(each.numel() for _, each in net.layer_parameters(name)) for name in encoder.adapter_names]
    inner = encoder.config.intermediate_size
    assert counts == [4 * (64 + 2 * (32 + inner))] * 2
    names = [name for layer in net.layer_names for name, _ in net.layer_parameters(layer)]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert plain_names["layer.0"] == [name for name, _ in net.layer_parameters("layer.0")]
    within = {part for module in net.layer_modules("lora.1") for part in module.modules()}
    assert not within & {part for module in net.layer_modules("lora.2") for part in module.modules()}
    assert within < set(net.layer_modules("layer.1")[0].modules())


def test_distilbert_has_them_too() -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=200, dim=16, n_heads=2, n_layers=2, hidden_dim=32)
    encoder = Encoder(DistilBertModel(config)).eval()
    add_adapters(encoder.backbone, ["layer.0", "layer.1"], r=2, alpha=4, dropout=0.0, targets=tuple(TARGETS))
    disturb(encoder)
    before = encoder(*batch([5, 3]))
    assert sum(isinstance(each, nn.Linear) for each in encoder.layer_modules("lora.0")[1].modules()) == 1
    merge_adapters(encoder.backbone)
    torch.testing.assert_close(encoder(*batch([5, 3])), before, rtol=0, atol=1e-5)


def test_a_family_of_other_layers_is_refused() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "embedding_size": 8}
    encoder = Encoder(AlbertModel(AlbertConfig(vocab_size=200, **sizes), add_pooling_layer=False))
    with pytest.raises(ModelError) as caught:
        add_adapters(
            encoder.backbone, encoder.layer_names[1:], r=2, alpha=4, dropout=0.0, targets=("query", "feed_forward")
        )
    (problem,) = caught.value.problems
    assert problem.place == "freeze.lora.targets"
    assert problem.found.startswith("no query, feed_forward in a Albert")
    assert problem.expected == "another encoder, or another scenario than freeze=lora"
