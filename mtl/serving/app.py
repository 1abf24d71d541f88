"""The endpoints: predictions, embeddings, the state of the server, and the page to try the model in."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import mtl
from mtl.base.errors import ConfigError, ModelError, Problem, did_you_mean, listed
from mtl.inference.models import MultiTaskModel
from mtl.inference.prediction import Prediction, as_json
from mtl.serving.batching import Answer, Batcher
from mtl.serving.guard import RETRY, ApiError, Guard, Limits, shutdown
from mtl.serving.metrics import Metrics
from mtl.serving.schemas import (
    ERRORS,
    EmbedRequest,
    Info,
    OpenAIAnswer,
    OpenAIRequest,
    PredictAnswer,
    PredictQuery,
    PredictRequest,
    Status,
)

if TYPE_CHECKING:
    from mtl.serving.service import Served, Service

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_STATUS_KINDS = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    service: Service,
    batcher: Batcher,
    limits: Limits,
    metrics: Metrics,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
) -> Guard:
    """Return the ASGI application; ``token`` and ``hosts`` are those of `Guard`."""
    app = FastAPI(
        title="mtl",
        version=mtl.__version__,
        description="Predictions and embeddings of one model.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        dependencies=None if token is None else [Depends(HTTPBearer(auto_error=False))],  # for the schema: see Guard
    )
    answers = _Endpoints(service, batcher, limits, metrics)
    for method, path, endpoint, model, summary in (
        ("POST", "/predict", answers.predict, PredictAnswer, "Labels and probabilities"),
        ("POST", "/embed", answers.embed, list[list[float]], "Embeddings, as text-embeddings-inference gives them"),
        ("POST", "/v1/embeddings", answers.openai_embeddings, OpenAIAnswer, "Embeddings, in the form of OpenAI"),
        ("GET", "/health", answers.health, Status, "Whether the process lives"),
        ("GET", "/ready", answers.ready, Status, "Whether requests are accepted"),
        ("GET", "/info", answers.info, Info, "The model and the limits"),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=model, summary=summary)
    app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)(answers.figures)
    for path, (name, kind) in _PAGE_FILES.items():
        app.add_route(path, _page(name, kind), include_in_schema=False)
    paths = [known for route in app.routes if (known := getattr(route, "path", None))]

    async def failed(request: Request, error: Exception) -> Response:
        return _api_error(request, error, paths).response()

    for kind_of_error in (ApiError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind_of_error, failed)
    allowed = None if hosts is None else {host.lower() for host in hosts}
    return Guard(app, limits, metrics, token, allowed, paths)


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers with a file of the page."""
    content = (files("mtl.serving") / "page" / name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, headers={**_PAGE_HEADERS, "Content-Type": kind})

    return page


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """The endpoints; the names of the methods are the ``operationId`` in ``/openapi.json``, which clients may use."""

    service: Service
    batcher: Batcher
    limits: Limits
    metrics: Metrics

    async def predict(self, request: PredictRequest, query: Annotated[PredictQuery, Query()]) -> Response:
        served, single = self.service.served, isinstance(request.inputs, str)
        tasks = _tasks(served.model, query.task)
        coverage, max_risk = query.coverage or self.service.coverage, query.max_risk or self.service.max_risk
        _check_query(query, served, tasks, coverage, max_risk)
        answer = await self._answer(served.model, request.inputs, tasks, request.prompt_name, "inputs")
        predictions = served.model.with_levels(answer.predictions, coverage, max_risk)
        if query.task is not None:
            most = request.parameters.top_k if request.parameters else None
            lists = [_as_scores(prediction)[:most] for prediction in predictions[query.task]]
            return _json(lists[0] if single and request.parameters is None else lists)
        texts = range(len(answer.embeddings))
        rows = [{task: as_json(found[at]) for task, found in predictions.items()} for at in texts]
        if query.nearest is not None and served.nearest is not None:
            near = await asyncio.to_thread(served.nearest.of, answer.embeddings, query.nearest)
            for task, examples in near.items():
                for row, found in zip(rows, examples, strict=True):
                    row[task]["nearest"] = found
        return _json(rows[0] if single else rows)

    async def embed(self, request: EmbedRequest) -> Response:
        answer = await self._answer(self.service.served.model, request.inputs, (), request.prompt_name, "inputs")
        embeddings = answer.embeddings
        if request.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return _json(embeddings.tolist())

    async def openai_embeddings(self, request: OpenAIRequest) -> Response:
        model = self.service.served.model
        size = model.encoder.dimension
        if request.dimensions not in (None, size):
            raise ApiError(422, "validation", Problem("dimensions", str(request.dimensions), f"{size}, the model's"))
        answer = await self._answer(model, request.input, (), None, "input")
        data = [
            {"object": "embedding", "index": at, "embedding": _openai_embedding(row, request.encoding_format)}
            for at, row in enumerate(answer.embeddings)
        ]
        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        return _json({"object": "list", "data": data, "model": request.model or self.service.name, "usage": usage})

    async def health(self) -> Response:
        return _json({"status": "ok"})

    async def ready(self) -> Response:
        return _json({"status": "ready"}) if self.batcher.alive else _json({"status": "unavailable"}, status=503)

    async def info(self) -> Response:
        limits = self.limits
        most = {"body_bytes": limits.body_bytes, "texts": limits.texts, "text_characters": limits.text_characters}
        return _json(self.service.info() | {"limits": most})

    async def figures(self) -> Response:
        return Response(self.metrics.render(self.batcher.waiting), media_type=CONTENT_TYPE_LATEST)

    async def _answer(
        self, model: MultiTaskModel, inputs: str | list[str], tasks: Sequence[str], prompt_name: str | None, place: str
    ) -> Answer:
        """Wait for the answer to a request, in the queue and in a batch."""
        texts = [inputs] if isinstance(inputs, str) else inputs
        _check_texts(texts, self.limits, place)
        try:
            model.encoder.encoder.layout.prompt(prompt_name)
        except ModelError as error:
            raise ApiError(422, "validation", error.problems) from None
        future = self.batcher.submit(model, texts, tasks, prompt_name)
        try:
            async with asyncio.timeout(self.limits.deadline_seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            expected = f"an answer within {self.limits.deadline_seconds:g} s"
            problem = Problem("server", "the deadline", expected, "send fewer texts at once, or try again")
            raise ApiError(504, "deadline", problem, RETRY) from None
        except asyncio.CancelledError:  # by a second signal
            raise shutdown() from None
        except ModelError as error:
            raise ApiError(500, "model", error.problems) from None


def _api_error(request: Request, error: Exception, paths: Sequence[str]) -> ApiError:
    """Return what a client is told about an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return ApiError(422, "validation", [_validation_problem(detail) for detail in error.errors()])
    if not isinstance(error, HTTPException):
        problem = Problem("server", f"an unexpected {type(error).__name__}", "no such error", "see the server's log")
        return ApiError(500, "internal", problem)
    if error.status_code == 400:  # FastAPI's word for a body that json.loads refuses in an unusual way
        return ApiError(400, "validation", Problem("body", "invalid JSON", "JSON"))
    problem = Problem("path", f"{request.method} {request.url.path}", listed(paths))
    kind = _STATUS_KINDS.get(error.status_code, "http")
    return ApiError(error.status_code, kind, problem, dict(error.headers or {}))


def _validation_problem(detail: Mapping[str, Any]) -> Problem:
    place = ".".join(str(part) for part in detail["loc"] if part not in ("str", "list[str]")) or "body"
    if detail["type"] == "json_invalid":
        reason = detail.get("ctx", {}).get("error", "")
        return Problem(f"body, position {detail['loc'][-1]}", f"invalid JSON: {reason}", "JSON")
    found = "nothing" if detail["type"] == "missing" else repr(detail.get("input"))[:200]
    if detail["type"] == "extra_forbidden":
        return Problem(place, found, "no field of this name", "/openapi.json describes all fields")
    message = detail["msg"].removeprefix("Value error, ")
    return Problem(place, found, message[:1].lower() + message[1:])


def _tasks(model: MultiTaskModel, task: str | None) -> list[str]:
    tasks = list(model.labels)
    if task is not None and task not in tasks:
        raise ApiError(422, "validation", Problem("task", repr(task), listed(tasks), did_you_mean(task, tasks)))
    return tasks if task is None else [task]


def _check_query(
    query: PredictQuery, served: Served, tasks: Sequence[str], coverage: float | None, max_risk: float | None
) -> None:
    """Check what only the model and the server know."""
    problems = []
    if query.nearest is not None and served.nearest is None:
        repair = "python -m mtl.serve examples=FILE"
        problems.append(Problem("nearest", str(query.nearest), "a server that was started with examples", repair))
    if query.nearest is not None and query.task is not None:
        problems.append(Problem("nearest", f"task={query.task}", "no task, whose answers have the form of TEI"))
    try:
        served.model.check_levels(tasks, coverage=coverage, max_risk=max_risk)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ApiError(422, "validation", problems)


def _check_texts(texts: list[str], limits: Limits, place: str) -> None:
    if not texts:
        raise ApiError(422, "validation", Problem(place, "no text", "at least one text"))
    if len(texts) > limits.texts:
        expected = f"at most {limits.texts:,} texts"
        raise ApiError(413, "too_large", Problem(place, f"{len(texts):,} texts", expected, "send them in parts"))
    for at, text in enumerate(texts):
        if len(text) > limits.text_characters:
            found, expected = f"{len(text):,} characters", f"at most {limits.text_characters:,} characters"
            problem = Problem(f"{place}.{at}", found, expected, "send its beginning: no model reads more of it")
            raise ApiError(413, "too_large", problem)


def _as_scores(prediction: Prediction) -> list[dict[str, Any]]:
    """Return the labels with their scores, highest first; of equal scores the predicted label first."""
    items = sorted(prediction.probabilities.items(), key=lambda item: (-item[1], item[0] != prediction.label))
    scores: list[dict[str, Any]] = [{"label": label, "score": score} for label, score in items]
    for score in scores:
        if prediction.label_set is not None:
            score["in_set"] = score["label"] in prediction.label_set
        if prediction.abstain is not None:
            score["abstain"] = prediction.abstain
    return scores


def _openai_embedding(row: Any, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = row.tolist()
    return values


def _json(content: Any, status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return Response(body, status, media_type="application/json")
