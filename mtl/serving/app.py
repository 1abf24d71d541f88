"""The endpoints: predictions, embeddings, the state of the server, and the page to try the model in."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mtl.base.errors import ModelError, Problem, did_you_mean, listed
from mtl.inference.models import MultiTaskModel
from mtl.inference.prediction import Prediction
from mtl.serving.batching import Answer, Batcher, QueueFullError, StoppedError
from mtl.serving.guard import ApiError, Guard, Limits
from mtl.serving.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Collection

    from mtl.serving.service import Service

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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Parameters(_Strict):
    """What clients of the Inference API send beside the inputs."""

    top_k: int | None = Field(default=None, ge=1)
    function_to_apply: Literal["softmax"] | None = None


class PredictRequest(_Strict):
    """A text or several to predict."""

    inputs: str | list[str]
    truncate: Literal[True] | None = Field(default=None, description="Longer texts are always truncated.")
    truncation_direction: Literal["right", "Right"] | None = None
    prompt_name: str | None = None
    raw_scores: Literal[False] | None = None
    parameters: Parameters | None = Field(
        default=None, description="If it is there, one text is answered as by the Inference API: a list in a list."
    )


class EmbedRequest(_Strict):
    """A text or several to embed."""

    inputs: str | list[str]
    normalize: bool | None = Field(default=None, description="true: length 1; else as the model gives them.")
    truncate: Literal[True] | None = None
    truncation_direction: Literal["right", "Right"] | None = None
    prompt_name: str | None = None


class OpenAIRequest(_Strict):
    """A text or several to embed, as OpenAI's clients send them."""

    input: str | list[str]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class Problems(BaseModel):
    """The one form of all errors."""

    error: str
    error_type: str
    problems: list[dict[str, str]]


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
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Problems} for status in (400, 401, 403, 408, 413, 415, 422, 429, 503, 504)
    }
    app = FastAPI(
        title="mtl", description="Predictions and embeddings of one model.", docs_url=None, redoc_url=None,
        responses=responses,
    )  # fmt: skip

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

    @app.post("/predict", summary="Labels and probabilities", response_class=Response)
    async def predict(
        request: PredictRequest,
        task: Annotated[str | None, Query(description="One task: its labels with their scores, as TEI does.")] = None,
    ) -> Response:
        model = service.model
        tasks = _tasks(model, task)
        single = isinstance(request.inputs, str)
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        answer = await answered(model, texts, tasks, request.prompt_name, "inputs")
        if task is None:
            rows = [
                {name: _as_object(predictions[at]) for name, predictions in answer.predictions.items()}
                for at in range(len(texts))
            ]
            return _json(rows[0] if single else rows)
        most = request.parameters.top_k if request.parameters else None
        lists = [_as_scores(prediction)[:most] for prediction in answer.predictions[task]]
        return _json(lists[0] if single and request.parameters is None else lists)

    @app.post("/embed", summary="Embeddings, in the form of text-embeddings-inference", response_class=Response)
    async def embed(request: EmbedRequest) -> Response:
        model = service.model
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        answer = await answered(model, texts, (), request.prompt_name, "inputs")
        embeddings = answer.embeddings
        if request.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return _json(embeddings.tolist())

    @app.post("/v1/embeddings", summary="Embeddings, in the form of OpenAI", response_class=Response)
    async def openai_embeddings(request: OpenAIRequest) -> Response:
        model = service.model
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

    @app.get("/health", summary="Whether the process lives", response_class=Response)
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready", summary="Whether requests are accepted", response_class=Response)
    async def ready() -> Response:
        return _json({"status": "ready"}) if batcher.alive else _json({"status": "unavailable"}, status=503)

    @app.get("/info", summary="The model and the limits", response_class=Response)
    async def info() -> Response:
        return _json(service.info() | {"limits": {"body_bytes": limits.body_bytes, "texts": limits.texts}})

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
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
    return Problem(place, found, detail["msg"][:1].lower() + detail["msg"][1:])


def _tasks(model: MultiTaskModel, task: str | None) -> list[str]:
    tasks = list(model.labels)
    if task is not None and task not in tasks:
        raise ApiError(422, "validation", Problem("task", repr(task), listed(tasks), did_you_mean(task, tasks)))
    return tasks if task is None else [task]


def _check_texts(texts: list[str], limits: Limits, place: str) -> None:
    if not texts:
        raise ApiError(422, "validation", Problem(place, "no text", "at least one text"))
    if len(texts) > limits.texts:
        expected = f"at most {limits.texts:,} texts"
        raise ApiError(413, "too_large", Problem(place, f"{len(texts):,} texts", expected, "send them in parts"))


def _check_prompt(model: MultiTaskModel, prompt_name: str | None) -> None:
    try:
        model.encoder.encoder.layout.prompt(prompt_name)
    except ModelError as error:
        raise ApiError(422, "validation", error.problems) from None


def _as_object(prediction: Prediction) -> dict[str, Any]:
    found: dict[str, Any] = {"label": prediction.label, "probabilities": prediction.probabilities}
    return found if prediction.coarse is None else found | {"coarse": _as_object(prediction.coarse)}


def _as_scores(prediction: Prediction) -> list[dict[str, Any]]:
    """Return the labels with their scores, highest first; of equal scores the predicted label first."""
    items = sorted(prediction.probabilities.items(), key=lambda item: (-item[1], item[0] != prediction.label))
    return [{"label": label, "score": score} for label, score in items]


def _openai_embedding(row: Any, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = row.tolist()
    return values


def _json(content: Any, status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return Response(body, status, media_type="application/json")
