"""The network: one encoder, and one head per task on its embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mtl.data.batch import Batch
from mtl.model.encoder import Encoder
from mtl.model.heads import BorrowedStage, MultiStageHead


class MultiTaskNetwork(nn.Module):
    """A shared encoder and the heads of the tasks, from embeddings ``(B, H)`` to logits ``(B, C_task)``."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.tasks = tuple(heads)
        self.heads = nn.ModuleDict({_key(task): head for task, head in heads.items()})

    def head(self, task: str) -> nn.Module:
        """Return the head of ``task``."""
        return self.heads[_key(task)]

    def head_layers(self, task: str) -> tuple[str, ...]:
        """Return the layers that give the logits of ``task``: ``heads.<task>``, and those of heads that it borrows."""
        names = {id(self.head(task)): task for task in self.tasks}
        used = [task]
        while isinstance(head := self.head(used[-1]), MultiStageHead) and isinstance(head.first, BorrowedStage):
            used.append(names[id(head.first.head)])
        return tuple(f"heads.{task}" for task in used)

    def embed(self, batch: Batch) -> Tensor:
        """Return the embeddings ``(B, H)`` of all rows: from ids, from hidden states, or those that the batch has."""
        if batch.features is not None and batch.boundary == "embedding":
            return batch.features
        if not len(batch):  # of several processes one may have no rows of a step
            return self.encoder.no_rows(batch.boundary if isinstance(batch.boundary, int) else None)
        assert batch.mask is not None  # noqa: S101 - narrows for mypy: only whole embeddings come without
        if batch.features is not None and isinstance(batch.boundary, int):
            embeddings = self.encoder.forward_from(batch.features, batch.mask, batch.boundary)
        else:
            embeddings = self.encoder(batch.ids, batch.mask)
        return embeddings if batch.inverse is None else embeddings[batch.inverse]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits ``(B_task, C_task)`` of each task in the batch; the encoder runs once over all rows."""
        return self.classify(self.embed(batch), batch)

    def classify(self, embeddings: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the logits ``(B_task, C_task)`` of each task from the embeddings ``(B, H)`` of a batch."""
        return {task: self.head(task)(embeddings[span]) for task, span in batch.slices.items()}

    @property
    def layer_names(self) -> tuple[str, ...]:
        """All layers: ``embeddings``, ``layer.0`` and up, adapters (``lora.0`` and up), then ``heads.<task>``."""
        heads = (f"heads.{task}" for task in self.tasks)
        return (*self.encoder.layer_names, *self.encoder.adapter_names, *heads)

    def layer_modules(self, name: str) -> list[nn.Module]:
        """Return the modules of a layer; together they hold all its dropouts and norms."""
        if name.startswith("heads."):
            return [self.head(name.removeprefix("heads."))]
        return self.encoder.layer_modules(name)

    def layer_parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of a layer with their full names in this network."""
        return self.named_by_layer()[name]

    def named_by_layer(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return the parameters of every layer of `layer_names`, with their full names in this network, in one pass."""
        named = {
            layer: [(f"encoder.{name}", parameter) for name, parameter in of_layer]
            for layer, of_layer in self.encoder.named_by_layer().items()
        }
        for task in self.tasks:
            of_head = self.head(task).named_parameters()
            named[f"heads.{task}"] = [(f"heads.{_key(task)}.{name}", parameter) for name, parameter in of_head]
        return {layer: named[layer] for layer in self.layer_names}


def _key(task: str) -> str:
    """Return a task's key in the module dictionary, which refuses names of its own methods, `type` or `keys`."""
    return f"{task}_"
