"""Report a run to W&B, MLflow or Trackio: settings, curves, figures and pages.

A tracker works in a thread of its own, so that it neither slows a step nor ends a run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from mtl.base.errors import ConfigError, Problem, printable
from mtl.base.files import write_json
from mtl.training.prepare import Prepared
from mtl.training.results import Results

IDENTITIES: Final = "logs/trackers.json"
"""The name by which each tracker knows the run, from the run folder; a resumed run continues it there."""
_FILES: Final = ("report.html", "report.md", "metrics.json", "config.yaml", "model/README.md", "figures/*.svg")
_PROJECT: Final = "mtl"
_OPENING = 120.0  # seconds; the first run of MLflow makes a database
_CLOSING = {False: 120.0, True: 10.0}  # seconds to wait for what is still to be sent, by whether the run failed
_METRICS_IN_REQUEST = 1000  # what MLflow takes at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as trackers name it."""

    folder: Path
    project: str | None  # None: that of the tracker's own variable, otherwise ``mtl``
    name: str
    group: str | None = None  # what the runs of a sweep or study have in common
    identity: str | None = None  # the name by which the tracker knows a run that is resumed

    def project_or(self, variable: str) -> str:
        """Return the project, by default that of an environment variable."""
        return self.project or os.environ.get(variable) or _PROJECT


class _Service(Protocol):
    """The run in one tracker. The thread of the `Tracker` makes it and calls its methods."""

    repair: str  # what a user can do where it cannot be opened
    identity: str  # the name by which the tracker knows the run
    location: str  # where a person can see the run

    def settings(self, values: Mapping[str, Any]) -> None:
        """Log the nested settings of the run."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of an optimizer step, from 0."""

    def files(self, folder: Path, paths: Sequence[str]) -> None:
        """Keep copies of files, paths from ``folder``."""

    def end(self, *, failed: bool) -> None:
        """End the run there, and wait until all is sent."""


