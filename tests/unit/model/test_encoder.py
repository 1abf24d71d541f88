"""The encoder: equal to sentence-transformers, splittable between layers, every parameter in one layer, and loud."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from mtl.base.errors import ModelError
from mtl.model.encoder import Encoder
from mtl.model.layout import SentenceLayout
from mtl.model.loading import SUPPORTED_FAMILIES, load_tokenizer
from tests.support.texts import TEXTS, batch

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ("minilm_folder", "mpnet_folder", "tiny_folder")
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
SPLIT_FAMILIES: dict[str, dict[str, Any]] = {
    "mpnet": SMALL,
    "bert": SMALL,
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "camembert": SMALL,
    "electra": {**SMALL, "embedding_size": 8},
    "distilbert": {
        "vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 40,
    },
}  # fmt: skip
WHOLE_FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {**SMALL, "embedding_size": 8},
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"},
    "modernbert": {**SMALL, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1,
                   "eos_token_id": 2},
}  # fmt: skip


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def own_tiny(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "own")


def _random_backbone(family: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **settings)).eval()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    for parameter in model.parameters():  # so that biases and norms take part, too
        nn.init.normal_(parameter, std=0.3)
    return model


def _random_batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[12], [5], [1]])
    return ids.masked_fill(~mask, 1), mask


# --- equal to the peer -----------------------------------------------------------------------------------------------


def test_embeddings_equal_those_of_sentence_transformers(folder: Path) -> None:
    encoder = Encoder.from_folder(folder)
    assert encoder.max_length is not None
    with torch.no_grad():
        actual = encoder(*batch(folder, encoder.max_length))
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), convert_to_tensor=True)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_converted_mpnet_equals_the_bert_it_came_from(minilm_folder: Path, mpnet_folder: Path) -> None:
    with torch.no_grad():
        bert, mpnet = (Encoder.from_folder(f)(*batch(f, 256)) for f in (minilm_folder, mpnet_folder))
    torch.testing.assert_close(mpnet, bert, atol=1e-5, rtol=0)


def test_padding_and_neighbours_do_not_change_an_embedding(folder: Path) -> None:
    encoder = Encoder.from_folder(folder)
    with torch.no_grad():
        together = encoder(*batch(folder, 100))
        alone = torch.cat([encoder(*batch(folder, 100, (text,))) for text in TEXTS])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_and_normalisation_can_be_chosen(tiny_folder: Path, pooling: str, normalize: bool) -> None:
    encoder = Encoder.from_folder(tiny_folder, pooling=pooling, normalize=normalize)
    ids, mask = batch(tiny_folder, 20)
    with torch.no_grad():
        result, hidden = encoder(ids, mask), encoder.forward_hidden(ids, mask)
    expected = (
        hidden[:, 0] if pooling == "cls" else torch.stack([h[m].mean(0) for h, m in zip(hidden, mask, strict=True)])
    )
    torch.testing.assert_close(result, expected / (expected.norm(dim=1, keepdim=True) if normalize else 1))


def test_embeddings_are_float32_under_autocast(tiny_folder: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = encoder(*batch(tiny_folder, 20))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.norm(dim=1), torch.ones(len(TEXTS)))


# --- split between layers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SPLIT_FAMILIES)
def test_split_forward_equals_forward_and_the_stock_model(family: str) -> None:
    stock = _random_backbone(family, SPLIT_FAMILIES[family])
    encoder = Encoder(copy.deepcopy(stock)).eval()
    ids, mask = _random_batch()
    with torch.no_grad():
        whole = encoder(ids, mask)
        expected = stock(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(encoder.forward_hidden(ids, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)
        for boundary in range(encoder.num_layers + 1):
            below = encoder.hidden_at(ids, mask, boundary)
            assert torch.equal(encoder.forward_from(below, mask, boundary), whole)
        assert torch.equal(encoder.hidden_at(ids, mask, 0), encoder.embed_tokens(ids))
        assert torch.equal(encoder.hidden_at(ids, mask, 3), encoder.forward_hidden(ids, mask))


def test_split_forward_of_trained_weights_equals_forward(folder: Path) -> None:
    encoder = Encoder.from_folder(folder)
    ids, mask = batch(folder, 64)
    with torch.no_grad():
        whole = encoder(ids, mask)
        for boundary in range(encoder.num_layers + 1):
            assert torch.equal(encoder.forward_from(encoder.hidden_at(ids, mask, boundary), mask, boundary), whole)


@pytest.mark.parametrize("family", [*SPLIT_FAMILIES, "deberta-v2", "modernbert"])
def test_hidden_states_at_several_boundaries_from_one_pass(family: str) -> None:
    stock = _random_backbone(family, (SPLIT_FAMILIES | WHOLE_FAMILIES)[family])
    encoder = Encoder(copy.deepcopy(stock)).eval()
    ids, mask = _random_batch()
    with torch.no_grad():
        found = encoder.hidden_states(ids, mask, [0, 2])
        expected = stock(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    for state, boundary in zip(found, (0, 2), strict=True):
        torch.testing.assert_close(state[mask], expected[boundary][mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("boundary", [-1, 4])
def test_unknown_boundary(tiny_folder: Path, boundary: int) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    ids, mask = batch(tiny_folder, 20)
    for call in (encoder.hidden_at, encoder.forward_from):
        with pytest.raises(ValueError, match=rf"^boundary must be from 0 to 3, not {boundary}$"):
            call(ids, mask, boundary)


@pytest.mark.parametrize("family", WHOLE_FAMILIES)
def test_other_families_run_whole(family: str) -> None:
    stock = _random_backbone(family, WHOLE_FAMILIES[family])
    encoder = Encoder(copy.deepcopy(stock)).eval()
    ids, mask = _random_batch()
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        assert torch.equal(encoder.forward_hidden(ids, mask), expected)
    assert not encoder.supports_split
    with pytest.raises(ValueError, match=rf"^a {family} cannot be split between its layers$"):
        encoder.hidden_at(ids, mask, 1)


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*SPLIT_FAMILIES, *WHOLE_FAMILIES])
def test_every_parameter_and_dropout_belongs_to_one_layer(family: str) -> None:
    encoder = Encoder(_random_backbone(family, (SPLIT_FAMILIES | WHOLE_FAMILIES)[family]))
    count = 1 if family == "albert" else 3  # its layers share their weights
    assert encoder.layer_names == ["embeddings", *(f"layer.{index}" for index in range(count))]
    named = [pair for layer in encoder.layer_names for pair in encoder.layer_parameters(layer)]
    assert dict(named) == dict(encoder.named_parameters())
    assert len(named) == len(dict(named))
    modules = [
        part for layer in encoder.layer_names for whole in encoder.layer_modules(layer) for part in whole.modules()
    ]
    assert len(modules) == len(set(modules))
    assert {m for m in encoder.modules() if isinstance(m, nn.Dropout)} <= set(modules)
    assert {id(p) for m in modules for p in m.parameters()} == {id(p) for p in encoder.parameters()}


def _names(encoder: Encoder, layer: str) -> list[str]:
    return [name for name, _ in encoder.layer_parameters(layer)]


def test_what_all_layers_share_counts_to_the_embeddings() -> None:
    mpnet = Encoder(_random_backbone("mpnet", SMALL))
    assert _names(mpnet, "embeddings") == [
        "backbone.embeddings.word_embeddings.weight",
        "backbone.embeddings.position_embeddings.weight",
        "backbone.embeddings.LayerNorm.weight",
        "backbone.embeddings.LayerNorm.bias",
        "backbone.encoder.relative_attention_bias.weight",
    ]
    deberta = Encoder(_random_backbone("deberta-v2", WHOLE_FAMILIES["deberta-v2"]))
    assert {"backbone.encoder.rel_embeddings.weight", "backbone.encoder.LayerNorm.weight"} <= set(
        _names(deberta, "embeddings")
    )


def test_what_follows_the_last_layer_counts_to_it() -> None:
    encoder = Encoder(_random_backbone("modernbert", WHOLE_FAMILIES["modernbert"]))
    assert "backbone.final_norm.weight" in _names(encoder, "layer.2")


def test_layers_of_a_copy_are_those_of_the_copy(tiny_folder: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    twin = copy.deepcopy(encoder)
    own = {id(parameter) for parameter in twin.parameters()}
    assert all(id(parameter) in own for _, parameter in twin.layer_parameters("layer.1"))
    assert all(id(p) in own for module in twin.layer_modules("embeddings") for p in module.parameters())


def test_model_without_layers() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = AutoConfig.for_model("bert", **SMALL)
            self.linear = nn.Linear(2, 2)

    with pytest.raises(ModelError) as caught:
        Encoder(Flat())
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone\n"
        "      found:    Flat has no list of layers\n"
        "      expected: an encoder made of layers, such as MPNet, BERT or RoBERTa"
    )


# --- loading ---------------------------------------------------------------------------------------------------------


def test_loading_is_quiet_exact_and_draws_no_random_number(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = torch.random.get_rng_state()
    encoder = Encoder.from_folder(folder)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in encoder.modules())
    saved = load_file(folder / "model.safetensors")
    for name, parameter in encoder.backbone.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
        assert torch.equal(parameter, saved[name])
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]


def test_half_precision_weights_become_float32(own_tiny: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(own_tiny / "model.safetensors").items()}
    save_file(tensors, own_tiny / "model.safetensors", metadata={"format": "pt"})
    encoder = Encoder.from_folder(own_tiny)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize(("given", "expected"), [(None, 256), (32, 32), (512, 512)])
def test_max_length(mpnet_folder: Path, given: int | None, expected: int) -> None:
    assert Encoder.from_folder(mpnet_folder, max_length=given).max_length == expected


def test_max_length_beyond_the_positions(tiny_folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        Encoder.from_folder(tiny_folder, max_length=129)
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.max_length\n"
        "      found:    129\n"
        f"      expected: at most 128, the positions that {tiny_folder} has"
    )


def test_limit_of_a_folder_is_cut_to_its_positions(own_tiny: Path) -> None:
    (own_tiny / "sentence_bert_config.json").write_text('{"max_seq_length": 9999}')
    encoder = Encoder.from_folder(own_tiny)
    assert encoder.max_length == 128
    encoder(*batch(own_tiny, 128))


def test_missing_weights_are_refused(own_tiny: Path) -> None:
    tensors = load_file(own_tiny / "model.safetensors")
    del tensors["encoder.layer.1.attention.attn.q.weight"]
    save_file(tensors, own_tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        Encoder.from_folder(own_tiny)
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {own_tiny}\n"
        "      found:    no weights for 1 of the parameters of MPNetModel: encoder.layer.1.attention.attn.q.weight\n"
        "      expected: weights for every parameter\n"
        "      repair:   fetch the folder again; weights of another family do not fit this config.json"
    )


def test_damaged_weights_are_refused(own_tiny: Path) -> None:
    weights = own_tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError) as caught:
        Encoder.from_folder(own_tiny)
    problem = caught.value.problems[0]
    assert problem.place == str(weights)
    assert problem.found.startswith("the weights cannot be loaded: ")
    assert (problem.expected, problem.repair) == ("safetensors that fit config.json", "fetch the folder again")


def test_weights_of_another_size_are_refused(own_tiny: Path) -> None:
    config = json.loads((own_tiny / "config.json").read_text())
    (own_tiny / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ModelError) as caught:
        Encoder.from_folder(own_tiny)
    shown = (
        "encoder.layer.0.intermediate.dense.bias is (64,), not (48,), "
        "encoder.layer.0.intermediate.dense.weight is (64, 32), not (48, 32), "
        "encoder.layer.0.output.dense.weight is (32, 64), not (32, 48), "
        "encoder.layer.1.intermediate.dense.bias is (64,), not (48,)"
    )
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {own_tiny}\n"
        f"      found:    weights of another shape for 9 of the parameters of MPNetModel: {shown} (+5 more)\n"
        "      expected: the shapes of config.json\n"
        "      repair:   fetch the folder again"
    )


def test_code_in_the_folder_is_never_run(own_tiny: Path) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (own_tiny / "config.json").write_text(json.dumps(config))
    (own_tiny / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError) as caught:
        Encoder.from_folder(own_tiny)
    problem = caught.value.problems[0]
    assert problem.place == str(own_tiny / "config.json")
    assert problem.found.startswith("cannot be used: ")
    assert problem.expected == "the config of an encoder that transformers knows without code from the folder"


def test_encoder_decoder_is_refused(own_tiny: Path) -> None:
    (own_tiny / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError) as caught:
        Encoder.from_folder(own_tiny)
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {own_tiny / 'config.json'}\n"
        "      found:    the model type t5, an encoder-decoder\n"
        f"      expected: one of {', '.join(SUPPORTED_FAMILIES)}\n"
        "      repair:   take another checkpoint"
    )


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_saved_folder_is_read_by_us_and_by_sentence_transformers(
    mpnet_folder: Path, tmp_path: Path, pooling: str, normalize: bool
) -> None:
    encoder = Encoder.from_folder(mpnet_folder, pooling=pooling, normalize=normalize, max_length=40)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
        expected = encoder(*batch(mpnet_folder, 40))
    encoder.save(tmp_path / "saved")
    load_tokenizer(mpnet_folder).save_pretrained(tmp_path / "saved")
    again = Encoder.from_folder(tmp_path / "saved")
    assert again.layout == SentenceLayout(pooling, normalize, max_length=40)
    with torch.no_grad():
        assert torch.equal(again(*batch(tmp_path / "saved", 40)), expected)
    peer = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(peer.encode(list(TEXTS), convert_to_tensor=True), expected, atol=1e-5, rtol=1e-5)


def test_saved_weights_have_the_names_of_transformers(tiny_folder: Path, tmp_path: Path) -> None:
    Encoder.from_folder(tiny_folder).save(tmp_path)
    saved, original = (load_file(folder / "model.safetensors") for folder in (tmp_path, tiny_folder))
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in saved)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MPNetModel"]


def test_saving_is_quiet(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Encoder.from_folder(tiny_folder).save(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_list_of_layers_is_looked_for_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a count of all parameters; a copy runs its own layers."""
    encoder = Encoder.from_folder(tiny_folder)
    rows = batch(tiny_folder, 32)

    def refuse(backbone: nn.Module) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr("mtl.model.encoder.main_list", refuse)
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        first, second = encoder(*rows), twin(*rows)
    with encoder.prepared(), torch.no_grad():
        assert torch.allclose(encoder(*rows), first, atol=1e-5)
    assert first.any()
    assert not second.any()
