"""Dynamic batching: requests that arrive while a batch is computed go through the encoder together in the next one."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mtl.activations.encoding import Encoding, Precision, autocast, encode_table, token_table
from mtl.base.errors import Problem
from mtl.data.tokens import TokenTable, joined
from mtl.inference.models import MultiTaskModel
from mtl.inference.prediction import Prediction
from mtl.serving.guard import RETRY, ApiError, shutdown
from mtl.serving.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network computed for the ``N`` texts of a request."""

    embeddings: NDArray[np.float32]  # ``(N, E)``
    predictions: dict[str, list[Prediction]]  # for each task that was asked for, ``N`` predictions
    tokens: int  # the number of tokens of all texts, special tokens included


@dataclass(eq=False, slots=True)
class _Job:
    model: MultiTaskModel
    texts: list[str]
    tasks: tuple[str, ...]
    prompt_name: str | None
    table: TokenTable | None = None
    future: Future[Answer] = field(default_factory=Future)

    @property
    def tokens(self) -> int:
        return 0 if self.table is None else len(self.table.ids)


class Batcher:
    """A bounded queue, and `run` for the one thread that computes what waits in it.

    The thread takes whole requests in their order, up to ``batch_tokens``, and encodes the texts of all of them in one
    call, which sorts them by length. A larger request is a batch of its own. A request keeps the model with which it
    was submitted.
    """

    def __init__(self, precision: Precision, batch_tokens: int, queue_texts: int, metrics: Metrics) -> None:
        self._precision: Precision = precision
        self._batch_tokens = batch_tokens
        self._queue_texts = queue_texts
        self._metrics = metrics
        self._arrived: deque[_Job] = deque()
        self._tokenized: deque[_Job] = deque()  # of the thread alone
        self._waiting = 0
        self._stopping = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """The texts that wait, without those that are being computed."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """Whether requests are accepted."""
        return not self._stopping

    def submit(
        self, model: MultiTaskModel, texts: list[str], tasks: Sequence[str], prompt_name: str | None
    ) -> Future[Answer]:
        """Queue the texts of a request, for predictions of ``tasks``, or without any for embeddings alone.

        A future that is cancelled before its batch begins is not computed.

        Raises:
            ApiError: There is no room for the texts, or no request is accepted any more.
        """
        job = _Job(model, texts, tuple(tasks), prompt_name)
        with self._changed:
            if not self.alive:
                raise shutdown()
            if self._waiting + len(texts) > self._queue_texts:
                problem = Problem("queue", f"{self._waiting:,} texts that wait", "room for this request", "try again")
                raise ApiError(429, "overloaded", problem, RETRY)
            self._waiting += len(texts)
            self._arrived.append(job)
            self._changed.notify()
        return job.future

    def stop(self) -> None:
        """Accept no more requests; `run` computes those that wait, and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Compute batches in this thread until `stop`."""
        current: MultiTaskModel | None = None
        with ExitStack() as prepared:
            while (arrived := self._next_arrivals()) is not None:
                self._tokenize(arrived)
                batch = self._next_batch()
                if not batch:
                    continue
                if batch[0].model is not current:
                    prepared.close()
                    current = batch[0].model
                    device = next(current.encoder.encoder.parameters()).device
                    prepared.enter_context(autocast(device, self._precision))
                    prepared.enter_context(torch.inference_mode())
                    prepared.enter_context(current.encoder.encoder.prepared())
                self._answer(batch)
                del batch, arrived

    def _next_arrivals(self) -> list[_Job] | None:
        """Wait for something to do; return what is not tokenized yet, or None at the end."""
        with self._changed:
            while not self._arrived and not self._tokenized:
                if self._stopping:
                    return None
                self._changed.wait()
            arrived = list(self._arrived)
            self._arrived.clear()
        return arrived

    def _tokenize(self, jobs: list[_Job]) -> None:
        """Tokenize the texts of jobs, those of one model and prompt in one call."""
        groups: dict[tuple[int, str | None], list[_Job]] = {}
        for job in jobs:
            groups.setdefault((id(job.model), job.prompt_name), []).append(job)
        for group in groups.values():
            encoder, prompt_name = group[0].model.encoder, group[0].prompt_name
            texts = [text for job in group for text in job.texts]
            try:
                table = token_table(texts, encoder.tokenizer, encoder.encoder, prompt_name)
            except Exception as error:  # noqa: BLE001 - the thread must survive it
                log.error("texts could not be tokenized: %s", error)
                for job in filter(self._begin, group):
                    job.future.set_exception(error)
                continue
            start = 0
            for job in group:
                job.table = table.select(range(start, start + len(job.texts)))
                start += len(job.texts)
        self._tokenized += (job for job in jobs if job.table is not None)

    def _next_batch(self) -> list[_Job]:
        """Take the jobs of the next batch, without those whose clients no longer wait."""
        batch: list[_Job] = []
        tokens = 0
        while self._tokenized:
            job = self._tokenized[0]
            if batch and (tokens + job.tokens > self._batch_tokens or job.model is not batch[0].model):
                break
            self._tokenized.popleft()
            if self._begin(job):
                batch.append(job)
                tokens += job.tokens
        return batch

    def _begin(self, job: _Job) -> bool:
        """Take a job out of the queue; return whether its client still waits."""
        with self._changed:
            self._waiting -= len(job.texts)
        return job.future.set_running_or_notify_cancel()

    def _answer(self, batch: list[_Job]) -> None:
        """Compute a batch; where that fails compute each request alone, so that only the one to blame fails."""
        try:
            answers = self._compute(batch)
        except Exception as error:
            if len(batch) == 1:
                log.exception("a batch failed")
                batch[0].future.set_exception(error)
            else:
                for job in batch:
                    self._answer([job])
            return
        for job, answer in zip(batch, answers, strict=True):
            job.future.set_result(answer)

    def _compute(self, batch: list[_Job]) -> list[Answer]:
        model = batch[0].model
        table = joined([job.table for job in batch if job.table is not None])
        how = Encoding(pad_id=model.encoder.tokenizer.pad_token_id or 0, precision=self._precision)
        embeddings = encode_table(model.encoder.encoder, table, how)
        self._metrics.batch(len(batch), len(table), len(table.ids))
        tasks = dict.fromkeys(task for job in batch for task in job.tasks)
        predictions = model.predict_embeddings(embeddings, tasks=tasks)
        answers, start = [], 0
        for job in batch:
            rows = slice(start, start + len(job.texts))
            answers.append(Answer(embeddings[rows], {task: predictions[task][rows] for task in job.tasks}, job.tokens))
            start = rows.stop
        return answers
