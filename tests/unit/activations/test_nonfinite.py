"""NaN and infinities that a model gives out are named, and never pass for a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtl.activations.encoding import Encoding, check_finite, encode_table, head_logits
from mtl.base.errors import ModelError, Problem
from mtl.model.encoder import Encoder
from tests.support.networks import network
from tests.unit.activations.test_encoding import pad_id, table_of

RETRAIN = "take another checkpoint, or train the model again at a lower rate"


def test_weights_that_are_nan_are_named(tiny_folder: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    name, weight = list(encoder.named_parameters())[-1]
    with torch.no_grad():
        weight[0] = float("nan")
    with pytest.raises(ModelError) as error:
        encode_table(encoder, table_of(tiny_folder, ("one", "two")), Encoding(pad_id(tiny_folder)))
    found = (
        "embeddings that are NaN or infinite, of 2 of 2 sentences of a batch, the first number 1; "
        "weights that are not finite: "
    )
    assert error.value.problems == (Problem("the encoder", found + name, "finite embeddings", RETRAIN),)


def test_a_head_that_gives_infinity_is_named(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    task = net.tasks[0]
    embeddings = np.zeros((3, net.encoder.hidden_size), dtype=np.float32)
    embeddings[1] = 3e38
    with torch.no_grad():
        next(net.head(task).parameters()).fill_(9.0)
    with pytest.raises(ModelError) as error:
        head_logits(net, task, embeddings)
    found = "logits that are NaN or infinite, of 1 of 3 sentences, the first number 2"
    repair = "precision=fp32 (trainer.precision=32-true in training), if that is not what it ran in"
    assert error.value.problems == (Problem(f"the head of {task}", found, "finite logits", repair),)


@pytest.mark.parametrize("shape", [(0, 4), (3, 4)])
def test_finite_values_pass(shape: tuple[int, int]) -> None:
    check_finite(np.zeros(shape), "values", "here", torch.nn.Linear(1, 1))
