"""Groups of rows by length: the fewest padded tokens, every row once, the same embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mtl.model.cpu.packing import LEAST_SAVING, equal_groups, length_groups
from mtl.model.encoder import Encoder


@given(st.lists(st.integers(1, 60), min_size=1, max_size=24))
@example([14, 17, 18, 19, 19, 20])
def test_the_groups_hold_every_row_once_and_no_other_cut_is_better(lengths: list[int]) -> None:
    groups = length_groups(torch.tensor(lengths))
    descending = sorted(lengths, reverse=True)
    together = len(lengths) * descending[0]
    best = min(
        (cut * descending[0] + (len(lengths) - cut) * descending[cut] for cut in range(1, len(lengths))),
        default=together,
    )
    if groups is None:
        assert best > (1 - LEAST_SAVING) * len(lengths) * descending[0] or len(lengths) == 1  # rounded as there
        return
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(len(lengths)))
    assert all(max(lengths[row] for row in rows.tolist()) == longest for rows, longest in groups)
    assert sum(len(rows) * longest for rows, longest in groups) == best


def test_grouped_and_joint_rows_have_the_same_embeddings_and_gradients(
    minilm_folder: Path, mpnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (6, 31), generator=generator)
    mask = torch.arange(31) < torch.tensor([31, 3, 30, 5, 1, 4])[:, None]
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder)
        found = []
        for grouping in (length_groups, lambda lengths: None):
            monkeypatch.setattr("mtl.model.cpu.packing.length_groups", grouping)
            encoder.zero_grad()
            embeddings = encoder(ids, mask)
            (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
            gradients = {name: each.grad.clone() for name, each in encoder.named_parameters() if each.grad is not None}
            found.append((embeddings.detach(), gradients))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-5)
        for name, gradient in found[1][1].items():
            torch.testing.assert_close(found[0][1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@given(st.lists(st.integers(1, 6), max_size=24), st.integers(1, 6))
def test_equal_groups_hold_every_row_once_in_its_length(lengths: list[int], most: int) -> None:
    groups = equal_groups(torch.tensor(lengths, dtype=torch.int64), most)
    different = sorted(set(lengths), reverse=True)
    if groups is None:
        assert not different or len(different) > most
        return
    assert [length for _, length in groups] == different
    assert len(different) <= most
    for rows, length in groups:
        assert rows.tolist() == [row for row, each in enumerate(lengths) if each == length]


def test_inference_without_padding_gives_the_same(
    minilm_folder: Path, mpnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(1000, 20_000, (7, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 3, 7, 9, 3, 7, 7])[:, None]
    for folder in (minilm_folder, mpnet_folder):
        encoder = Encoder.from_folder(folder)
        found = []
        for most in (3, 2):
            monkeypatch.setattr("mtl.model.cpu.packed._EQUAL_LENGTHS", most)
            with torch.inference_mode():
                found.append(encoder(ids, mask))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