class _Wandb:
    repair = "run `wandb login`, or set WANDB_MODE=offline"

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=True):
            raise PermissionError("no API key")  # wandb.init would ask for one
        self._run = wandb.init(
            project=run.project_or("WANDB_PROJECT"),
            name=run.name,
            group=run.group,
            dir=run.folder,
            id=run.identity,
            resume="allow",
            reinit="create_new",  # a run of the caller stays as it is
            settings=wandb.Settings(console="off", init_timeout=30),
        )
        self._run.define_metric("trainer/global_step")  # as Lightning does for runs that it makes
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._logger = WandbLogger(experiment=self._run)
        self.identity = self._run.id
        self.location = self._run.url or f"offline; to upload it: wandb sync {Path(self._run.dir).parent}"

    def settings(self, values: Mapping[str, Any]) -> None:
        self._logger.log_hyperparams(dict(values))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._logger.log_metrics(values, step)

    def files(self, folder: Path, paths: Sequence[str]) -> None:
        import wandb

        artifact = wandb.Artifact(f"results-{self.identity}", "results")
        for path in paths:
            artifact.add_file(str(folder / path), path)
        self._run.log_artifact(artifact)

    def end(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _MLflow:
    repair = "set MLFLOW_TRACKING_URI to a server that answers, or to a database such as sqlite:///mlflow.db"

    def __init__(self, run: TrackedRun) -> None:
        import mlflow

        uri = mlflow.get_tracking_uri()
        project = run.project_or("MLFLOW_EXPERIMENT_NAME")
        tags = {} if run.group is None else {"group": run.group}
        with _few_retries():
            self._logger = MLFlowLogger(project, run.name, uri, tags, run_id=run.identity)
            self._client = self._logger.experiment
        assert self._logger.run_id is not None  # noqa: S101 - narrows for mypy: it is open
        self.identity = self._logger.run_id
        self.location = f"experiment {project}, run {self.identity} in {uri}"

    def settings(self, values: Mapping[str, Any]) -> None:
        self._logger.log_hyperparams(_named_for_mlflow(values))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures; Lightning's logger drops letters such as ü from their names, and sends any number at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(batch), _METRICS_IN_REQUEST):
            self._client.log_batch(self.identity, metrics=batch[start : start + _METRICS_IN_REQUEST])

    def files(self, folder: Path, paths: Sequence[str]) -> None:
        for path in paths:
            self._client.log_artifact(self.identity, str(folder / path), path.rpartition("/")[0] or None)

    def end(self, *, failed: bool) -> None:
        self._logger.finalize("failed" if failed else "success")


@contextmanager
def _few_retries() -> Iterator[None]:
    """Let MLflow try three times inside the block; it tries for minutes by default, which suits a run in progress."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    if name in os.environ:
        yield
        return
    os.environ[name] = "2"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _named_for_mlflow(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with keys that MLflow accepts: those below a label may have any characters."""
    return {
        _safe(key): _named_for_mlflow(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }


class _Trackio:
    repair = "run `hf auth login`, or unset TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to log on this machine"

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        project = run.project_or("TRACKIO_PROJECT")
        self._run = trackio.init(
            project=project,
            name=run.identity or run.name,
            group=run.group,
            resume="allow" if run.identity else "never",
            embed=False,
        )
        self.identity = self._run.name
        self.location = f"run {self.identity}; to see it: trackio show --project {project}"

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(values)  # sent with the first figures

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def files(self, folder: Path, paths: Sequence[str]) -> None:
        import trackio

        artifact = trackio.Artifact(f"results-{_safe(self.identity)}", type="results")
        for path in paths:
            artifact.add_file(folder / path, name=path)
        self._run.log_artifact(artifact)

    def end(self, *, failed: bool) -> None:
        self._run.finish()


_SERVICES: Final[Mapping[str, type[_Wandb | _MLflow | _Trackio]]] = {
    "wandb": _Wandb,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}


class Tracker(Logger):
    """A logger that hands everything to a `_Service` in a thread of its own.

    Nothing waits for the service but opening and ending it. A call that fails is a warning, and what it had to log is
    missing there; the run continues.
    """

    name = None
    version = None

    def __init__(self, kind: str, start: Callable[[], _Service]) -> None:
        super().__init__()
        self.kind = kind
        self.step = 0
        self._calls: SimpleQueue[Callable[[_Service], None] | None] = SimpleQueue()
        self.started: Future[_Service] = Future()
        self._failures = 0
        self._thread = Thread(target=self._work, args=(start,), name=f"tracker {kind}", daemon=True)
        self._thread.start()

    def _work(self, start: Callable[[], _Service]) -> None:
        try:
            service = start()
        except Exception as error:  # noqa: BLE001 - any library's
            self.started.set_exception(error)
            return
        self.started.set_result(service)
        while (call := self._calls.get()) is not None:
            try:
                call(service)
            except Exception as error:  # noqa: BLE001 - whatever happens to a tracker, the run continues
                self._failures += 1
                if self._failures == 1:
                    log.warning("%s: %s; the run continues, and this is missing there", self.kind, _brief(error))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the nested settings of the run."""
        values = dict(params)
        self._calls.put(lambda service: service.settings(values))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log figures of an optimizer step; without a step, of the last one that was logged."""
        self.step = at = self.step if step is None else step
        values = {name: float(value) for name, value in metrics.items()}
        self._calls.put(lambda service: service.metrics(values, at))

    def log_files(self, folder: Path, paths: Sequence[str]) -> None:
        """Keep copies of files, paths from ``folder``."""
        self._calls.put(lambda service: service.files(folder, paths))

    def end(self, *, failed: bool) -> None:
        """End the run there, and wait a limited time until all is sent."""
        self._calls.put(lambda service: service.end(failed=failed))
        self._calls.put(None)
        self._thread.join(_CLOSING[failed])
        if self._thread.is_alive():
            log.warning("%s: not everything was sent within %.0f s", self.kind, _CLOSING[failed])
        elif self._failures > 1:
            log.warning("%s: %d calls failed", self.kind, self._failures)


@contextmanager
def tracking(run: Prepared, choices: Mapping[str, str], *, of_sweep: bool) -> Iterator[Sequence[Tracker]]:
    """Open the trackers of a run and let its trainer log to them; end them with the block.

    ``choices`` are settings of the run, as its configuration is. A job of a sweep has the sweep's folder as its group.
    """
    config, folder = run.plan.config, run.plan.folder
    kinds = [] if config.trainer.fast_dev_run else [kind for kind in config.logger.kinds if kind in _SERVICES]
    known = _identities(folder) if run.resume else {}
    services: dict[str, _Service] = {}
    trackers: list[Tracker] = []
    failed = True
    try:
        for kind in kinds:
            tracked = TrackedRun(
                folder,
                config.logger.project,
                config.logger.name or _short(folder),
                config.logger.group or (_short(folder.parent) if of_sweep else None),
                known.get(kind),
            )
            trackers.append(Tracker(kind, partial(_SERVICES[kind], tracked)))
            services[kind] = _opened(trackers[-1])
            if kind not in known:  # MLflow refuses to change a setting, such as the epochs of a resumed run
                trackers[-1].log_hyperparams({**asdict(config), "choices": dict(choices)})
        if services:
            write_json(folder / IDENTITIES, {kind: service.identity for kind, service in services.items()})
        if run.training is not None:
            run.training.trainer.loggers = [*run.training.trainer.loggers, *trackers]
        yield trackers
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed=failed)


def _opened(tracker: Tracker) -> _Service:
    try:
        service = tracker.started.result(_OPENING)
    except Exception as error:  # noqa: BLE001 - any library's, of the network or of a file
        found = f"{tracker.kind}, which cannot be opened: {_brief(error)}"
        repair = f"{_SERVICES[tracker.kind].repair}; or logger=csv"
        raise ConfigError(Problem("logger", found, "a tracker that can be reached", repair)) from None
    log.info("%s: %s", tracker.kind, printable(service.location))
    return service


def _identities(folder: Path) -> dict[str, str]:
    """Return the names by which trackers know a run; none if they cannot be read: then the run is a new one there."""
    try:
        return {str(kind): str(name) for kind, name in json.loads((folder / IDENTITIES).read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def report(trackers: Sequence[Tracker], run: Results) -> None:
    """Log the figures and the pages of an evaluated run whose folder is written."""
    if not trackers:
        return
    folder = run.plan.folder
    paths = sorted(path.relative_to(folder).as_posix() for name in _FILES for path in folder.glob(name))
    for tracker in trackers:
        tracker.log_metrics(final_figures(run))
        if run.plan.config.logger.files is not False:
            tracker.log_files(folder, paths)


def final_figures(run: Results) -> dict[str, float]:
    """Return the figures of the saved model by ``final/<split>/<task>/<metric>`` and ``…/<task>/<label>/<metric>``."""
    cost, retention = run.trained.cost, run.retention
    figures: dict[str, float | None] = {
        "final/train_seconds": cost.train_seconds,
        "final/trainable_parameters": cost.trainable_parameters,
        "final/retention": None if retention is None else retention.after,
    }
    for task, splits in run.reports.items():
        for split, scores in splits.items():
            prefix = f"final/{split}/{task}"
            metrics = {name: value for name, value in asdict(scores).items() if isinstance(value, float)}
            if scores.calibration is not None:
                metrics |= {"ece": scores.calibration.after.ece, "nll": scores.calibration.after.nll}
            figures |= {f"{prefix}/{name}": value for name, value in metrics.items()}
            for name, label in zip(label_names(scores.labels), scores.labels, strict=True):
                of_class = asdict(scores.per_class[label])
                figures |= {f"{prefix}/{name}/{metric}": value for metric, value in of_class.items()}
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}


def label_names(labels: Sequence[str]) -> list[str]:
    """Return labels as parts of the names of figures, told apart by their position where they would be equal."""
    names = [_safe(label)[:80] for label in labels]
    counts = Counter(names)
    return [f"{name}_{at}" if counts[name] > 1 else name for at, name in enumerate(names)]


def _safe(text: str) -> str:
    """Return a text without characters that have a meaning in names of figures and artefacts: slashes, dots, colons."""
    return re.sub(r"[^\w-]+", "_", text)


def _short(folder: Path) -> str:
    """Return the last two parts of a path, from which the folder can be found: ``2026-11-24_14-49-28``."""
    return "_".join(folder.absolute().parts[-2:])


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())[:500] or ("no answer" if isinstance(error, TimeoutError) else "no reason")
    return printable(f"{type(error).__name__}: {text}")
