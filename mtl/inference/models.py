"""The Python interface: `SentenceEncoder` and `MultiTaskModel`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self, TypedDict, Unpack, overload

import numpy as np
import torch

from mtl.activations.encoding import (
    Encoding,
    Precision,
    autocast,
    encode_table,
    head_logits,
    native_bf16,
    token_table,
)
from mtl.base.errors import ConfigError, ModelError, Problem, did_you_mean, listed
from mtl.base.files import content_checksum
from mtl.base.run_folder import MANIFEST, find_model
from mtl.data.tokens import UNLIMITED
from mtl.inference.prediction import Prediction, predictions_of, with_levels
from mtl.inference.sentences import chunks, named_part, strings
from mtl.model.decision import Calibration
from mtl.model.encoder import Encoder
from mtl.model.heads import MultiStageHead
from mtl.model.loading import load_tokenizer
from mtl.model.published import download, is_hub_name, upload
from mtl.model.saved import SavedModel, load_model, verify_model
from mtl.model.sources import backbone_spec, locate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

    from mtl.model.conformal import Outcomes

_MODEL_FILES: Final = (".json", ".safetensors", ".txt", ".model")
"""The suffixes of weights, configurations and tokenizers in the hub's layout."""


class EncodeOptions(TypedDict, total=False):
    """The keyword arguments of `SentenceEncoder.encode`."""

    precision: Precision
    batch_size: int
    progress: bool | str
    prompt_name: str | None


class PredictOptions(EncodeOptions, total=False):
    """The keyword arguments of `MultiTaskModel.predict`."""

    calibrated: bool
    coverage: float | None
    max_risk: float | None


