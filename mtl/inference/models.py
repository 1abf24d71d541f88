"""The Python interface: `SentenceEncoder` and `MultiTaskModel`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, overload

import numpy as np
import torch

from mtl.activations.encoding import Encoding, Precision, encode_table, head_logits, token_table
from mtl.base.errors import ConfigError, DataError, ModelError, Problem, did_you_mean, listed
from mtl.base.label_tree import LabelTree
from mtl.base.run_folder import find_model
from mtl.data.tokens import UNLIMITED
from mtl.model.decision import Calibration
from mtl.model.encoder import Encoder
from mtl.model.heads import MultiStageHead
from mtl.model.loading import load_tokenizer
from mtl.model.saved import SavedModel, load_model, verify_model
from mtl.model.sources import backbone_spec, locate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of one task for a sentence.

    Attributes:
        label: The most probable label; where rounding makes two equal, the one whose logit is greater.
        probabilities: The probability of each label, in the order of the task's labels; they sum to 1.
        coarse: For a head with several stages, the most probable coarse class and the probability of each, the sum over
            its labels. ``label`` need not belong to it: a class of many labels may win although none of them does.
    """

    label: str
    probabilities: dict[str, float]
    coarse: Prediction | None = None


class SentenceEncoder:
    """An encoder with its tokenizer: sentences in, embeddings out.

    Args:
        encoder: The encoder, on its device.
        tokenizer: Its tokenizer.
    """

    def __init__(self, encoder: Encoder, tokenizer: PreTrainedTokenizerFast) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str | None = None) -> Self:
        """Load an encoder.

        Args:
            name: A backbone of ``conf/backbone`` (``minilm``), a run folder, a saved model, a folder in the hub's
                layout, or a model id on the hub.
            device: Where to run it, ``cpu`` or ``cuda``; the GPU if there is one by default.

        Raises:
            ModelError: There is no such model, or it is not reachable.
        """
        folder = _model_folder(Path(name))
        if folder is None:
            folder = _located(str(name))
        else:
            verify_model(folder)
        return cls(Encoder.from_folder(folder).to(choose_device(device)), load_tokenizer(folder))

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the embeddings of sentences.

        Args:
            texts: ``N`` sentences, or one.
            precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware computes it natively.
            batch_size: Maximum number of sentences in a batch.
            progress: Whether to show a progress bar (lines if there is no terminal); a text is its title.
            prompt_name: The model's prompt to put before each sentence; by default the model's own default prompt.

        Returns:
            float32 ``(N, E)``; ``(E,)`` for one sentence.

        Raises:
            ConfigError: ``batch_size`` is not positive, or ``precision`` is unknown.
            DataError: A sentence is not a string.
            ModelError: An embedding is not finite, or the model has no such prompt.
        """
        single = isinstance(texts, str)
        sentences = [texts] if isinstance(texts, str) else list(texts)
        _check_strings(sentences)
        table = token_table(sentences, self.tokenizer, self.encoder, prompt_name)
        how = Encoding(
            pad_id=self.tokenizer.pad_token_id or 0,
            batch_size=batch_size,
            precision=precision,
            progress="encoding" if progress is True else progress or None,
        )
        embeddings = encode_table(self.encoder, table, how)
        return embeddings[0] if single else embeddings

    @property
    def max_length(self) -> int:
        """Tokens per sentence, special tokens included; longer sentences are truncated."""
        return self.encoder.max_length or UNLIMITED

    @property
    def dimension(self) -> int:
        """``E``, the size of an embedding."""
        return self.encoder.embedding_size


class MultiTaskModel:
    """A saved model that predicts all its tasks in one pass through the encoder.

    Args:
        saved: The loaded model.
        device: Where to run it.
    """

    def __init__(self, saved: SavedModel, device: torch.device) -> None:
        self._saved = replace(saved, network=saved.network.to(device))
        self._device = device
        self._encoder = SentenceEncoder(saved.network.encoder, saved.tokenizer)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | None = None, tasks: Sequence[str] | None = None
    ) -> Self:
        """Load a saved model.

        Args:
            path: A run folder or a saved model.
            device: Where to run it, ``cpu`` or ``cuda``; the GPU if there is one by default.
            tasks: The tasks to predict; all by default.

        Raises:
            ConfigError: The model has no such task.
            ModelError: There is no saved model, or it is damaged.
        """
        saved = load_model(Path(path))
        return cls(saved if tasks is None else _only(saved, tasks), choose_device(device))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each task, in the order of its probabilities."""
        return {name: tuple(task.labels) for name, task in self._saved.tasks.items()}

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the embeddings of sentences, as `SentenceEncoder.encode` does."""
        return self._encoder.encode(
            texts, precision=precision, batch_size=batch_size, progress=progress, prompt_name=prompt_name
        )

    def predict_proba(
        self,
        texts: str | Sequence[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        calibrated: bool = True,
        prompt_name: str | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the probabilities ``(N, C_task)`` of each task for ``N`` sentences; ``(C_task,)`` for one.

        The arguments are those of `predict`.
        """
        single = isinstance(texts, str)
        sentences = [texts] if isinstance(texts, str) else texts
        logits = self._logits(sentences, precision, batch_size, progress=progress, prompt_name=prompt_name)
        probabilities = {
            task: self._calibration(task, calibrated).probabilities(values).astype(np.float32)
            for task, values in logits.items()
        }
        return {task: rows[0] for task, rows in probabilities.items()} if single else probabilities

    @overload
    def predict(  # type: ignore[overload-overlap] # a text is a sequence of texts
        self,
        texts: str,
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        calibrated: bool = True,
        prompt_name: str | None = None,
    ) -> dict[str, Prediction]: ...

    @overload
    def predict(
        self,
        texts: Sequence[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        calibrated: bool = True,
        prompt_name: str | None = None,
    ) -> dict[str, list[Prediction]]: ...

    def predict(
        self,
        texts: str | Sequence[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        calibrated: bool = True,
        prompt_name: str | None = None,
    ) -> dict[str, list[Prediction]] | dict[str, Prediction]:
        """Return each task's predictions for sentences, in their order; its one prediction for one sentence.

        Args:
            texts: Sentences, or one.
            precision: As in `SentenceEncoder.encode`.
            batch_size: As in `SentenceEncoder.encode`.
            progress: As in `SentenceEncoder.encode`.
            calibrated: Whether to apply what was fitted on the validation rows: the temperature, which makes the
                probabilities more reliable and changes no label, and the tuned decision rule, if any.
            prompt_name: The prompt to put before each sentence; by default that of training, if any.
        """
        single = isinstance(texts, str)
        sentences = [texts] if isinstance(texts, str) else texts
        embeddings = self.encode(
            sentences, precision=precision, batch_size=batch_size, progress=progress, prompt_name=prompt_name
        )
        predictions = self.predict_embeddings(embeddings, calibrated=calibrated)
        return {task: rows[0] for task, rows in predictions.items()} if single else predictions

    def predict_embeddings(
        self, embeddings: NDArray[np.float32], *, tasks: Iterable[str] | None = None, calibrated: bool = True
    ) -> dict[str, list[Prediction]]:
        """Return the predictions for embeddings ``(N, E)`` of the model's own encoder, as `predict` does for texts.

        Args:
            embeddings: What `encode` returns.
            tasks: The tasks to predict; all by default.
            calibrated: As in `predict`.
        """
        return {
            task: self._with_coarse(
                task,
                _predictions(
                    head_logits(self._saved.network, task, embeddings),
                    self._calibration(task, calibrated),
                    self.labels[task],
                ),
            )
            for task in (self._saved.tasks if tasks is None else tasks)
        }

    @property
    def encoder(self) -> SentenceEncoder:
        """The trained encoder with its tokenizer."""
        return self._encoder

    def _with_coarse(self, task: str, predictions: list[Prediction]) -> list[Prediction]:
        """Return the predictions with their coarse classes if the head of the task has several stages."""
        head = self._saved.network.head(task)
        if not isinstance(head, MultiStageHead):
            return predictions
        return [replace(prediction, coarse=_coarse(prediction, head.tree)) for prediction in predictions]

    def _logits(
        self,
        texts: Sequence[str],
        precision: Precision,
        batch_size: int,
        *,
        progress: bool | str,
        prompt_name: str | None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the logits ``(N, C_task)`` of each task's head."""
        embeddings = self.encode(
            texts, precision=precision, batch_size=batch_size, progress=progress, prompt_name=prompt_name
        )
        return {task: head_logits(self._saved.network, task, embeddings) for task in self._saved.tasks}

    def _calibration(self, task: str, calibrated: bool) -> Calibration:
        return self._saved.tasks[task].calibration if calibrated else Calibration()


def _only(saved: SavedModel, tasks: Sequence[str]) -> SavedModel:
    """Return the model with only these tasks, in their order; heads that they borrow are kept."""
    unknown = [task for task in tasks if task not in saved.tasks]
    if unknown:
        names = list(saved.tasks)
        raise ConfigError(Problem("task", repr(task), listed(names), did_you_mean(task, names)) for task in unknown)
    return replace(saved, tasks={task: saved.tasks[task] for task in tasks})


def _check_strings(sentences: Sequence[str]) -> None:
    wrong = [at for at, sentence in enumerate(sentences) if not isinstance(sentence, str)]
    if wrong:
        first = sentences[wrong[0]]
        found = f"{first!r:.80} ({type(first).__name__})"
        more = f", and {len(wrong) - 1:,} more that are none" if len(wrong) > 1 else ""
        raise DataError(Problem(f"sentence {wrong[0] + 1}", f"{found}{more}", "a string"))


def _coarse(prediction: Prediction, tree: LabelTree) -> Prediction:
    sums = {name: sum(prediction.probabilities[leaf] for leaf in leaves) for name, leaves in tree.branches.items()}
    return Prediction(max(sums, key=sums.__getitem__), sums)


def _predictions(logits: NDArray[np.float32], calibration: Calibration, labels: Sequence[str]) -> list[Prediction]:
    probabilities = calibration.probabilities(logits).astype(np.float32).tolist()
    return [
        Prediction(labels[best], dict(zip(labels, row, strict=True)))
        for best, row in zip(calibration.predicted(logits).tolist(), probabilities, strict=True)
    ]


def choose_device(name: str | None) -> torch.device:
    """Return the device called ``name``; without a name the GPU if there is one, else the CPU.

    Raises:
        ConfigError: PyTorch does not find the device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is not None and not available.get(name.partition(":")[0], False):
        found = f"{name!r}, which PyTorch {torch.__version__} does not find"
        raise ConfigError(Problem("device", found, listed(kind for kind in available if available[kind])))
    return torch.device(name or next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))


def _located(name: str) -> Path:
    """Return the folder of a backbone; errors name the argument ``model``, not the keys of training."""
    try:
        return locate(backbone_spec(name))
    except ModelError as error:
        raise ModelError(
            replace(
                problem,
                place="model" if problem.place.startswith("backbone") else problem.place,
                repair=problem.repair.replace("backbone.path=", "model=").replace("backbone=", "model="),
            )
            for problem in error.problems
        ) from None


def _model_folder(path: Path) -> Path | None:
    try:
        return find_model(path)
    except ModelError:
        return None
