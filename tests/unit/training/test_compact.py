"""Training the word embeddings in use alone gives what training all of them gives, and puts everything back."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

from mtl.data.tokens import TokenTable
from mtl.model.encoder import Encoder
from mtl.model.heads import Head
from mtl.model.network import MultiTaskNetwork
from mtl.training.compact import CompactEmbedding, compact_embeddings, used_ids
from mtl.training.freezing import FreezePlan, apply_freezing
from mtl.training.learning_rates import parameter_groups, uniform_rates
from mtl.training.losses import TaskLosses
from mtl.training.optimization import build_adamw, clip_norm
from tests.support.networks import TASKS, batch, network

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.data.batch import Batch

PAD = 1  # of `tests.support.networks.batch`
BATCHES = [batch(rows=3, seed=seed) for seed in range(6)]
_SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def with_heads(backbone: nn.Module) -> MultiTaskNetwork:
    heads = {task: Head("linear", 32, classes, dropout=0.0) for task, classes in TASKS.items()}
    return MultiTaskNetwork(Encoder(backbone), heads).eval()


def build(family: str, tiny_folder: Path) -> MultiTaskNetwork:
    if family == "mpnet":
        return network(tiny_folder, dropout=0.0)
    torch.manual_seed(0)
    if family == "albert":  # whose table is narrower than the hidden states
        return with_heads(AlbertModel(AlbertConfig(**_SHAPE, embedding_size=8), add_pooling_layer=False))
    return with_heads(BertModel(BertConfig(**_SHAPE, pad_token_id=PAD), add_pooling_layer=False))


def table(batches: list[Batch]) -> TokenTable:
    """Return the tokens of the batches, without padding, as one row."""
    ids = torch.cat([each.ids[each.mask] for each in batches if each.ids is not None]).numpy().astype(np.int32)
    return TokenTable(ids, np.array([0, len(ids)]))


def everything(net: MultiTaskNetwork) -> FreezePlan:
    return FreezePlan(dict.fromkeys(net.layer_names, 0))


def words(net: MultiTaskNetwork) -> nn.Module:
    found: nn.Module = net.encoder.backbone.get_input_embeddings()
    return found


def weight(net: MultiTaskNetwork) -> Tensor:
    return words(net).get_parameter("weight")


def train(net: MultiTaskNetwork, *, compact: bool, steps: int = 6, fused: bool = True) -> None:
    """Train at a rate and a weight decay that take 30 % off a row that nothing else moves."""
    plan = everything(net)
    rates = uniform_rates(net.encoder.layer_names, heads=0.1, backbone=0.1)
    optimizer = build_adamw(
        parameter_groups(net, rates, plan, weight_decay=0.6), betas=(0.9, 0.999), eps=1e-4, fused=fused
    )
    block = compact_embeddings(net, plan, [table(BATCHES)], PAD) if compact else nullcontext()
    apply_freezing(net, plan, 0)
    net.eval()  # no dropout
    losses = TaskLosses()
    with block:
        assert isinstance(words(net), CompactEmbedding) == compact
        for step in BATCHES[:steps]:
            optimizer.zero_grad()
            torch.autograd.backward(sum(losses(net(step), step.labels).values(), torch.zeros(())))
            clip_norm(optimizer, 1.0)
            optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", ["mpnet", "bert", "albert"])
def test_it_gives_what_training_all_of_them_gives(family: str, fused: bool, tiny_folder: Path) -> None:
    compact, plain = build(family, tiny_folder), build(family, tiny_folder)
    before = weight(plain).detach().clone()
    train(compact, compact=True, fused=fused)
    train(plain, compact=False, fused=fused)
    expected = plain.state_dict()
    found = compact.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    unused = sorted(set(range(len(before))) - set(used_ids([table(BATCHES)], len(before), [PAD]).tolist()))
    assert len(unused) > 100
    torch.testing.assert_close(weight(compact)[unused], weight(plain)[unused], rtol=1e-6, atol=0)
    torch.testing.assert_close(weight(compact)[unused], before[unused] * (1 - 0.06) ** 6, rtol=1e-6, atol=0)


def test_inside_the_parameter_is_the_same_with_the_used_rows(tiny_folder: Path) -> None:
    net = build("mpnet", tiny_folder)
    original, parameter, names = words(net), weight(net), list(net.state_dict())
    whole = parameter.detach().clone()
    ids = torch.tensor([[7, 5, PAD]])
    seen = TokenTable(np.array([7, 5, 7], dtype=np.int32), np.array([0, 2, 3]))
    with compact_embeddings(net, everything(net), [seen], PAD):
        assert weight(net) is parameter
        assert parameter.tolist() == [*whole[[PAD, 5, 7]].tolist(), [1.0] * 32]
        assert torch.equal(words(net)(ids), whole[ids])
        assert list(net.state_dict()) == names
        assert any(each is parameter for _, each in net.layer_parameters("embeddings"))
    assert words(net) is original
    assert weight(net) is parameter
    assert torch.equal(parameter, whole)


@pytest.mark.parametrize("unknown", [6, 0, -1, 10_000])
def test_an_id_that_no_row_has_is_an_error(unknown: int, tiny_folder: Path) -> None:
    net = build("mpnet", tiny_folder)
    seen = TokenTable(np.array([7, 5], dtype=np.int32), np.array([0, 2]))
    with compact_embeddings(net, everything(net), [seen], PAD), pytest.raises(IndexError, match=r"out of range"):
        net.encoder(torch.tensor([[7, unknown]]), torch.ones(1, 2, dtype=torch.bool))


def test_padding_gets_no_gradient(tiny_folder: Path) -> None:
    net = build("mpnet", tiny_folder)
    seen = TokenTable(np.array([7, 5], dtype=np.int32), np.array([0, 2]))
    with compact_embeddings(net, everything(net), [seen], PAD):
        words(net)(torch.tensor([[7, PAD, 7]])).sum().backward()
        gradient = weight(net).grad
    assert gradient is not None
    assert gradient[:, 0].tolist() == [0.0, 0.0, 2.0, 0.0]  # padding, 5, 7, the row of ones
    assert weight(net).grad is None


def test_everything_is_put_back_when_training_fails(tiny_folder: Path) -> None:
    net = build("mpnet", tiny_folder)
    original, whole = words(net), weight(net).detach().clone()
    with pytest.raises(RuntimeError, match="stop"):
        _halve_and_fail(net)
    assert words(net) is original
    assert torch.equal(weight(net), whole * 0.5)


def _halve_and_fail(net: MultiTaskNetwork) -> None:
    with compact_embeddings(net, everything(net), [table(BATCHES)], PAD), torch.no_grad():
        weight(net).mul_(0.5)
        raise RuntimeError("stop")


def test_it_leaves_alone_what_it_cannot_or_should_not_replace(tiny_folder: Path) -> None:
    net = build("bert", tiny_folder)
    assert _compacted(net)
    assert not _compacted(net, FreezePlan({**dict.fromkeys(net.layer_names, 0), "embeddings": 2}))
    assert not _compacted(net, FreezePlan(dict.fromkeys(net.layer_names[1:], 0)))
    most = TokenTable(np.arange(330, dtype=np.int32), np.array([0, 330]))
    assert not _compacted(net, seen=most)
    assert _compacted(net, seen=TokenTable(most.ids[:310], np.array([0, 310])))
    for change in ({"sparse": True}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}):
        other = deepcopy(net)
        vars(words(other)).update(change)
        assert not _compacted(other)
    tied = deepcopy(net)
    tied.encoder.backbone.output = nn.Linear(32, 400, bias=False)
    tied.encoder.backbone.output.weight = weight(tied)
    assert not _compacted(tied)


def _compacted(net: MultiTaskNetwork, plan: FreezePlan | None = None, seen: TokenTable | None = None) -> bool:
    with compact_embeddings(net, plan or everything(net), [seen or table(BATCHES)], PAD):
        return isinstance(words(net), CompactEmbedding)


def test_the_ids_of_all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl.training.compact._CHUNK", 2)
    tables = [TokenTable(np.array(ids, dtype=np.int32), np.array([0, len(ids)])) for ids in ([4, 2, 4, 9, 0], [], [3])]
    assert used_ids(tables, 12, {2, 7}).tolist() == [0, 2, 3, 4, 7, 9]
