"""Export a saved model to a folder that other programs use: ONNX, OpenVINO, or the encoder's own layout."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from tokenizers import Tokenizer

from mtl.base.files import write_json, write_text_atomically, writing_folder
from mtl.evaluation.counts import macro_f1
from mtl.evaluation.predictions import Predictions, predictions_path, read_predictions
from mtl.inference.agreement import Agreement, Answers, Graph, check_agreement, check_shapes, compare
from mtl.inference.graph import ExportedNetwork, logits_name, longest, write_graph
from mtl.inference.models import SentenceEncoder
from mtl.model.saved import CARD, HEADS, SavedModel, load_model, read_manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABOUT: Final = "model.json"
TOKENIZER: Final = "tokenizer.json"


RUNTIMES: Final = {
    "onnx": {
        "title": "A multi-task model in ONNX",
        "graph": "model.onnx",
        "weights": "",
        "package": "onnxruntime",
        "load": 'onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        "run": 'session.run(None, {"input_ids": ids, "attention_mask": mask})',
    },
    "openvino": {
        "title": "A multi-task model in OpenVINO",
        "graph": "model.xml",
        "weights": "with its weights in `model.bin`; ",
        "package": "openvino",
        "load": 'openvino.compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        "run": 'session({"input_ids": ids, "attention_mask": mask}).to_tuple()',
    },
}
"""What stands in the README for each format."""

README: Final = """# {title}

One graph for all tasks ({tasks}), with the calibration and the decision rule inside.

| file | holds |
|---|---|
| `{graph}` | {weights}inputs `input_ids`, `attention_mask`: int64 (rows, tokens); outputs {outputs}: float32 |
| `tokenizer.json` | the tokenizer; it cuts a text at {max_length} tokens and pads with the id {pad_id} |
| `model.json` | the labels of each task in the order of the logits, the prompt, the longest input, the padding id |

The softmax of a task's logits is the probability of each label, and the label of the greatest logit the prediction.
{prompt}

`pip install numpy {package} tokenizers`, then in this folder:

```python
import json
import numpy as np, {package}, tokenizers

about = json.load(open("model.json", encoding="utf-8"))
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
session = {load}
rows = tokenizer.encode_batch([about["prompt"] + text for text in ["Battery died after a week", "Great phone"]])
ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
embeddings, *outputs = {run}
for (task, labels), logits in zip(about["labels"].items(), outputs):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    print(task, [labels[best] for best in logits.argmax(axis=1)], odds / odds.sum(axis=1, keepdims=True))
```
"""
_NO_PROMPT: Final = "The model was trained without a prompt: a text goes to the tokenizer as it is."
_WITH_PROMPT: Final = (
    "The model was trained with a prompt: put the `prompt` of `model.json` before each text, as the example does."
)


@dataclass(frozen=True, slots=True)
class Figures:
    """The macro-F1 of a task on a split of its run, of the saved model and of the exported one."""

    task: str
    split: str
    rows: int
    ours: float
    exported: float


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what was verified before."""

    folder: Path
    agreements: Sequence[Agreement]  # one for all rows that were compared together
    figures: Sequence[Figures] = ()  # those of the run's validation and test rows; empty without a run around the model


def export_graph(model: Path, output: Path, runtime: Literal["onnx", "openvino"] = "onnx") -> Exported:
    """Write a run's or a saved model as one graph with its tokenizer, labels and a README, once it is verified.

    Raises:
        ModelError: There is no saved model, or the graph answers otherwise; nothing is written then.
        DataError: The run's predictions, whose texts are compared too, are damaged.
    """
    saved = load_model(model)
    rows, about = run_rows(saved), description(saved)
    with writing_folder(output) as folder:
        path = folder / RUNTIMES[runtime]["graph"]
        write_graph(saved, path)
        portable_tokenizer(saved).save(str(folder / TOKENIZER))
        write_json(folder / ABOUT, about)
        write_text_atomically(folder / "README.md", _readme(about, RUNTIMES[runtime]))
        graph, tokenizer = Graph(path), Tokenizer.from_file(str(folder / TOKENIZER))
        agreements, figures = list(check_shapes(saved, graph)), []
        for (task, split), part in rows.items():
            ours = Answers.of_model(saved, SentenceEncoder(saved.network.encoder, saved.tokenizer).encode(part.texts))
            outputs = graph.run_texts([about["prompt"] + text for text in part.texts], tokenizer)
            theirs = Answers.of_graph(outputs, saved.tasks)
            agreements.append(compare(f"{task}, {split} rows of the run", ours, theirs))
            labels = part.ids(part.labels)
            scores = (macro_f1(labels, answers.labels[task], len(part.classes)) for answers in (ours, theirs))
            figures.append(Figures(task, split, len(part), *scores))
        check_agreement(agreements)
    return Exported(output, agreements, figures)


