"""Encode many sentences: each distinct one once, in batches of similar length, returned in the input's order."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtl.base.errors import ConfigError, ModelError, Problem, listed, printable
from mtl.base.memory import freed_memory_kept
from mtl.base.terminal import console
from mtl.data.batch import TextLoader
from mtl.data.buckets import Budget
from mtl.data.tokens import UNLIMITED, TokenTable, distinct, tokenize
from mtl.model.encoder import Encoder
from mtl.model.network import MultiTaskNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

CPU_TOKENS = 1024
"""The most padded tokens of a batch on a CPU, where what a layer computes is to stay in the cache."""
AMX_TOKENS = 2048
"""The same with AMX: where an MPNet multiplies about a thousand rows, oneDNN leaves one of two threads idle."""

_PASSES_WORTH_PREPARING = 8
"""Making the weights ready, or giving back freed memory, takes as long as a few batches."""

SECONDS_BETWEEN_LINES = 10.0
"""Time between two lines that tell the progress where there is no terminal."""

Precision = Literal["fp32", "bf16", "auto"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How sentences are run through the encoder when nothing is trained.

    Raises:
        ConfigError: A size is not positive, or there is no such precision.
    """

    pad_id: int  # the tokenizer's padding id
    batch_size: int = 128  # the most rows of a batch
    max_tokens: int = 16_384  # the most padded tokens of a batch
    # ``fp32``, ``bf16`` (the matrix products), or ``auto``: bf16 where the hardware computes it natively
    precision: Precision = "fp32"
    progress: str | None = None  # what the progress is called, see `tracked`; ``None`` to show none

    def __post_init__(self) -> None:
        sizes = {"batch_size": self.batch_size, "max_tokens": self.max_tokens}
        problems = [Problem(name, str(size), "at least 1") for name, size in sizes.items() if size < 1]
        if self.precision not in get_args(Precision):
            problems.append(Problem("precision", repr(self.precision), " or ".join(get_args(Precision))))
        if problems:
            raise ConfigError(problems)


def token_table(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, encoder: Encoder, prompt_name: str | None = None
) -> TokenTable:
    """Return the token ids of texts, as the encoder takes them, with a prompt of its layout or the default one."""
    return tokenize(texts, tokenizer, encoder.max_length or UNLIMITED, encoder.layout.prompt(prompt_name))


def encode_table(encoder: Encoder, table: TokenTable, how: Encoding) -> NDArray[np.float32]:
    """Return the embeddings ``(N, H)`` of the rows of ``table``, float32, in its order; equal rows are encoded once.

    The encoder runs in eval mode on the device where it lies; its modes are put back afterwards.
    """
    kept, places = distinct(map(table.row, range(len(table))))
    all_differ = len(kept) == len(table)
    device = next(encoder.parameters()).device
    loader = batches(table if all_differ else table.select(kept), how, device)
    embeddings = np.empty((len(kept), encoder.embedding_size), dtype=np.float32)
    with inferring(encoder, device, how.precision, len(loader)):
        for batch in tracked(loader, how.progress, len(loader)):
            batch = batch.to(device, non_blocking=True)
            vectors = encoder(batch.ids, batch.mask).float().cpu().numpy()
            rows = batch.indices["text"].numpy()
            check_finite(vectors, "embeddings", "the encoder", encoder, kept[rows])
            embeddings[rows] = vectors
    return embeddings if all_differ else embeddings[places]


def batches(table: TokenTable, how: Encoding, device: torch.device) -> TextLoader:
    """Return the batches of all rows of a table, for a device."""
    most = how.max_tokens
    if device.type == "cpu":
        most = min(most, AMX_TOKENS if torch.cpu.get_capabilities().get("amx_bf16") else CPU_TOKENS)
    return TextLoader(table, Budget(how.batch_size, most), how.pad_id)


@contextmanager
def inferring(encoder: Encoder, device: torch.device, precision: Precision, passes: int) -> Iterator[None]:
    """The context of passes without a graph: eval mode, precision, and for many of them weights and memory kept."""
    many = passes >= _PASSES_WORTH_PREPARING
    ready = encoder.prepared if many else nullcontext
    memory = freed_memory_kept if many and device.type == "cpu" else nullcontext
    with memory(), evaluating(encoder), torch.inference_mode(), autocast(device, precision), ready():
        yield


def check_finite(
    values: NDArray[np.floating],
    what: str,
    where: str,
    module: torch.nn.Module,
    rows: NDArray[np.integer] | None = None,
) -> None:
    """Check that what a module gave for ``N`` rows holds no NaN and no infinity, which would pass for a result.

    Args:
        values: ``(N, ...)``.
        what: What they are: ``embeddings``.
        where: The place of the error: ``the encoder``.
        module: What gave them; the error names its weights that are not finite.
        rows: The row ``(N,)`` that each belongs to, where they are those of a batch; by default its own place.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    bad = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
    owners, total = (bad, len(values)) if rows is None else (np.unique(rows[bad]), len(np.unique(rows)))
    weights = [name for name, value in module.named_parameters() if not value.isfinite().all()]
    among = f"{len(owners)} of {total} sentences{'' if rows is None else ' of a batch'}"
    found = f"{what} that are NaN or infinite, of {among}, the first number {owners[0] + 1}"
    repair = "precision=fp32 (trainer.precision=32-true in training), if that is not what it ran in"
    if weights:
        found += f"; weights that are not finite: {listed(weights, most=3)}"
        repair = "take another checkpoint, or train the model again at a lower rate"
    raise ModelError(Problem(where, found, f"finite {what}", repair))


def native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 matrices natively: Ampere and later, AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which matrix products run in ``precision``."""
    if precision == "bf16" or (precision == "auto" and native_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return torch.autocast(device.type, enabled=False)  # also within a caller's autocast


def head_logits(network: MultiTaskNetwork, task: str, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits ``(N, C)`` that a task's head gives embeddings ``(N, H)``."""
    head = network.head(task)
    inputs = torch.from_numpy(embeddings).to(next(head.parameters()).device)
    with evaluating(head), torch.inference_mode():
        logits: NDArray[np.float32] = head(inputs).float().cpu().numpy()
    check_finite(logits, "logits", f"the head of {task}", head)
    return logits


def tracked(items: Iterable[T], title: str | None, total: int) -> Iterator[T]:
    """Yield ``items``; with a title show on standard error how many are done, by a bar or a line every ten seconds."""
    if title is None:
        yield from items
        return
    if not sys.stderr.isatty():
        yield from _with_lines(items, title, total)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=console(sys.stderr)) as progress:
        yield from progress.track(items, total=total, description=title)


def _with_lines(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            line = f"{title}: {done:,} of {total:,} ({done / total:.0%}), {now - start:.0f} s"
            print(printable(line), file=sys.stderr, flush=True)
        yield item


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode again afterwards."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
