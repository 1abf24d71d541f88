"""The endpoints: predictions, embeddings, the state of the server, and the page to try the model in."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from mtl.inference.prediction import Prediction
from mtl.serving.batching import Answer, Batcher, QueueFullError, StoppedError
from mtl.serving.guard import ApiError, Guard, Limits
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
    from collections.abc import Collection

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
_RETRY_SECONDS = 1
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
    """Return the ASGI application.

    Args:
        service: Has the model, and another one after a reload.
        batcher: Runs it.
        limits: What a request may ask for.
        metrics: Counts.
        token: See `Guard`.
        hosts: See `Guard`.
    """
    app = FastAPI(
        title="mtl",
        version=mtl.__version__,
        description="Predictions and embeddings of one model.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        dependencies=None if token is None else [Depends(HTTPBearer(auto_error=False))],  # for the schema: see Guard
    )

    async def answered(
        model: MultiTaskModel, texts: list[str], tasks: Sequence[str], prompt_name: str | None, place: str
    ) -> Answer:
        """Wait for the answer to a request, in the queue and in a batch."""
        _check_texts(texts, limits, place)
        _check_prompt(model, prompt_name)
        try:
            future = batcher.submit(model, texts, tasks, prompt_name)
        except QueueFullError:
            problem = Problem("queue", f"{batcher.waiting:,} texts that wait", "room for this request", "try again")
            raise ApiError(429, "overloaded", problem, {"Retry-After": str(_RETRY_SECONDS)}) from None
        except StoppedError:
            problem = Problem("server", "a shutdown", "requests before it", "try again")
            raise ApiError(503, "unavailable", problem, {"Retry-After": str(_RETRY_SECONDS)}) from None
        try:
            async with asyncio.timeout(limits.deadline_seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            expected = f"an answer within {limits.deadline_seconds:g} s"
            problem = Problem("server", "the deadline", expected, "send fewer texts at once, or try again")
            raise ApiError(504, "deadline", problem, {"Retry-After": str(_RETRY_SECONDS)}) from None
        except ModelError as error:
            raise ApiError(500, "model", error.problems) from None

    @app.post("/predict", summary="Labels and probabilities", response_model=PredictAnswer)
    async def predict(request: PredictRequest, query: Annotated[PredictQuery, Query()]) -> Response:
        served = service.served
        model = served.model
        tasks = _tasks(model, query.task)
        coverage, max_risk = query.coverage or service.coverage, query.max_risk or service.max_risk
        _check_query(query, served, tasks, coverage, max_risk)
        single = isinstance(request.inputs, str)
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        answer = await answered(model, texts, tasks, request.prompt_name, "inputs")
        predictions = model.with_levels(answer.predictions, coverage, max_risk)
        if query.task is not None:
            most = request.parameters.top_k if request.parameters else None
            lists = [_as_scores(prediction)[:most] for prediction in predictions[query.task]]
            return _json(lists[0] if single and request.parameters is None else lists)
        rows = [{name: _as_object(found[at]) for name, found in predictions.items()} for at in range(len(texts))]
        if query.nearest is not None and served.nearest is not None:
            near = await asyncio.to_thread(served.nearest.of, answer.embeddings, query.nearest)
            for at, row in enumerate(rows):
                for name, found in row.items():
                    found["nearest"] = [
                        asdict(example) | {"label": example.label or None} for example in near[name][at]
                    ]
        return _json(rows[0] if single else rows)

    @app.post("/embed", summary="Embeddings, as text-embeddings-inference gives them", response_model=list[list[float]])
    async def embed(request: EmbedRequest) -> Response:
        model = service.served.model
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        answer = await answered(model, texts, (), request.prompt_name, "inputs")
        embeddings = answer.embeddings
        if request.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return _json(embeddings.tolist())

    @app.post("/v1/embeddings", summary="Embeddings, in the form of OpenAI", response_model=OpenAIAnswer)
    async def openai_embeddings(request: OpenAIRequest) -> Response:
        model = service.served.model
        size = model.encoder.dimension
        if request.dimensions not in (None, size):
            raise ApiError(422, "validation", Problem("dimensions", str(request.dimensions), f"{size}, the model's"))
        texts = [request.input] if isinstance(request.input, str) else request.input
        answer = await answered(model, texts, (), None, "input")
        data = [
            {"object": "embedding", "index": at, "embedding": _openai_embedding(row, request.encoding_format)}
            for at, row in enumerate(answer.embeddings)
        ]
        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        return _json({"object": "list", "data": data, "model": request.model or service.name, "usage": usage})

    @app.get("/health", summary="Whether the process lives", response_model=Status)
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready", summary="Whether requests are accepted", response_model=Status)
    async def ready() -> Response:
        return _json({"status": "ready"}) if batcher.alive else _json({"status": "unavailable"}, status=503)

    @app.get("/info", summary="The model and the limits", response_model=Info)
    async def info() -> Response:
        most = {"body_bytes": limits.body_bytes, "texts": limits.texts, "text_characters": limits.text_characters}
        return _json(service.info() | {"limits": most})

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def figures() -> Response:
        return Response(metrics.render(batcher.waiting), media_type=CONTENT_TYPE_LATEST)

    _add_page(app)
    _add_error_handlers(app)
    paths = {path for route in app.routes if (path := getattr(route, "path", None))}
    return Guard(app, limits, metrics, token=token, hosts=hosts, paths=paths)


def _add_page(app: FastAPI) -> None:
    folder = files("mtl.serving") / "page"
    for path, (name, kind) in _PAGE_FILES.items():
        content = (folder / name).read_bytes()

        async def page(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, headers={**_PAGE_HEADERS, "Content-Type": kind})

        app.add_route(path, _without_request(page), include_in_schema=False)


def _without_request(page: Any) -> Any:
    async def endpoint(_: Request) -> Response:
        response: Response = await page()
        return response

    return endpoint


def _add_error_handlers(app: FastAPI) -> None:
    def response(error: ApiError) -> Response:
        return Response(error.body(), error.status, error.headers, "application/json")

    async def api(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)  # noqa: S101 - registered for nothing else
        return response(error)

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return response(ApiError(422, "validation", [_validation_problem(detail) for detail in error.errors()]))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code == 400:  # FastAPI's word for a body that json.loads refuses in an unusual way
            return response(ApiError(400, "validation", Problem("body", "invalid JSON", "JSON")))
        kind = _STATUS_KINDS.get(error.status_code, "http")
        paths = listed(path for route in app.routes if (path := getattr(route, "path", None)))
        found = f"{request.method} {request.url.path}"
        return response(ApiError(error.status_code, kind, Problem("path", found, paths), dict(error.headers or {})))

    async def unexpected(_: Request, error: Exception) -> Response:
        problem = Problem("server", f"an unexpected {type(error).__name__}", "no such error", "see the server's log")
        return response(ApiError(500, "internal", problem))

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


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


def _check_prompt(model: MultiTaskModel, prompt_name: str | None) -> None:
    try:
        model.encoder.encoder.layout.prompt(prompt_name)
    except ModelError as error:
        raise ApiError(422, "validation", error.problems) from None


def _as_object(prediction: Prediction) -> dict[str, Any]:
    found: dict[str, Any] = {"label": prediction.label, "probabilities": prediction.probabilities}
    if prediction.coarse is not None:
        found["coarse"] = _as_object(prediction.coarse)
    if prediction.label_set is not None:
        found["set"] = prediction.label_set
    return found if prediction.abstain is None else found | {"abstain": prediction.abstain}


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
