"""The peer: two-head fine-tuning as an engineer writes it in an afternoon, with PyTorch and transformers alone.

Nothing of `mtl` is used here. Batches are random and padded to their longest text, each task's batch goes through the
encoder by itself, and everything is computed in fp32 unless ``bf16`` asks for autocast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

Rows = list[tuple[str, str]]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of the three parameter groups."""

    heads: float = 1e-3
    upper: float = 2e-4
    lower: float = 5e-5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop took and what came out: seconds of training, rows of both tasks, figures of each task on test."""

    train_seconds: float
    rows: int
    accuracy: dict[str, float]
    macro_f1: dict[str, float]


class TwoHeads(nn.Module):
    """A shared encoder with masked mean pooling, and a linear head for each task."""

    def __init__(self, checkpoint: str | Path, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(checkpoint, add_pooling_layer=False)
        size = self.encoder.config.hidden_size
        self.heads = nn.ModuleDict({task: nn.Linear(size, count) for task, count in classes.items()})

    def forward(self, task: str, inputs: Mapping[str, Tensor]) -> Tensor:
        hidden = self.encoder(**inputs).last_hidden_state  # (B, S, H)
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        logits: Tensor = self.heads[task](F.normalize(mean, dim=-1))
        return logits


def train(
    data: Mapping[str, Mapping[str, Rows]],
    checkpoint: str | Path,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    max_length: int = 256,
    rates: Rates | None = None,
    seed: int = 0,
    bf16: bool = False,
    max_steps: int | None = None,
) -> Outcome:
    """Fine-tune encoder and heads and evaluate on test.

    Args:
        data: For each task ``train`` and ``test`` rows, text and label.
        checkpoint: A folder in the hub's layout.
        epochs: Passes over the longer task; the shorter one starts over.
        batch_size: Rows per task and step.
        max_length: Tokens per text, special ones included.
        rates: Peak learning rates.
        seed: Seeds weights of the heads, order and dropout.
        bf16: Whether to use autocast.
        max_steps: Stop so early, for a warm-up.
    """
    torch.manual_seed(seed)
    labels = {task: sorted({label for _, label in splits["train"]}) for task, splits in data.items()}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = TwoHeads(checkpoint, {task: len(names) for task, names in labels.items()}).to(DEVICE)

    def loader(task: str, split: str, shuffle: bool) -> DataLoader[Any]:
        def collate(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
            texts = [text for text, _ in rows]
            inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            return dict(inputs), torch.tensor([labels[task].index(label) for _, label in rows])

        rows: Any = data[task][split]
        return DataLoader(rows, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)

    loaders = {task: loader(task, "train", shuffle=True) for task in data}
    steps = epochs * max(len(each) for each in loaders.values())
    optimizer = torch.optim.AdamW(_groups(model, rates or Rates()), weight_decay=0.01)
    scheduler = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    streams = {task: _endless(each) for task, each in loaders.items()}

    model.train()
    start = time.perf_counter()
    count = 0
    for _ in range(min(steps, max_steps or steps)):
        loss = torch.zeros((), device=DEVICE)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=bf16):
            for task, stream in streams.items():
                inputs, targets = _to_device(next(stream))
                loss = loss + F.cross_entropy(model(task, inputs).float(), targets)
                count += len(targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    duration = time.perf_counter() - start

    accuracy, macro_f1 = {}, {}
    for task in data if max_steps is None else ():
        true, predicted = _predict(model, task, loader(task, "test", shuffle=False), bf16)
        accuracy[task] = float(accuracy_score(true, predicted))
        macro_f1[task] = float(f1_score(true, predicted, average="macro", zero_division=0))
    return Outcome(duration, count, accuracy, macro_f1)


def _groups(model: TwoHeads, rates: Rates) -> list[dict[str, Any]]:
    layers = list(model.encoder.encoder.layer)
    upper = [p for layer in layers[len(layers) // 2 :] for p in layer.parameters()]
    heads = list(model.heads.parameters())
    taken = {id(p) for p in (*upper, *heads)}
    lower = [p for p in model.parameters() if id(p) not in taken]
    return [
        {"params": heads, "lr": rates.heads},
        {"params": upper, "lr": rates.upper},
        {"params": lower, "lr": rates.lower},
    ]


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _to_device(batch: tuple[dict[str, Tensor], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    inputs, targets = batch
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}, targets.to(DEVICE)


@torch.inference_mode()
def _predict(model: TwoHeads, task: str, loader: DataLoader[Any], bf16: bool) -> tuple[list[int], list[int]]:
    model.eval()
    true: list[int] = []
    predicted: list[int] = []
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=bf16):
        for batch in loader:
            inputs, targets = _to_device(batch)
            predicted += model(task, inputs).argmax(-1).tolist()
            true += targets.tolist()
    return true, predicted


def main() -> None:
    """Run the loop on the corpora of the benchmarks and print what came out."""
    from tests.benchmarks.bench_train import plain_rows
    from tests.benchmarks.corpora import tasks
    from tests.benchmarks.tool import add_backbone, checkpoint

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    add_backbone(parser)
    options = parser.parse_args()
    folder = checkpoint(options.backbone)
    print(train(plain_rows(tasks()), folder, epochs=options.epochs, seed=options.seed, bf16=options.bf16))


if __name__ == "__main__":
    main()
