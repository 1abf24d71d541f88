"""The store of one source's activations: reports missing rows, takes them in, and returns them memory-mapped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mtl.activations import space
from mtl.activations.catalogue import Catalogue, Pending
from mtl.activations.layout import Block, Layout, as_keys, first_of_each
from mtl.activations.segments import Rows, index_bytes, write_segment
from mtl.activations.space import Lease, file_lock, held, is_used
from mtl.base.files import expanded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.activations.layout import Keys

log = logging.getLogger(__name__)


class ActivationStore:
    """One row of activations for each distinct text, on disk, shared by all processes that open the same source.

    A row is an embedding ``(H,)``, or the hidden states ``(S_i, H)`` at a layer boundary. What does not fit below the
    limit is not kept: it stays `missing`. A folder that cannot be used costs a warning and keeps nothing. ::

        with ActivationStore(default_folder(), source.text(), 768, ragged=True) as store:
            with store.computing():
                for chunk in chunks(store.missing(keys)):
                    store.append(keys[chunk], *encode(chunk))
            rows = store.rows(keys)

    A store is for one thread. Be in one `computing` at a time: two processes in two each could wait for each other.

    Args:
        folder: The folder of the cache, see `default_folder`.
        source: Everything that the rows depend on, see `Source.text`; any other text means other rows.
        dim: ``H``.
        ragged: Whether a row is ``S_i`` vectors rather than one.
        limit_bytes: The most bytes of the whole folder; by default `cache_limit`; 0: nothing is kept or read.

    Attributes:
        keeps: Whether rows are kept: the limit is not 0, and the folder can be used.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        source: str,
        dim: int,
        *,
        ragged: bool = False,
        limit_bytes: int | None = None,
    ) -> None:
        self.layout = Layout(dim, ragged)
        self.limit = space.cache_limit() if limit_bytes is None else limit_bytes
        self._folder = expanded(folder).absolute()
        description = space.describe(source, self.layout)
        self.path = self._folder / space.folder_name(description)
        self._catalogue = Catalogue(self.path, self.layout)
        self._pending = Pending()
        self.keeps = self.limit > 0
        self._lease: Lease | None = None
        self._writer = file_lock(self.path / space.WRITER)
        if self.limit > 0:
            self._open(description)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=kind is None)

    def close(self, *, wait: bool = True) -> None:
        """Write what waits in memory, see `flush`, and release the source; rows that were returned stay valid."""
        self.flush(wait=wait)
        if self._lease is not None:
            with suppress(OSError):
                os.utime(self.path / space.DESCRIPTION)
        self._lease = None
        self.keeps = False

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let no other process compute rows of this source at the same time: it waits, and then finds them there."""
        with ExitStack() as stack:
            try:
                if self.keeps:
                    stack.enter_context(self._writing())
            except OSError as error:
                self._give_up(error)
            try:
                yield
            finally:
                self.flush()

    def missing(self, keys: Keys) -> list[int]:
        """Return which rows are not there, ascending; of several with the same key the first.

        Args:
            keys: 16 bytes each, see `row_key`: a list of bytes, or an array of `row_keys`.
        """
        wanted = as_keys(keys)
        absent = np.flatnonzero(~self._find(wanted)[0])
        first: list[int] = absent[first_of_each(wanted[absent])].tolist()
        return first

    def append(self, keys: Keys, lengths: Sequence[int] | NDArray[Any] | None, values: NDArray[Any]) -> None:
        """Take in rows; those that are there already are left out. They are on disk after the next `flush`.

        Args:
            keys: The key of each of ``N`` rows.
            lengths: The vectors of each row, ``(N,)``; ``None`` where every row is one.
            values: ``(sum(lengths), H)``, float32. Not kept after the call.

        Raises:
            ValueError: The values do not fit the layout or the lengths.
        """
        counts = np.ones(len(keys), np.int64) if lengths is None else np.asarray(lengths, np.int64)
        if counts.shape != (len(keys),):
            raise ValueError(f"lengths are {counts.shape}; expected {(len(keys),)}")
        expected = (int(counts.sum()), self.layout.dim)
        if values.dtype != np.float32 or values.shape != expected:
            raise ValueError(f"values are {values.dtype} {values.shape}; expected float32 {expected}")
        if self.keeps and len(keys):
            self._pending.add(Block(as_keys(keys), counts, values))
            if self._pending.is_due:
                self.flush()

    def flush(self, *, wait: bool = True) -> None:
        """Write what waits in memory; without ``wait`` only if no other process is writing."""
        if not self._pending:
            return
        try:
            with self._writing(wait=wait) as mine:
                if mine:
                    self._catalogue.refresh()
                    rows = self._pending.rows()
                    there, _ = self._catalogue.find(rows.keys)
                    self._write(rows.only(~there))
        except OSError as error:
            self._give_up(error)
        self._pending = Pending()

    def add_work(self, seconds: float, tokens: int) -> None:
        """Note the wall-clock seconds that computing some rows took, for `seconds_per_token`; within `computing`."""
        if not self.keeps:
            return
        try:
            space.add_work(self.path, seconds, tokens)
        except OSError as error:
            self._give_up(error)

    @property
    def seconds_per_token(self) -> float | None:
        """What a token of the rows took to compute, over all runs that computed some; None where it is not known."""
        seconds, tokens = space.read_work(self.path)
        return seconds / tokens if tokens else None

    def rows(self, keys: Keys) -> Rows:
        """Return the rows of the keys, in their order, mapped; a key may come more than once.

        Raises:
            KeyError: Some of the rows are not there.
        """
        there, places = self._find(as_keys(keys))
        if not there.all():
            raise KeyError(f"{(~there).sum():,} of {len(there):,} rows are not in the cache {self.path}")
        return self._catalogue.rows(places, self._lease)

    def room(self) -> int:
        """Return the bytes that could still be kept, counting what would be removed for them as free."""
        if not self.keeps:
            return 0
        self.flush()
        try:
            with space.folder_lock(self._folder):
                return space.available(self._folder, self.path, self.limit)
        except OSError as error:
            self._give_up(error)
            return 0

    def bytes_for(self, rows: int, vectors: int) -> int:
        """Return how many bytes so many rows with so many vectors in all take in one segment."""
        return index_bytes(self.layout, rows) + vectors * self.layout.vector_bytes

    def _open(self, description: str) -> None:
        """Take a lease on the source, clean up in it, and give back what is above the limit."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with space.folder_lock(self._folder):
                self.path.mkdir(exist_ok=True)
                is_used(self.path)  # which removes old leases
                self._lease = Lease(self.path)
                space.write_description(self.path, description)
                space.make_room(self._folder, self.path, 0, self.limit)
            with self._writing(wait=False):
                pass
        except OSError as error:
            self._give_up(error)

    def _find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        self.flush()
        if self.limit > 0:
            self._catalogue.refresh()
        return self._catalogue.find(keys)

    @contextmanager
    def _writing(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of the source's writer, and clean up after a killed one; yield whether it is held."""
        nested = self._writer.is_locked
        with held(self._writer, "computes the same activations", wait=wait) as mine:
            if mine and not nested:
                with space.folder_lock(self._folder):
                    for left in space.leftovers(self.path):
                        left.unlink(missing_ok=True)
            yield mine

    def _write(self, rows: Block) -> None:
        if not len(rows):
            return
        with space.folder_lock(self._folder):
            needed = self.bytes_for(len(rows), len(rows.values))
            if space.available(self._folder, self.path, self.limit) >= needed:
                space.make_room(self._folder, self.path, needed, self.limit)
                self._catalogue.add(write_segment(self.path, self.layout, rows), rows.keys, rows.lengths)
                return
        log.warning("%s", space.full_text(self._folder, self.limit, len(rows), rows.values.nbytes))
        self.keeps = False

    def _give_up(self, error: OSError) -> None:
        reason = error.strerror or error
        log.warning("activations are computed but not kept: the cache %s cannot be written (%s)", self._folder, reason)
        self.keeps = False
