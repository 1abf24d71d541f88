"""Activations of the frozen layers for each distinct sentence, computed once and kept on disk from run to run."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mtl.activations import ActivationStore, Rows, Source, default_folder, row_keys, tensors_fingerprint
from mtl.activations.encoding import Encoding, batches, check_finite, encode_table, inferring, tracked
from mtl.activations.space import size_text, way_out
from mtl.data.batch import ArrayActivations, Boundary, RowActivations
from mtl.data.tokens import TokenTable, joined
from mtl.model.encoder import Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

TaskSplit = tuple[str, str]
IN_MEMORY = 2**30
"""Bytes of embeddings of a split up to which they are kept in memory rather than mapped."""


class FrozenActivations:
    """The activations of all rows of the tasks' splits below a boundary; each distinct row is computed once.

    They are cached on disk under a key of everything that they depend on: the weights below the boundary, pooling,
    normalisation, precision, and the row's token ids. So the next run and the other jobs of a sweep find them there.
    Embeddings that the cache cannot take are kept in memory; hidden states that it cannot take are not kept at all.

    Attributes:
        used: A checksum of the activations that were asked for, by boundary.
        seconds_spent: Wall-clock seconds that this process has spent on them.
        seconds_cold: For each boundary that was asked for, the seconds that computing the distinct rows of all splits
            but ``test`` takes with an empty cache: that is what training needs. None where it is not known.

    Args:
        encoder: The encoder; the layers below a boundary must not have been trained when it is asked for.
        tables: The token ids of each task's splits.
        how: How the rows are run through the encoder.
        cached: Whether to use the cache on disk.
        before: What `used` was when a run that is resumed was interrupted.
    """

    def __init__(
        self,
        encoder: Encoder,
        tables: Mapping[TaskSplit, TokenTable],
        how: Encoding,
        *,
        cached: bool = True,
        before: Mapping[str, str] | None = None,
    ) -> None:
        self.used = dict(before or {})
        self._encoder = encoder
        self._tables = dict(tables)
        self._how = how
        self._cached = cached
        self._last: tuple[Boundary, dict[TaskSplit, RowActivations] | None] | None = None
        self.seconds_spent = 0.0
        self.seconds_cold: dict[Boundary, float | None] = {}

    def at(self, boundary: Boundary) -> dict[TaskSplit, RowActivations] | None:
        """Return the activations at ``boundary``, and compute them first if it is not the last one asked for.

        Only one boundary is held at a time. Gradual unfreezing moves it down, so each is computed once, when the first
        batch above it is collated: computing all of them before training would take their space on the disk at once.

        Returns:
            Those of each task and split; ``None`` if hidden states are not kept, so that the frozen layers have to run
            in every step: the cache is off or too small, or the encoder cannot start from one of its layers.
        """
        if self._last is None or self._last[0] != boundary:
            self._last = None  # which frees the memory of the boundary before
            started = time.perf_counter()
            self._last = boundary, self._computed(boundary)
            self._note(boundary, self._last[1])
            self.seconds_spent += time.perf_counter() - started
        return self._last[1]

    def _computed(self, boundary: Boundary) -> dict[TaskSplit, RowActivations] | None:
        if boundary != "embedding" and not self._encoder.supports_split:
            kind = self._encoder.config.model_type
            log.info("the frozen layers are run in every epoch: a %s cannot be started from one of its layers", kind)
            return None
        rows = self._from_cache(boundary) if self._cached else None
        return self._embeddings_in_memory() if rows is None and boundary == "embedding" else rows

    def _from_cache(self, boundary: Boundary) -> dict[TaskSplit, RowActivations] | None:
        """Return the activations from the cache once all are there; ``None`` if it cannot take them."""
        what = "the embeddings are computed" if boundary == "embedding" else "the frozen layers are run"
        every = "run" if boundary == "embedding" else "epoch"
        with self._store(boundary) as store:
            if not self._fits(store, f"{what} in every {every}"):
                return None
            self._fill(store, boundary)
            try:
                rows = {split: store.rows(keys) for split, keys in self._keys.items()}
            except KeyError:  # another process has filled the cache meanwhile
                return None
            self._note_cold(boundary, store.seconds_per_token)
            return {split: _in_memory_if_small(mapped) for split, mapped in rows.items()}

    def _note(self, boundary: Boundary, rows: Mapping[TaskSplit, RowActivations] | None) -> None:
        """Note a checksum of what is used, and warn if a resumed run used something else before.

        The last bits of an activation depend on the other rows of its batch.
        """
        parts = ["computed in each step"] if rows is None else [_checksum(of_split) for of_split in rows.values()]
        checksum = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        if self.used.get(str(boundary), checksum) != checksum:
            log.warning(
                "the cached activations (%s) were computed again since the run was ended, in other batches: the result "
                "may differ in the last digits from that of an unbroken run",
                boundary if boundary == "embedding" else f"above {boundary} layers",
            )
        self.used[str(boundary)] = checksum

    def _note_cold(self, boundary: Boundary, seconds_per_token: float | None) -> None:
        tokens = self._distinct_tokens([split for split in self._tables if split[1] != "test"])
        self.seconds_cold[boundary] = None if seconds_per_token is None else seconds_per_token * tokens

    def _distinct_tokens(self, splits: Collection[TaskSplit]) -> int:
        """Return the tokens of all rows of some splits, those of equal rows once."""
        if not splits:
            return 0
        keys = np.concatenate([self._keys[split] for split in splits])
        lengths = np.concatenate([self._tables[split].lengths for split in splits])
        return int(lengths[np.unique(keys, return_index=True)[1]].sum())

    def _fits(self, store: ActivationStore, otherwise: str) -> bool:
        """Whether the cache can take all rows; where it is too small say what that means."""
        missing = store.missing(np.concatenate(list(self._keys.values())))
        lengths = np.concatenate([table.lengths for table in self._tables.values()])
        vectors = int(lengths[missing].sum()) if store.layout.ragged else len(missing)
        needed = store.bytes_for(len(missing), vectors) if missing else 0
        room = store.room()
        if not store.keeps:  # as was asked for, or it has said why
            return False
        if room < needed:
            text = "%s: what the frozen layers give, %s, does not fit into the cache; %s"
            log.warning(text, otherwise, size_text(needed), way_out(default_folder(), needed))
        return room >= needed

    @cached_property
    def _keys(self) -> dict[TaskSplit, NDArray[np.void]]:
        return {split: row_keys(table.ids, table.offsets) for split, table in self._tables.items()}

    def _store(self, boundary: Boundary) -> ActivationStore:
        whole, layout, precision = boundary == "embedding", self._encoder.layout, str(self._how.precision)
        used = self._encoder.layer_names[: None if boundary == "embedding" else boundary + 1]
        tensors = {name: value for layer in used for name, value in self._encoder.layer_parameters(layer)}
        dense = [f"Dense {spec.activation}" for spec in layout.dense]  # whose weights belong to the last layer
        if precision != "fp32":  # each kind of device rounds elsewhere
            precision += f" on {next(self._encoder.parameters()).device.type}"
        source = Source(
            weights=f"{tensors_fingerprint(tensors)} {self._encoder.config.to_json_string()}",
            pooling=" ".join([layout.pooling, *dense]) if whole else "",
            normalize=layout.normalize and whole,
            precision=precision,
            boundary=boundary,
        )
        width = self._encoder.embedding_size if whole else self._encoder.hidden_size
        return ActivationStore(default_folder(), source.text(), width, ragged=not whole)

    def _fill(self, store: ActivationStore, boundary: Boundary) -> None:
        """Compute the rows that are missing; another process that wants the same waits meanwhile."""
        with store.computing():
            for split, table in self._tables.items():
                missing = np.asarray(store.missing(self._keys[split]), dtype=np.int64)
                if len(missing) and store.keeps:
                    started = time.perf_counter()
                    self._compute(store, boundary, split, missing)
                    tokens = int(table.lengths[missing].sum())
                    store.add_work(time.perf_counter() - started, tokens)

    def _compute(self, store: ActivationStore, boundary: Boundary, split: TaskSplit, rows: NDArray[np.int64]) -> None:
        """Compute what the frozen layers give for some rows of a split; a batch with NaN or infinity is refused."""
        how = self._how
        device = next(self._encoder.parameters()).device
        loader = batches(self._tables[split].select(rows), how, device)
        keys = self._keys[split]
        progress = how.progress and f"{how.progress} {' '.join(split)}"
        with inferring(self._encoder, device, how.precision, len(loader)):
            for batch in tracked(loader, progress, len(loader)):
                which = rows[batch.indices["text"].numpy()]
                tokens = None if batch.mask is None else batch.mask.sum(dim=1).numpy()  # before it is on the device
                batch = batch.to(device, non_blocking=True)
                if boundary == "embedding":
                    counts, vectors = None, self._encoder(batch.ids, batch.mask)
                else:
                    assert batch.ids is not None  # noqa: S101 - narrows for mypy: token ids come with their mask
                    assert batch.mask is not None  # noqa: S101
                    counts, vectors = tokens, self._encoder.hidden_at(batch.ids, batch.mask, boundary)[batch.mask]
                values = vectors.float().cpu().numpy()
                owners = which if counts is None else which.repeat(counts)
                check_finite(values, "activations", f"the frozen layers, {' '.join(split)}", self._encoder, owners)
                store.append(keys[which], counts, values)
                if not store.keeps:  # another process has taken the room: these rows are not kept
                    return

    def _embeddings_in_memory(self) -> dict[TaskSplit, RowActivations]:
        tables = list(self._tables.values())
        started = time.perf_counter()
        embeddings = encode_table(self._encoder, joined(tables), self._how)
        seconds = time.perf_counter() - started
        self._note_cold("embedding", seconds / max(self._distinct_tokens(self._tables), 1))
        parts = np.split(embeddings, np.cumsum([len(table) for table in tables])[:-1])
        return {split: ArrayActivations(part) for split, part in zip(self._tables, parts, strict=True)}


def _checksum(rows: RowActivations) -> str:
    if isinstance(rows, ArrayActivations):
        return tensors_fingerprint({"rows": rows.values})
    assert isinstance(rows, Rows)  # noqa: S101 - narrows for mypy: there are these two
    return rows.checksum


def _in_memory_if_small(rows: Rows) -> RowActivations:
    """Return embeddings in memory if they are not too large; hidden states and larger ones stay mapped."""
    if rows.layout.ragged or len(rows) * rows.layout.vector_bytes > IN_MEMORY:
        return rows
    return ArrayActivations(rows.gather(np.arange(len(rows)))[0])
