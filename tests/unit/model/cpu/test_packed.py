"""Layers over packed tokens give what transformers' layers give: outputs, gradients, dropout, in fp32 and in bf16."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mtl.model.adapters import add_adapters
from mtl.model.cpu.packing import Packing, filled
from mtl.model.encoder import Encoder


@dataclass
class Found:
    """What an encoder gives for a batch."""

    embeddings: Tensor
    gradients: dict[str, Tensor]

    @property
    def gradient(self) -> Tensor:
        """All gradients as one vector."""
        return torch.cat([each.flatten() for each in self.gradients.values()])


def batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    longest = max(lengths)
    ids = torch.randint(1000, 20_000, (len(lengths), longest), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(longest) < torch.tensor(lengths)[:, None]


def run(encoder: Encoder, lengths: list[int], *, bf16: bool = False, seed: int = 0) -> Found:
    encoder.zero_grad()
    torch.manual_seed(seed)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        embeddings = encoder(*batch(lengths))
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
    gradients = {name: each.grad.clone() for name, each in encoder.named_parameters() if each.grad is not None}
    return Found(embeddings.detach(), gradients)


def plain(monkeypatch: pytest.MonkeyPatch, encoder: Encoder, lengths: list[int], *, bf16: bool = False) -> Found:
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "_packable", lambda *_: False)
        return run(encoder, lengths, bf16=bf16)


def assert_equal(found: Found, expected: Found) -> None:
    torch.testing.assert_close(found.embeddings, expected.embeddings, rtol=0, atol=1e-5)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("lengths", [[31, 3, 30, 5, 1, 4], [7, 7, 7], [2], [9, 8, 9]])
def test_packed_and_padded_layers_are_equal(
    lengths: list[int], minilm_folder: Path, mpnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder)
        assert encoder._packable(torch.zeros(1, 1, 1), torch.ones(1, 1))
        assert_equal(run(encoder, lengths), plain(monkeypatch, encoder, lengths))


def test_padding_on_the_left(minilm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.from_folder(minilm_folder)
    hidden = torch.randn(3, 6, 384, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) >= torch.tensor([0, 4, 2])[:, None]
    packed = encoder.forward_from(hidden, mask, 4)
    monkeypatch.setattr(Encoder, "_packable", lambda *_: False)
    torch.testing.assert_close(packed, encoder.forward_from(hidden, mask, 4), rtol=0, atol=1e-5)


def test_dropout_is_that_of_the_plain_layers(
    minilm_folder: Path, mpnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder).train()
        encoder.use_plain_attention()
        encoder.layer_modules("layer.1")[0].eval()  # as if frozen
        lengths = [8, 8, 8]  # without padding both draw the same random numbers for the same elements
        assert_equal(run(encoder, lengths), plain(monkeypatch, encoder, lengths))
        assert not torch.equal(run(encoder, lengths).embeddings, run(encoder, lengths, seed=1).embeddings)


def test_bf16_is_as_near_to_fp32_as_autocast(minilm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.from_folder(minilm_folder)
    lengths = [31, 3, 30, 5, 1, 4]
    exact = run(encoder, lengths)
    packed, autocast = run(encoder, lengths, bf16=True), plain(monkeypatch, encoder, lengths, bf16=True)
    assert packed.embeddings.dtype == torch.float32
    assert not torch.equal(packed.embeddings, exact.embeddings)
    assert torch.cosine_similarity(packed.embeddings, exact.embeddings).min() > 0.9995
    errors = [((each.gradient - exact.gradient).norm() / exact.gradient.norm()).item() for each in (packed, autocast)]
    assert errors[0] < max(0.03, 2.5 * errors[1])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        inferred = encoder(*batch(lengths))
    assert torch.cosine_similarity(inferred, exact.embeddings).min() > 0.9995


def test_autocast_leaves_float64_alone(minilm_folder: Path, mpnet_folder: Path) -> None:
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder).double()
        lengths = [31, 3, 30, 5, 1, 4]
        assert_equal(run(encoder, lengths, bf16=True), run(encoder, lengths))
        with encoder.prepared(), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder(*batch(lengths))
        torch.testing.assert_close(found, run(encoder, lengths).embeddings, rtol=0, atol=1e-5)


def test_what_fills_the_packed_tokens_up_changes_nothing(minilm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.from_folder(minilm_folder).train()
    lengths = [31, 3, 30, 5, 1, 4]
    assert filled(sum(lengths)) > sum(lengths)
    found = run(encoder, lengths)
    monkeypatch.setattr("mtl.model.cpu.packing.filled", lambda tokens: tokens)
    assert_equal(found, run(encoder, lengths))


@pytest.mark.parametrize("lengths", [[31, 3, 30, 5, 1, 4], [9, 8, 9], [12, 3, 7], [9]])
def test_a_pass_without_a_graph_draws_the_same_dropout(lengths: list[int], minilm_folder: Path) -> None:
    encoder = Encoder.from_folder(minilm_folder).train()
    found = run(encoder, lengths)
    torch.manual_seed(0)
    with torch.no_grad():
        again = encoder(*batch(lengths))
    torch.testing.assert_close(again, found.embeddings, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [[31, 3, 30, 5, 1, 4], [7, 7, 7]])
def test_plain_and_fused_attention_are_as_near_to_fp32_in_bf16(
    lengths: list[int], minilm_folder: Path, mpnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder)
        found = []
        for longest, bf16 in ((0, False), (0, True), (256, True)):
            monkeypatch.setattr("mtl.model.cpu.attention.LONGEST_IN_PLAIN", longest)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16), torch.inference_mode():
                found.append(encoder(*batch(lengths)))
        exact, fused, plain_operations = found
        assert not torch.equal(fused, plain_operations)
        for each in (fused, plain_operations):
            assert torch.cosine_similarity(each, exact).min() > 0.9995


@pytest.mark.parametrize("lengths", [[31, 3, 30], [200, 150, 100]])
@pytest.mark.parametrize("bf16", [False, True])
def test_weights_that_are_made_ready_give_the_same(
    bf16: bool, lengths: list[int], minilm_folder: Path, mpnet_folder: Path
) -> None:
    """Fewer tokens than hidden numbers, and more."""
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder)
        add_adapters(encoder.backbone, ["layer.1"], r=4, alpha=8, dropout=0.0, targets=["query", "feed_forward"])
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            expected = encoder(*batch(lengths))
            with encoder.prepared():
                found = encoder(*batch(lengths)), encoder(*batch([4]))
            assert torch.equal(encoder(*batch(lengths)), expected)
        torch.testing.assert_close(found[0], expected, rtol=0, atol=5e-3 if bf16 else 1e-6)
        assert found[1].shape == (1, encoder.hidden_size)


def test_ready_weights_are_for_passes_of_their_type_without_a_graph(minilm_folder: Path) -> None:
    encoder = Encoder.from_folder(minilm_folder)
    expected = run(encoder, [9, 4])
    with encoder.prepared():
        found = run(encoder, [9, 4])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.cosine_similarity(encoder(*batch([9, 4])), expected.embeddings).min() > 0.9995
    assert_equal(found, expected)
    with encoder.prepared(), torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.weight.zero_()  # what is said not to be done
        stale = encoder(*batch([9, 4]))
    with torch.no_grad():
        changed = encoder(*batch([9, 4]))
    torch.testing.assert_close(stale, expected.embeddings, rtol=0, atol=1e-5)
    assert not torch.allclose(changed, stale, atol=1e-3)


@given(st.integers(1, 100_000))
def test_few_more_rows_than_tokens_and_few_different_numbers(tokens: int) -> None:
    rows = filled(tokens)
    assert 0 <= rows - tokens < max(8, tokens / 16)
    assert filled(rows) == rows
    below = 2 ** (tokens.bit_length() - 1)
    assert len({filled(each) for each in range(below, 2 * below, max(1, below // 256))}) <= 33


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_every_real_token_is_packed_once_and_comes_back_to_its_place(lengths: list[int]) -> None:
    _, mask = batch(lengths)
    packing = Packing.of(mask)
    assert sorted(packing.places.tolist()) == mask.flatten().nonzero().squeeze(1).tolist()
    hidden = torch.arange(1.0, mask.numel() + 1).view(*mask.shape, 1)
    packed = packing.pack(hidden)
    assert len(packed) == filled(sum(lengths))
    assert torch.equal(packing.unpack(packed, *mask.shape), hidden * mask.unsqueeze(-1))
    for group in packing.groups:
        own = packed[group.tokens].requires_grad_()
        padded = group.pad(own)
        assert torch.equal(padded.view(group.rows, group.longest)[group.real], own.squeeze(1))
        back = group.unpad(padded)
        assert torch.equal(back, own)
        torch.autograd.backward(back, torch.ones_like(back))
        assert own.grad is not None
        assert torch.equal(own.grad, torch.ones_like(own))
