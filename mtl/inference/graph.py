"""One graph of a saved model, in ONNX or for OpenVINO: token ids in, the embedding and the logits of each task out."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from mtl.data.tokens import UNLIMITED
from mtl.model.loading import load_backbone, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mtl.model.saved import SavedModel

INPUTS: Final = ("input_ids", "attention_mask")
EMBEDDING: Final = "sentence_embedding"
_MOST_IN_ONE_FILE: Final = 1_900_000_000
"""Bytes of weights; protobuf, the format of an ONNX file, holds less than 2 GiB."""


def logits_name(task: str) -> str:
    """Return the name of the output that holds a task's logits."""
    return f"logits_{task}"


def longest(saved: SavedModel) -> int:
    """Return the most tokens of a sentence, special tokens included."""
    return saved.network.encoder.max_length or UNLIMITED


class ExportedNetwork(nn.Module):
    """The network in plain operations that other runtimes know, with everything up to the calibrated logits inside.

    The layers run as transformers wrote them: `Encoder` fuses or packs them, and its operations depend on the batch.
    The weights of the backbone are those of ``folder``, by default the model's own.
    """

    def __init__(self, saved: SavedModel, folder: Path | None = None) -> None:
        super().__init__()
        self.backbone = load_backbone(folder or saved.folder)
        self.dense, self.heads = saved.network.encoder.dense, saved.network.heads
        self._pool = saved.network.encoder.pool
        self._tasks: list[tuple[nn.Module, str, float]] = []
        for number, (name, task) in enumerate(saved.tasks.items()):
            bias = None if task.bias is None else torch.tensor(task.bias, dtype=torch.float32)
            self.register_buffer(f"bias_{number}", bias)
            self._tasks.append((saved.network.head(name), f"bias_{number}", task.temperature))
        self.eval()

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)``, float32, of ids and mask ``(B, S)``, int64."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self._pool(hidden, attention_mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the embeddings ``(B, E)`` and for each task ``(z + bias) / T``, ``(B, C_task)``, all float32.

        Their softmax is `mtl.model.decision.Calibration.probabilities`, and their greatest the predicted class.
        """
        embedding = self.embed(input_ids, attention_mask)
        outputs = [embedding]
        for head, bias_name, temperature in self._tasks:
            logits: Tensor = head(embedding)
            bias: Tensor | None = getattr(self, bias_name)
            adjusted = logits if bias is None else logits + bias
            outputs.append(adjusted if temperature == 1 else adjusted / temperature)
        return tuple(outputs)


def write_graph(saved: SavedModel, path: Path) -> None:
    """Write the graph of a model on the CPU, in fp32, for any number of rows and tokens.

    The file is ``model.onnx``, where the weights of a large model stand in a file beside it, or ``model.xml`` for
    OpenVINO, where they always do.
    """
    if path.suffix == ".xml":
        openvino = import_openvino()
        with TemporaryDirectory(dir=path.parent) as folder:
            onnx = Path(folder) / "model.onnx"
            write_graph(saved, onnx)
            openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)
        return
    network = ExportedNetwork(saved)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    length = min(8, longest(saved))
    ids = torch.full((2, length), saved.tokenizer.pad_token_id or 0)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0  # transformers leaves out a mask that masks nothing
    axes = {0: "rows", 1: "tokens"}
    with _silent(), torch.no_grad():
        torch.onnx.export(
            network,
            (ids, mask),
            path,
            input_names=list(INPUTS),
            output_names=[EMBEDDING, *map(logits_name, saved.tasks)],
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            dynamo=True,
            external_data=size > _MOST_IN_ONE_FILE,
            verbose=False,
        )


def import_openvino() -> Any:
    """Return the package `openvino`, which then sends no usage data: by default it does when it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # as if it were not installed
    import openvino

    return openvino


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's warnings, about its own parts, those of transformers, and torchvision, off the terminal."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