def export_encoder(model: Path, output: Path) -> Exported:
    """Write the encoder without heads in the layout of sentence-transformers, once it is verified.

    The files are those of the saved model. They are read back by sentence-transformers where it is installed, else by
    transformers, and must give the same embeddings.

    Raises:
        ModelError: There is no saved model, or the embeddings are others; nothing is written then.
        DataError: The run's predictions, whose texts are compared, are damaged.
    """
    saved = load_model(model)
    texts = list(dict.fromkeys(text for part in run_rows(saved).values() for text in part.texts)) or list(_TEXTS)
    with writing_folder(output) as folder:
        for name in read_manifest(saved.folder).files:
            if name not in (HEADS, CARD):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(saved.folder / name, folder / name)
        write_text_atomically(folder / CARD, _ENCODER_CARD)
        ours = Answers(SentenceEncoder(saved.network.encoder, saved.tokenizer).encode(texts), {}, {})
        reader, embeddings = _read_back(saved, folder, texts)
        agreement = compare(f"{len(texts):,} texts, encoded by {reader}", ours, Answers(embeddings, {}, {}))
        check_agreement([agreement])
    return Exported(output, [agreement])


_TEXTS: Final = ("Great phone", "The battery died after a week, and nobody answers.", "long " * 600, "größe 中文 👩‍👧")
"""What is compared where a model has no run around it."""
_ENCODER_CARD: Final = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction]
---

# Sentence encoder

The encoder of a multi-task model, without its heads. `sentence_transformers.SentenceTransformer("path/to/this/folder")`
loads it, and so do programs that read this layout, such as text-embeddings-inference.
"""


def _read_back(saved: SavedModel, folder: Path, texts: Sequence[str]) -> tuple[str, NDArray[np.float32]]:
    """Return who has read the folder, and the embeddings of texts."""
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return "sentence-transformers", peer.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
    network, tokenizer = ExportedNetwork(saved, folder), portable_tokenizer(saved)
    prompt, rows = saved.network.encoder.layout.prompt(), []
    with torch.inference_mode():
        for text in texts:
            row = tokenizer.encode(prompt + text)
            ids, mask = (torch.tensor([values]) for values in (row.ids, row.attention_mask))
            rows.append(network.embed(ids, mask).numpy())
    return "transformers", np.concatenate(rows)


def run_rows(saved: SavedModel) -> dict[tuple[str, str], Predictions]:
    """Return the validation and test rows of the run that a model stands in, by task and split; none without a run."""
    found = {}
    for task, head in saved.tasks.items():
        for split in ("val", "test"):
            path = predictions_path(saved.folder.parent, task, split)
            if path.is_file() and list((rows := read_predictions(path)).classes) == head.labels and len(rows):
                found[task, split] = rows
    return found


def portable_tokenizer(saved: SavedModel) -> Tokenizer:
    """Return a tokenizer that cuts at the longest input and pads on the right by itself, as `mtl.data.tokens` does."""
    tokenizer = Tokenizer.from_str(saved.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(longest(saved), direction=saved.tokenizer.truncation_side)
    tokenizer.enable_padding(pad_id=saved.tokenizer.pad_token_id or 0, pad_token=saved.tokenizer.pad_token)
    return tokenizer


def description(saved: SavedModel) -> dict[str, Any]:
    """Return what ``model.json`` holds: all that a program needs beside the graph and the tokenizer."""
    encoder = saved.network.encoder
    return {
        "labels": {task: head.labels for task, head in saved.tasks.items()},
        "outputs": {task: logits_name(task) for task in saved.tasks},
        "embedding_size": encoder.embedding_size,
        "max_length": longest(saved),
        "prompt": encoder.layout.prompt(),
        "pad_id": saved.tokenizer.pad_token_id or 0,
    }


def _readme(about: Mapping[str, Any], runtime: Mapping[str, str]) -> str:
    outputs = [f"`sentence_embedding` (rows, {about['embedding_size']})"]
    outputs += [f"`{about['outputs'][task]}` (rows, {len(labels)})" for task, labels in about["labels"].items()]
    return README.format(
        **runtime,
        tasks=", ".join(about["labels"]),
        outputs=", ".join(outputs),
        max_length=about["max_length"],
        pad_id=about["pad_id"],
        prompt=_WITH_PROMPT if about["prompt"] else _NO_PROMPT,
    )
