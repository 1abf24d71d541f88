"""Every supported family: embeddings as sentence-transformers gives them, and what can be trained, cached and saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from sentence_transformers import SentenceTransformer

from mtl import MultiTaskModel, SentenceEncoder
from mtl.activations.encoding import Encoding, encode_table, token_table
from mtl.activations.frozen import FrozenActivations
from mtl.base.errors import ModelError, MtlError
from mtl.data.tokens import pad
from mtl.model import encoder as encoder_module
from mtl.model.adapters import merge_adapters
from mtl.model.cpu.packed import run_packed
from mtl.model.loading import SUPPORTED_FAMILIES
from mtl.model.saved import load_model, save_model
from mtl.training.freezing import FreezePlan, apply_freezing
from mtl.training.inputs import load_inputs
from mtl.training.plan import make_plan
from tests.support.checkpoints import CHECKPOINTS, write_checkpoint
from tests.support.runs import config, data, run
from tests.support.texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mtl.config.fields import Config
    from mtl.model.encoder import Encoder
    from mtl.training.inputs import Inputs
    from mtl.training.plan import RunPlan

NAMES = list(CHECKPOINTS)
SCENARIOS = {
    "none": ["freeze=none"],
    "backbone": ["freeze=backbone"],
    "lower_layers": ["freeze=lower_layers", "freeze.train_layers=1"],
    "gradual": ["freeze=gradual", "freeze.gradual.start=0", "freeze.gradual.unit=steps"],
    "lora": ["freeze=lora"],
    "some_lora": ["freeze=lora", "freeze.lora.targets=[query,value]"],
}
SAVED = ("none", "lower_layers", "lora")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a checkpoint by its name. Do not write into it."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = write_checkpoint(CHECKPOINTS[name], tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], tuple[Config, Inputs]]:
    """Return the configuration of a scenario for an encoder, and its inputs: small files to train on."""
    files = data(tmp_path_factory.mktemp("files"), ["sentiment"], train=4, other=2)
    common = [*files, "backbone.max_length=null", "retention.path=null", "learning_rates=uniform"]
    configs = {name: config(*common, *chosen) for name, chosen in SCENARIOS.items()}
    inputs = load_inputs(configs["none"])
    return lambda scenario, folder: (configs[scenario], replace(inputs, weights=folder))


def peer(folder: Path, prompt_name: str | None = None) -> NDArray[np.float32]:
    """Return the embeddings of sentence-transformers."""
    embeddings: NDArray[np.float32] = SentenceTransformer(str(folder), device="cpu").encode(
        list(TEXTS), prompt_name=prompt_name, show_progress_bar=False
    )
    return embeddings


def assert_equal(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.05  # texts that differ have embeddings that differ


def test_all_supported_families_are_here() -> None:
    assert {checkpoint.family for checkpoint in CHECKPOINTS.values()} == set(SUPPORTED_FAMILIES)


# --- embeddings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_equal_those_of_sentence_transformers(checkpoint: Callable[[str], Path], name: str) -> None:
    encoder = SentenceEncoder.from_pretrained(checkpoint(name))
    for prompt in (None, *CHECKPOINTS[name].prompts):
        actual = encoder.encode(TEXTS, prompt_name=prompt)
        assert_equal(actual, peer(checkpoint(name), prompt))
        assert actual.shape == (len(TEXTS), encoder.dimension)


@pytest.mark.parametrize("name", [name for name in NAMES if CHECKPOINTS[name].prompts])
def test_prompts_change_embeddings(checkpoint: Callable[[str], Path], name: str) -> None:
    encoder = SentenceEncoder.from_pretrained(checkpoint(name))
    prompted = {prompt: encoder.encode(TEXTS[0], prompt_name=prompt) for prompt in ("query", "document", "topic")}
    by_default = encoder.encode(TEXTS[0])
    assert np.array_equal(by_default, prompted[CHECKPOINTS[name].default_prompt or "document"])
    assert np.abs(prompted["query"] - prompted["topic"]).max() > 1e-3
    with pytest.raises(ModelError) as caught:
        encoder.encode(TEXTS, prompt_name="topics")
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  prompt_name\n"
        "      found:    'topics'\n"
        "      expected: document, query, topic\n"
        "      repair:   did you mean topic?"
    )


@pytest.mark.parametrize("name", NAMES)
def test_only_known_layers_run_over_packed_tokens(
    checkpoint: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return run_packed(*arguments)

    monkeypatch.setattr(encoder_module, "run_packed", counted)
    SentenceEncoder.from_pretrained(checkpoint(name)).encode(TEXTS)
    assert bool(calls) == CHECKPOINTS[name].packed


@pytest.mark.parametrize("name", NAMES)
def test_attention_for_training_on_a_cpu_gives_the_same(checkpoint: Callable[[str], Path], name: str) -> None:
    encoder = SentenceEncoder.from_pretrained(checkpoint(name))
    fused = encoder.encode(TEXTS)
    encoder.encoder.use_plain_attention()
    np.testing.assert_allclose(encoder.encode(TEXTS), fused, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[4]), fused[4], atol=1e-5, rtol=1e-5)  # without padding


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_cached_activations_equal_those_that_are_computed(
    checkpoint: Callable[[str], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path))
    loaded = SentenceEncoder.from_pretrained(checkpoint(name))
    encoder = loaded.encoder
    table = token_table(TEXTS, loaded.tokenizer, encoder)
    how = Encoding(pad_id=1)
    expected = encode_table(encoder, table, how)
    for _ in range(2):  # computed, and read again
        rows = FrozenActivations(encoder, {("task", "train"): table}, how)
        embeddings = rows.at("embedding")
        assert embeddings is not None
        np.testing.assert_allclose(embeddings["task", "train"].gather(np.arange(len(table)))[0], expected, atol=1e-6)
        hidden = rows.at(1)
        assert (hidden is not None) == CHECKPOINTS[name].split
        if hidden is not None:
            vectors, lengths = hidden["task", "train"].gather(np.arange(len(table)))
            assert lengths is not None
            _, mask = pad(table.rows(range(len(table))), 1)
            states = torch.zeros(*mask.shape, encoder.hidden_size)
            states[mask] = torch.from_numpy(vectors)
            with torch.inference_mode():
                np.testing.assert_allclose(encoder.forward_from(states, mask, 1), expected, atol=1e-5, rtol=1e-5)


# --- training -------------------------------------------------------------------------------------------------------


def _refusal(name: str, scenario: str) -> str | None:
    """Return what the error says where a scenario is refused."""
    lora = CHECKPOINTS[name].lora
    if lora is False and "lora" in scenario:
        return "no query, "
    return (
        "which has one linear layer for query, key and value" if lora == "joined" and scenario == "some_lora" else None
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_trains_what_it_should(
    checkpoint: Callable[[str], Path], prepared: Callable[[str, Path], tuple[Config, Inputs]], name: str, scenario: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    chosen, inputs = prepared(scenario, checkpoint(name))
    if (refusal := _refusal(name, scenario)) is not None:
        with pytest.raises(MtlError) as caught:
            make_plan(chosen, tmp_path, inputs)
        (problem,) = caught.value.problems
        assert problem.place == "freeze.lora.targets"
        assert refusal in problem.found
        return
    plan = make_plan(chosen, tmp_path, inputs)
    network = plan.start.network
    start = {name: value.clone() for name, value in network.state_dict().items()}
    _step(plan)
    changed = {
        layer
        for layer in network.layer_names
        for name, value in network.layer_parameters(layer)
        if not torch.equal(value, start[name])
    }
    assert changed == plan.freezing.trainable(0)
    assert bool(network.encoder.adapter_names) == ("lora" in scenario)
    if scenario in SAVED:
        merge_adapters(network.encoder.backbone)
        save_model(tmp_path / "model", network, plan.start.tokenizer, plan.start.heads, card="# a model\n")
        _assert_saved(tmp_path / "model", network.encoder)


def _step(plan: RunPlan) -> None:
    """Take a step of gradient descent."""
    network = plan.start.network
    apply_freezing(network, plan.freezing, 0)
    table = token_table(TEXTS, plan.start.tokenizer, network.encoder)
    ids, mask = pad(table.rows(range(len(table))), 1)
    logits = network.head("sentiment")(network.encoder(ids, mask))
    torch.autograd.backward(F.cross_entropy(logits, torch.arange(len(TEXTS)) % 2))
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
    apply_freezing(network, FreezePlan({}), 0)


def _assert_saved(folder: Path, encoder: Encoder) -> None:
    """Check that a saved model is loaded as it was, here and by sentence-transformers."""
    saved = load_model(folder)
    loaded, expected = saved.network.encoder.state_dict(), encoder.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())
    assert saved.network.encoder.layout == encoder.layout
    embeddings = SentenceEncoder(saved.network.encoder, saved.tokenizer).encode(TEXTS)
    np.testing.assert_allclose(SentenceEncoder(encoder, saved.tokenizer).encode(TEXTS), embeddings, atol=1e-5)
    assert_equal(embeddings, peer(folder))


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "mpnet"])
def test_a_run_trains_with_a_prompt_and_the_saved_model_keeps_it(
    checkpoint: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    files = data(tmp_path / "files", ["sentiment"], train=4, other=2)
    chosen = [f"backbone.path={checkpoint(name)}", "backbone.max_length=null", "backbone.prompt_name=query"]
    chosen += ["freeze=lower_layers", "freeze.train_layers=1", "trainer.max_steps=2", "learning_rates=uniform"]
    scored = run(tmp_path / "run", *files, *chosen, "retention.path=null", "learning_rates.backbone=0.01")
    model = MultiTaskModel.from_pretrained(tmp_path / "run")
    embeddings = model.encode(TEXTS)
    assert_equal(embeddings, peer(tmp_path / "run" / "model"))
    assert_equal(embeddings, peer(tmp_path / "run" / "model", "query"))
    assert_equal(model.encode(TEXTS, prompt_name="topic"), peer(tmp_path / "run" / "model", "topic"))
    predictions = scored["sentiment"]["test"].predictions
    probabilities = model.predict_proba(predictions.texts)["sentiment"]
    np.testing.assert_allclose(probabilities, predictions.probabilities, atol=1e-5)
    other = model.predict_proba(predictions.texts, prompt_name="topic")["sentiment"]
    assert np.abs(other - probabilities).max() > 1e-4


def test_a_prompt_that_the_checkpoint_has_not(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path / "run", f"backbone.path={checkpoint('qwen3')}", "backbone.prompt_name=querry")
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.prompt_name\n"
        "      found:    'querry'\n"
        "      expected: document, query, topic\n"
        "      repair:   did you mean query?"
    )


def test_no_prompt_in_place_of_the_default_one(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("mpnet")
    without = encoder_module.Encoder.from_folder(folder, prompt_name=None)
    loaded = SentenceEncoder.from_pretrained(folder)
    assert config().backbone.prompt_name == "auto"
    assert loaded.encoder.layout.default_prompt == "topic"
    actual = SentenceEncoder(without, loaded.tokenizer).encode(TEXTS)
    assert np.array_equal(actual, loaded.encode(TEXTS, prompt_name="document"))
