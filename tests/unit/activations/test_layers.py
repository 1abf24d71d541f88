from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.activations.encoding import Encoding
from mtl.activations.layers import inner_layers, layer_embeddings
from mtl.base.pooling import mean_pool
from mtl.data.tokens import tokenize
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from tests.support.texts import batch

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("one word", "a somewhat longer sentence of words", "one word", "and the last")


def test_the_states_that_leave_a_layer_are_pooled_in_the_order_of_the_rows(tiny_folder: Path) -> None:
    encoder, tokenizer = Encoder.from_folder(tiny_folder), load_tokenizer(tiny_folder)
    table = tokenize(TEXTS, tokenizer, 32)
    found = layer_embeddings(encoder, table, ["layer.0", "layer.1"], Encoding(tokenizer.pad_token_id, batch_size=2))
    ids, mask = batch(tiny_folder, 32, TEXTS)
    for boundary, layer in ((1, "layer.0"), (2, "layer.1")):
        with torch.inference_mode():
            expected = mean_pool(encoder.hidden_at(ids, mask, boundary), mask).numpy()
        np.testing.assert_allclose(found[layer], expected, atol=1e-5)


def test_inner_layers_lie_in_the_upper_half_below_the_last(tiny_folder: Path, minilm_folder: Path) -> None:
    assert inner_layers(Encoder.from_folder(minilm_folder)) == ["layer.2", "layer.3", "layer.4"]
    assert inner_layers(Encoder.from_folder(tiny_folder)) == ["layer.1"]
