"""Fused MPNet equals the stock one in outputs and gradients, with trained weights, padding and any length."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import MPNetModel

from mtl.model.attention import fuse_mpnet, is_mpnet
from mtl.model.loading import load_backbone

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (1, 2, 3, 8, 17, 64, 127, 128)


@pytest.fixture(scope="module")
def stock(mpnet_folder: Path) -> MPNetModel:
    """Trained weights with a strong position bias, which the conversion has left at 0."""
    model = load_backbone(mpnet_folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.encoder.relative_attention_bias.weight.normal_(std=2.0, generator=generator)
    return model


@pytest.fixture
def fused(stock: MPNetModel) -> MPNetModel:
    return fuse_mpnet(copy.deepcopy(stock))


def _batch(length: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask; each row but the first shorter than the one before, if it can be."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1000, 30000, (rows, length), generator=generator)
    lengths = torch.linspace(length, 1, rows).round().long()
    mask = torch.arange(length) < lengths[:, None]
    return ids.masked_fill(~mask, 1), mask


def _hidden(fused: MPNetModel, ids: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """Run embeddings and layers with one bias for all of them."""
    hidden = fused.embeddings(input_ids=ids)
    bias = fused.encoder.attention_bias(hidden, mask)
    for layer in fused.encoder.layer:
        (hidden,) = layer(hidden, bias)
    return hidden


@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_are_equal(stock: MPNetModel, fused: MPNetModel, length: int) -> None:
    ids, mask = _batch(length)
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=mask).last_hidden_state
        actual = _hidden(fused, ids, mask)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 9, 40])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_equal(stock: MPNetModel, fused: MPNetModel, length: int, training: bool) -> None:
    ids, mask = _batch(length)
    direction = torch.randn(*ids.shape, 384, generator=torch.Generator().manual_seed(1)) / ids.numel()
    gradients = []
    for model in (copy.deepcopy(stock), fused):
        _without_dropout(model).train(training)
        if model is fused:
            hidden = _hidden(model, ids, mask)
        else:
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        (hidden * direction * mask.unsqueeze(-1)).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    expected, actual = gradients
    assert expected.keys() == actual.keys()
    assert length == 1 or actual["encoder.relative_attention_bias.weight"].abs().max() > 1e-5
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_lengths_in_any_order_share_one_table(stock: MPNetModel) -> None:
    encoder = fuse_mpnet(copy.deepcopy(stock)).encoder
    for length in (1, 128, 5, 700, 512, 30):
        hidden = torch.zeros(2, length, 4)
        expected = stock.encoder.compute_position_bias(hidden)
        assert torch.equal(encoder.attention_bias(hidden, None).expand(2, -1, -1, -1), expected)
    assert len(encoder.offsets_buckets) == 1


def test_training_after_inference_mode(fused: MPNetModel) -> None:
    ids, mask = _batch(9)
    with torch.inference_mode():
        _hidden(fused, ids, mask)
    _hidden(fused, ids, mask).sum().backward()
    assert fused.encoder.relative_attention_bias.weight.grad is not None


def test_bias_holds_the_padding(stock: MPNetModel) -> None:
    encoder = fuse_mpnet(copy.deepcopy(stock)).encoder
    _, mask = _batch(6)
    bias = encoder.attention_bias(torch.zeros(3, 6, 4), mask)
    assert bias.shape == (3, 12, 6, 6)
    padded = ~mask[:, None, None, :].expand_as(bias)
    assert (bias[padded] == torch.finfo(torch.float32).min).all()
    assert torch.equal(bias[~padded], encoder.attention_bias(torch.zeros(3, 6, 4), None).expand_as(bias)[~padded])


def test_no_mask(stock: MPNetModel, fused: MPNetModel) -> None:
    ids, _ = _batch(7)
    with torch.no_grad():
        expected = stock(input_ids=ids).last_hidden_state
        actual = _hidden(fused, ids, None)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_the_models_own_pass_stays_that_of_the_stock_model(stock: MPNetModel, fused: MPNetModel) -> None:
    ids, mask = _batch(7)
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=mask, **options).to_tuple()
        actual = fused(input_ids=ids, attention_mask=mask, **options).to_tuple()
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)


def test_row_of_padding_alone_stays_finite(fused: MPNetModel) -> None:
    ids, mask = _batch(5)
    mask[2] = False
    hidden = _hidden(fused, ids, mask)
    hidden.sum().backward()
    assert hidden.isfinite().all()
    assert all(p.grad.isfinite().all() for p in fused.parameters() if p.grad is not None)


def test_dropout_works_in_training_alone(fused: MPNetModel) -> None:
    ids, mask = _batch(12)
    _without_dropout(fused)
    for layer in fused.encoder.layer:
        layer.attention.attn.dropout.p = 0.5

    def run(training: bool) -> Any:
        return _hidden(fused.train(training), ids, mask).detach()

    assert torch.equal(run(False), run(False))
    assert not torch.allclose(run(True), run(True), atol=1e-2)


def test_bfloat16_is_as_near_as_that_of_the_stock_model(stock: MPNetModel, fused: MPNetModel) -> None:
    ids, mask = _batch(40)
    with torch.no_grad():
        exact = stock(input_ids=ids, attention_mask=mask).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = stock(input_ids=ids, attention_mask=mask).last_hidden_state
            actual = _hidden(fused, ids, mask)
    expected_error, error = ((hidden - exact)[mask].abs().mean() for hidden in (expected, actual))
    assert error < 1.5 * expected_error


def test_weights_keep_their_names(stock: MPNetModel) -> None:
    expected = {name: tensor.clone() for name, tensor in stock.state_dict().items()}
    model = fuse_mpnet(copy.deepcopy(stock))
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert is_mpnet(model)


def _without_dropout(model: MPNetModel) -> MPNetModel:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model
