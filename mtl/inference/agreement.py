"""Whether an exported model answers as the saved one does: the same rows through both, embeddings and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from mtl.activations.encoding import evaluating, head_logits
from mtl.base.errors import ModelError, Problem
from mtl.inference.graph import EMBEDDING, INPUTS, import_openvino, logits_name, longest
from mtl.model.decision import Calibration

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from mtl.model.saved import SavedModel

Run = Callable[[dict[str, Any]], Sequence[Any]]
"""The outputs of a graph, in their order, for its inputs by name."""
EMBEDDING_TOLERANCE: Final = 1e-5
"""The largest difference of a number in an embedding, as a share of the largest number, or of 1 if that is less."""
PROBABILITY_TOLERANCE: Final = 1e-4
"""The largest difference of a probability."""
TIE: Final = 1e-5
"""Two most probable labels that are nearer to each other are equal up to rounding: either may be the answer."""
_BATCH: Final = 32
_ROWS: Final = 5
_LENGTHS: Final = (3, 64)


class Graph:
    """A graph in onnxruntime, an ``.onnx`` file, or in OpenVINO, an ``.xml`` file; in fp32 on the CPU."""

    def __init__(self, path: Path) -> None:
        self._names, self._run = (_in_openvino if path.suffix == ".xml" else _in_onnxruntime)(path)

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name for ids and mask ``(B, S)``."""
        return dict(zip(self._names, self._run(dict(zip(INPUTS, (ids, mask), strict=True))), strict=True))

    def run_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name for ``N`` texts, in their order."""
        rows = tokenizer.encode_batch_fast(list(texts))
        order = np.argsort([sum(row.attention_mask) for row in rows], kind="stable")
        found: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            kept = max(1, *(sum(rows[at].attention_mask) for at in places))  # they are padded to the longest of all
            ids, mask = (
                np.array([getattr(rows[at], name)[:kept] for at in places], dtype=np.int64)
                for name in ("ids", "attention_mask")
            )
            for name, values in self.run(ids, mask).items():
                found.setdefault(name, np.empty((len(texts), values.shape[1]), np.float32))[places] = values
        return found


def _in_onnxruntime(path: Path) -> tuple[list[str], Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [output.name for output in session.get_outputs()], lambda inputs: session.run(None, inputs)


def _in_openvino(path: Path) -> tuple[list[str], Run]:
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    core = import_openvino().Core()
    model = core.read_model(path)  # has the names alone; when it is compiled, outputs get names of operations too
    compiled = core.compile_model(model, "CPU", hints)
    return [output.any_name for output in model.outputs], lambda inputs: compiled(inputs).to_tuple()


@dataclass(frozen=True, slots=True)
class Answers:
    """What a program answers for ``N`` rows."""

    embeddings: NDArray[np.float32]  # ``(N, E)``
    labels: Mapping[str, NDArray[np.int64]]  # for each task the predicted class ``(N,)``
    probabilities: Mapping[str, NDArray[np.float64]]  # for each task ``(N, C_task)``

    @classmethod
    def of_model(cls, saved: SavedModel, embeddings: NDArray[np.float32]) -> Answers:
        """Return what `mtl.MultiTaskModel` answers where the encoder gives these embeddings."""
        logits = {task: head_logits(saved.network, task, embeddings) for task in saved.tasks}
        how = {task: head.calibration for task, head in saved.tasks.items()}
        return cls(
            embeddings,
            {task: how[task].predicted(values) for task, values in logits.items()},
            {task: how[task].probabilities(values) for task, values in logits.items()},
        )

    @classmethod
    def of_graph(cls, outputs: Mapping[str, NDArray[np.float32]], tasks: Iterable[str]) -> Answers:
        """Return what a program answers that takes the softmax and the greatest of a graph's logits."""
        logits = {task: outputs[logits_name(task)] for task in tasks}
        return cls(
            outputs[EMBEDDING],
            {task: values.argmax(axis=1) for task, values in logits.items()},
            {task: Calibration().probabilities(values) for task, values in logits.items()},
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near two answers for the same rows are."""

    subject: str  # what the rows are: ``5 rows of up to 64 tokens``
    rows: int  # their number
    other_labels: int  # how many labels of all tasks differ, ties left out
    ties: int  # how many labels differ where the two most probable ones are equal up to rounding, see `TIE`
    probability: float  # the largest difference of a probability; 0 where there is no task
    embedding: float  # the largest difference of a number in an embedding, as `EMBEDDING_TOLERANCE` measures it

    @property
    def holds(self) -> bool:
        """Whether all labels are equal, and the differences within the tolerances; a NaN is within none."""
        near = self.probability <= PROBABILITY_TOLERANCE and self.embedding <= EMBEDDING_TOLERANCE
        return near and not self.other_labels


def compare(subject: str, ours: Answers, theirs: Answers) -> Agreement:
    """Return how near two answers for the same rows are; the scale and the ties are those of ``ours``."""
    differing = ties = 0
    for task, labels in ours.labels.items():
        places = np.flatnonzero(labels != theirs.labels[task])
        two_best = np.sort(ours.probabilities[task][places], axis=1)[:, -2:]
        close = two_best[:, -1] - two_best[:, 0] < TIE
        ties += int(close.sum())
        differing += int((~close).sum())
    return Agreement(
        subject,
        len(ours.embeddings),
        differing,
        ties,
        max((_largest(values - theirs.probabilities[task]) for task, values in ours.probabilities.items()), default=0),
        _largest(ours.embeddings - theirs.embeddings) / max(1.0, _largest(ours.embeddings)),
    )


def _largest(values: NDArray[np.floating]) -> float:
    return float(np.abs(values).max(initial=0))


def check_agreement(agreements: Iterable[Agreement]) -> None:
    """Refuse an exported model that answers otherwise than the saved one.

    Raises:
        ModelError: It does; it names all rows on which it does.
    """
    problems = [
        Problem(
            agreement.subject,
            f"{agreement.other_labels} other labels, probabilities up to {agreement.probability:.1e} apart, embeddings "
            f"up to {agreement.embedding:.1e}",
            f"equal labels, at most {PROBABILITY_TOLERANCE:.0e} and {EMBEDDING_TOLERANCE:.0e}",
            "nothing was written; the exported model is not the saved one",
        )
        for agreement in agreements
        if not agreement.holds
    ]
    if problems:
        raise ModelError(problems)


def check_shapes(saved: SavedModel, graph: Graph) -> Iterator[Agreement]:
    """Compare a graph with the model on random tokens: 3, 64 and the most tokens, in one row and in several.

    The rows of a batch have lengths of their own, so that most are padded.
    """
    random = np.random.default_rng(0)
    pad = saved.tokenizer.pad_token_id or 0
    vocabulary = np.setdiff1d(np.fromiter(saved.tokenizer.get_vocab().values(), dtype=np.int64), [pad])
    encoder = saved.network.encoder
    most = longest(saved)
    for length in sorted({min(length, most) for length in (*_LENGTHS, most)}):
        for rows in (1, _ROWS if length <= 512 else 2):
            lengths = np.array([length, *random.integers(min(3, length), length, rows - 1, endpoint=True)])
            mask = np.arange(length) < lengths[:, None]
            ids = np.where(mask, random.choice(vocabulary, mask.shape), pad)
            with torch.inference_mode(), evaluating(encoder):
                embeddings = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).float().numpy()
            outputs = graph.run(ids, mask.astype(np.int64))
            subject = f"1 row of {length} tokens" if rows == 1 else f"{rows} rows of up to {length} tokens"
            yield compare(subject, Answers.of_model(saved, embeddings), Answers.of_graph(outputs, saved.tasks))