class SentenceEncoder:
    """An encoder, on its device, with its tokenizer: sentences in, embeddings out."""

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
        texts: str | Iterable[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the embeddings of sentences.

        Args:
            texts: ``N`` sentences, or one: any iterable of strings, such as a list, a column of a data frame, an Arrow
                or NumPy array, or a generator.
            precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware computes it natively.
            batch_size: Maximum number of sentences in a batch.
            progress: Whether to show a progress bar (lines if there is no terminal); a text is its title.
            prompt_name: The model's prompt to put before each sentence; by default the model's own default prompt.

        Returns:
            float32 ``(N, E)``; ``(E,)`` for one sentence.

        Raises:
            ConfigError: ``batch_size`` is not positive, or ``precision`` is unknown.
            DataError: A sentence is not a string, or ``texts`` is a whole table.
            ModelError: An embedding is not finite, or the model has no such prompt.
        """
        sentences = [texts] if isinstance(texts, str) else list(strings(texts))
        table = token_table(sentences, self.tokenizer, self.encoder, prompt_name)
        how = Encoding(
            pad_id=self.tokenizer.pad_token_id or 0,
            batch_size=batch_size,
            precision=precision,
            progress="encoding" if progress is True else progress or None,
        )
        embeddings = encode_table(self.encoder, table, how)
        return embeddings[0] if isinstance(texts, str) else embeddings

    @contextmanager
    def prepared(self, precision: Precision = "fp32") -> Iterator[None]:
        """Make the weights ready once for all calls with this precision inside the block, such as one for each text.

        On a CPU a call with one text otherwise spends half of its time on that in bf16, and a tenth in fp32. The
        weights of the layers are kept a second time, in that type, and must not change in the block.

        Raises:
            ConfigError: ``precision`` is unknown.
        """
        Encoding(pad_id=0, precision=precision)  # checks it
        with ExitStack() as ready:
            with autocast(next(self.encoder.parameters()).device, precision):
                ready.enter_context(self.encoder.prepared())
            yield

    @property
    def max_length(self) -> int:
        """Tokens per sentence, special tokens included; longer sentences are truncated."""
        return self.encoder.max_length or UNLIMITED

    @property
    def dimension(self) -> int:
        """``E``, the size of an embedding."""
        return self.encoder.embedding_size


class MultiTaskModel:
    """A saved model that predicts all its tasks in one pass through the encoder."""

    def __init__(self, saved: SavedModel, device: torch.device) -> None:
        self._saved = replace(saved, network=saved.network.to(device))
        self.encoder = SentenceEncoder(saved.network.encoder, saved.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        tasks: Sequence[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Self:
        """Load a saved model.

        Args:
            path: A run folder or a saved model, or where there is no such folder the id of a model on the hub,
                ``owner/name``, that `push_to_hub` has published; it comes from the local cache if the hub cannot be
                reached. Only the files that its manifest lists are fetched, and their checksums verified.
            device: Where to run it, ``cpu`` or ``cuda``; the GPU if there is one by default.
            tasks: The tasks to predict; all by default.
            revision: A branch, a tag or a commit of a model on the hub; the main branch by default.
            token: An access token for the hub; by default that of ``hf auth login`` or ``HF_TOKEN``.

        Raises:
            ConfigError: The model has no such task, or a folder is asked for a revision.
            ModelError: There is no saved model, or it is damaged.
        """
        local = Path(path)
        if not local.exists() and is_hub_name(str(path)):
            saved = load_model(download(str(path), revision=revision, token=token), card=False)
        elif revision is not None:
            found = f"{revision!r}, and {path} is no model's id on the hub"
            raise ConfigError(Problem("revision", found, "only with owner/name, where there is no such folder"))
        else:
            saved = load_model(local)
        return cls(saved if tasks is None else _only(saved, tasks), choose_device(device))

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        message: str = "Upload a multi-task model",
    ) -> str:
        """Publish the model on the hub, as it was saved: safetensors, JSON, the tokenizer and the model card.

        Args:
            name: The model's id, ``owner/name``; its repository is made if there is none.
            private: Whether a new repository is private; by default as the owner's settings say.
            token: An access token that may write; by default that of ``hf auth login`` or ``HF_TOKEN``.
            revision: The branch, made if there is none; the main branch by default.
            message: The commit's message.

        Returns:
            The address of the commit.

        Raises:
            ConfigError: ``name`` is no model's id.
            ModelError: The saved model's folder is gone or damaged, or the hub refuses the upload or cannot be reached.
        """
        folder = self._saved.folder
        return upload(folder, name, private=private, token=token, revision=revision, message=message)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each task, in the order of its probabilities."""
        return {name: tuple(task.labels) for name, task in self._saved.tasks.items()}

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the embeddings of sentences, as `SentenceEncoder.encode` does."""
        return self.encoder.encode(
            texts, precision=precision, batch_size=batch_size, progress=progress, prompt_name=prompt_name
        )

    def predict_proba(
        self,
        texts: str | Iterable[str],
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
        logits = self._logits(texts, precision, batch_size, progress, prompt_name)
        probabilities = {
            task: self._calibration(task, calibrated).probabilities(rows).astype(np.float32)
            for task, rows in logits.items()
        }
        return {task: rows[0] for task, rows in probabilities.items()} if isinstance(texts, str) else probabilities

    @overload
    def predict(  # type: ignore[overload-overlap] # a text is a sequence of texts
        self, texts: str, **options: Unpack[PredictOptions]
    ) -> dict[str, Prediction]: ...

    @overload
    def predict(self, texts: Iterable[str], **options: Unpack[PredictOptions]) -> dict[str, list[Prediction]]: ...

    def predict(
        self,
        texts: str | Iterable[str],
        *,
        precision: Precision = "fp32",
        batch_size: int = 128,
        progress: bool | str = False,
        calibrated: bool = True,
        prompt_name: str | None = None,
        coverage: float | None = None,
        max_risk: float | None = None,
    ) -> dict[str, list[Prediction]] | dict[str, Prediction]:
        """Return each task's predictions for sentences, in their order; its one prediction for one sentence.

        Args:
            texts: As in `SentenceEncoder.encode`. A generator is read in chunks; its texts and embeddings are never
                all in memory.
            precision: As in `SentenceEncoder.encode`.
            batch_size: As in `SentenceEncoder.encode`.
            progress: As in `SentenceEncoder.encode`.
            calibrated: Whether to apply what was fitted on the validation rows: the temperature, which makes the
                probabilities more reliable and changes no label, and the tuned decision rule, if any.
            prompt_name: The prompt to put before each sentence; by default that of training, if any.
            coverage: The share of the texts of each label whose ``label_set`` shall hold it, from 0 to 1; see
                `mtl.model.conformal.Outcomes.set_thresholds`.
            max_risk: The share of wrong labels to accept among the texts that are answered, from 0 to 1; see
                `mtl.model.conformal.Outcomes.answer_threshold`.

        Raises:
            ConfigError: ``batch_size`` is not positive, ``precision`` is unknown, ``coverage`` or ``max_risk`` is not a
                share, or the model has no outcomes of validation rows.
            DataError: A sentence is not a string, or ``texts`` is a whole table.
            ModelError: An embedding or a logit is not finite, or the model has no such prompt.
        """
        self.check_levels(self._saved.tasks, calibrated=calibrated, coverage=coverage, max_risk=max_risk)
        logits = self._logits(texts, precision, batch_size, progress, prompt_name)
        predictions = self._of_logits(logits, calibrated, coverage, max_risk)
        return {task: rows[0] for task, rows in predictions.items()} if isinstance(texts, str) else predictions

    def predict_embeddings(
        self,
        embeddings: NDArray[np.float32],
        *,
        tasks: Iterable[str] | None = None,
        calibrated: bool = True,
        coverage: float | None = None,
        max_risk: float | None = None,
    ) -> dict[str, list[Prediction]]:
        """Return the predictions of all tasks, or of some, for embeddings ``(N, E)`` that `encode` has returned.

        The other arguments are those of `predict`.
        """
        names = list(self._saved.tasks if tasks is None else tasks)
        self.check_levels(names, calibrated=calibrated, coverage=coverage, max_risk=max_risk)
        logits = {task: head_logits(self._saved.network, task, embeddings) for task in names}
        return self._of_logits(logits, calibrated, coverage, max_risk)

    def _of_logits(
        self,
        logits: Mapping[str, NDArray[np.float32]],
        calibrated: bool,
        coverage: float | None,
        max_risk: float | None,
    ) -> dict[str, list[Prediction]]:
        predictions = {}
        for task, rows in logits.items():
            head, labels = self._saved.network.head(task), self._saved.tasks[task].labels
            tree = head.tree if isinstance(head, MultiStageHead) else None
            predictions[task] = predictions_of(rows, self._calibration(task, calibrated), labels, tree)
        return self.with_levels(predictions, coverage, max_risk)

    def with_levels(
        self, predictions: Mapping[str, list[Prediction]], coverage: float | None, max_risk: float | None
    ) -> dict[str, list[Prediction]]:
        """Return calibrated predictions of tasks with their sets of labels and whether to abstain, as far as asked for.

        Tasks without outcomes of validation rows are returned as they are; see `check_levels`.
        """
        return {
            task: rows if (known := self.outcomes[task]) is None else with_levels(rows, known, coverage, max_risk)
            for task, rows in predictions.items()
        }

    @property
    def outcomes(self) -> Mapping[str, Outcomes | None]:
        """For each task its outcomes on validation rows, which ``coverage`` and ``max_risk`` need; None without."""
        return {name: task.outcomes for name, task in self._saved.tasks.items()}

    def check_levels(self, tasks: Iterable[str], *, calibrated: bool = True, **asked: float | None) -> None:
        """Raise the `ConfigError` of `predict` for ``coverage`` and ``max_risk`` of tasks, each None or a share."""
        problems = []
        without = [task for task in tasks if self.outcomes[task] is None]
        for name, value in asked.items():
            if value is None:
                continue
            if not 0 < value < 1:
                problems.append(Problem(name, f"{value:g}", "a share above 0 and below 1"))
            if not calibrated:
                problems.append(Problem(name, "calibrated=false", "calibrated probabilities, to which it applies"))
            if without:
                found = f"no outcomes of validation rows in the model for {listed(without)}"
                repair = "train it again with validation rows: models of older versions and stale heads have none"
                problems.append(Problem(name, found, "a model that keeps them", repair))
        if problems:
            raise ConfigError(problems)

    def _logits(
        self,
        texts: str | Iterable[str],
        precision: Precision,
        batch_size: int,
        progress: bool | str,
        prompt_name: str | None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the logits ``(N, C_task)`` of each task's head, computed `CHUNK` sentences at a time."""
        logits: dict[str, list[NDArray[np.float32]]] = {task: [] for task in self._saved.tasks}
        for chunk, part in chunks(strings([texts] if isinstance(texts, str) else texts)):
            title = f"encoding {part}" if part and progress is True else progress
            with named_part(part):
                embeddings = self.encode(
                    chunk, precision=precision, batch_size=batch_size, progress=title, prompt_name=prompt_name
                )
                for task, parts in logits.items():
                    parts.append(head_logits(self._saved.network, task, embeddings))
        return {task: np.concatenate(parts) for task, parts in logits.items()}

    def _calibration(self, task: str, calibrated: bool) -> Calibration:
        return self._saved.tasks[task].calibration if calibrated else Calibration()


def _only(saved: SavedModel, tasks: Sequence[str]) -> SavedModel:
    """Return the model with only these tasks, in their order; heads that they borrow are kept."""
    unknown = [task for task in tasks if task not in saved.tasks]
    if unknown:
        names = list(saved.tasks)
        raise ConfigError(Problem("task", repr(task), listed(names), did_you_mean(task, names)) for task in unknown)
    return replace(saved, tasks={task: saved.tasks[task] for task in tasks})


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


def settled_precision(precision: Precision, device: str | None) -> Literal["fp32", "bf16"]:
    """Return in which precision ``precision`` is computed on a device, see `choose_device`."""
    place = choose_device(device)
    return "bf16" if precision == "bf16" or (precision == "auto" and native_bf16(place)) else "fp32"


def saved_model_checksum(path: str | Path) -> str:
    """Return the SHA-256 of the manifest of a saved model, which holds the checksums of all its other files."""
    return content_checksum(find_model(Path(path)) / MANIFEST)


def encoder_checksum(name: str | Path) -> str:
    """Return a SHA-256 that tells encoders apart, by their names in `SentenceEncoder.from_pretrained`.

    It is `saved_model_checksum`, or one over weights, configuration and tokenizer of another encoder.
    """
    if _model_folder(Path(name)) is not None:
        return saved_model_checksum(name)
    folder, digest = _located(str(name)), hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_FILES and path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {content_checksum(path)}\n".encode())
    return digest.hexdigest()


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
