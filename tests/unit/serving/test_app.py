"""The server over real HTTP: shapes, errors, limits, and answers that equal those of the Python interface."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from prometheus_client import parser
from pydantic import TypeAdapter

import mtl
from mtl import MultiTaskModel
from mtl.base.errors import ConfigError
from mtl.evaluation.errors import unit_rows
from mtl.serving.examples import read_rows
from mtl.serving.guard import Limits
from mtl.serving.metrics import Metrics
from mtl.serving.schemas import Info, PredictAnswer
from mtl.serving.service import Service
from tests.support.serving import LABELS, Hold, Running, running, until, write_model
from tests.support.texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "model", tiny_folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> MultiTaskModel:
    return MultiTaskModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Running]:
    with running(folder, Limits(client_seconds=2.0)) as found:
        yield found


@pytest.fixture
def client(served: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url) as found:
        yield found


def as_objects(model: MultiTaskModel, texts: list[str]) -> list[dict[str, Any]]:
    predictions = model.predict(texts)
    return [
        {t: {"label": rows[at].label, "probabilities": rows[at].probabilities} for t, rows in predictions.items()}
        for at in range(len(texts))
    ]


def assert_equal(found: Any, expected: Any) -> None:
    """Labels equal, probabilities but for the rounding of another batch."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for task in other:
            assert one[task]["label"] == other[task]["label"]
            assert one[task]["probabilities"] == pytest.approx(other[task]["probabilities"], abs=1e-5)


def assert_error(answer: httpx.Response, status: int, kind: str, place: str) -> dict[str, Any]:
    content: dict[str, Any] = answer.json()
    assert (answer.status_code, content["error_type"]) == (status, kind), content
    assert content.keys() == {"error", "error_type", "problems"}
    assert content["problems"][0]["place"] == place
    assert all(problem.keys() == {"place", "found", "expected", "repair"} for problem in content["problems"])
    assert answer.headers["content-type"] == "application/json"
    return content


def test_predictions_equal_those_of_the_python_interface(client: httpx.Client, model: MultiTaskModel) -> None:
    texts = [text for text in TEXTS if "\ud800" not in text]
    assert_equal(client.post("/predict", json={"inputs": texts}).json(), as_objects(model, texts))
    assert_equal([client.post("/predict", json={"inputs": "Great phone"}).json()], as_objects(model, ["Great phone"]))


def test_one_task_is_answered_as_by_text_embeddings_inference(client: httpx.Client, model: MultiTaskModel) -> None:
    expected = model.predict("Great phone")["topic"].probabilities
    found = client.post("/predict?task=topic", json={"inputs": "Great phone", "truncate": True}).json()
    assert [row["label"] for row in found] == sorted(expected, key=lambda label: -expected[label])
    assert {row["label"]: row["score"] for row in found} == pytest.approx(expected, abs=1e-5)
    several = client.post("/predict?task=topic", json={"inputs": ["Great phone"]}).json()
    assert several == [found]


def test_sets_and_abstention_equal_those_of_the_python_interface(client: httpx.Client, model: MultiTaskModel) -> None:
    texts = ["Great phone", "y z", "x"]
    answers = client.post("/predict?coverage=0.8&max_risk=0.1", json={"inputs": texts}).json()
    expected = model.predict(texts, coverage=0.8, max_risk=0.1)
    for task, rows in expected.items():
        assert [answer[task]["set"] for answer in answers] == [list(row.label_set or ()) for row in rows]
        assert [answer[task]["abstain"] for answer in answers] == [row.abstain for row in rows]
    assert len({len(answer["topic"]["set"]) for answer in answers}) > 1
    assert {answer["topic"]["abstain"] for answer in answers} == {True, False}
    only = client.post("/predict?max_risk=0.1", json={"inputs": "y z"}).json()
    assert only["mood"].keys() == {"label", "probabilities", "abstain"}


def test_one_task_says_of_each_label_whether_it_is_in_the_set(served: Running, model: MultiTaskModel) -> None:
    from huggingface_hub import InferenceClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        address = f"{served.url}/predict?task=topic&coverage=0.8&max_risk=0.1"
        found = InferenceClient().text_classification("y z", model=address)
    expected = model.predict("y z", coverage=0.8, max_risk=0.1)["topic"]
    assert {row["label"] for row in found if row["in_set"]} == set(expected.label_set or ())
    assert [row["abstain"] for row in found] == [True] * 3
    assert found[0].label == expected.label


def test_requests_without_levels_get_those_of_the_server(folder: Path, model: MultiTaskModel) -> None:
    with running(folder, coverage=0.8, max_risk=0.1) as served, httpx.Client(base_url=served.url) as client:
        usual = client.post("/predict", json={"inputs": "y z"}).json()["topic"]
        other = client.post("/predict?coverage=0.3", json={"inputs": "y z"}).json()["topic"]
        info = client.get("/info").json()
    expected = model.predict("y z", coverage=0.8, max_risk=0.1)["topic"]
    assert (usual["set"], usual["abstain"]) == (list(expected.label_set or ()), True)
    assert other["set"] == list(model.predict("y z", coverage=0.3)["topic"].label_set or ())
    assert other["set"] != usual["set"]
    assert other["abstain"]
    assert (info["coverage"], info["max_risk"]) == (0.8, 0.1)


def test_a_task_without_outcomes_of_validation_rows(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tiny_folder, outcomes=False)
    with running(folder) as served, httpx.Client(base_url=served.url) as client:
        assert client.get("/info").json()["can_abstain"] == {"topic": True, "mood": False}
        for query in ("coverage=0.9", "max_risk=0.1", "task=mood&coverage=0.9"):
            answer = client.post(f"/predict?{query}", json={"inputs": "a"})
            content = assert_error(answer, 422, "validation", query.rpartition("&")[2].partition("=")[0])
            assert content["problems"][0]["found"] == "no outcomes of validation rows in the model for mood"
        assert client.post("/predict?task=topic&coverage=0.9", json={"inputs": "a"}).status_code == 200
    with pytest.raises(ConfigError, match="no outcomes of validation rows in the model for mood"):
        Service(folder, "cpu", "fp32", Metrics(), coverage=0.9)


def test_a_reload_keeps_the_model_that_can_abstain(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tiny_folder)
    with running(folder, max_risk=0.1) as served:
        before = served.service.served
        write_model(folder, tiny_folder, outcomes=False)
        served.service.reload()
        assert served.service.served is before


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "train.csv"
    rows = [f"sentence {at} {'word ' * (at % 7)},{'price' if at % 2 else ''},{at % 2}" for at in range(40)]
    path.write_text("\n".join(["text,topic,mood", *rows, "Great phone,price,1"]) + "\n", encoding="utf-8")
    return path


def test_the_nearest_examples(folder: Path, table: Path, model: MultiTaskModel) -> None:
    rows = read_rows(table, "text", "topic,mood", model.labels)
    with running(folder, examples=rows) as served, httpx.Client(base_url=served.url) as client:
        answers = client.post("/predict?nearest=3", json={"inputs": ["Great phone", "sentence 4"]}).json()
        assert client.get("/info").json()["examples"] == 41
        with_task = client.post("/predict?nearest=3&task=mood", json={"inputs": "a"})
        assert_error(with_task, 422, "validation", "nearest")
        before = served.service.served.nearest
        served.service.reload()
        assert served.service.served.nearest is not before
    first = answers[0]["topic"]["nearest"][0]
    assert (first["text"], first["label"], first["source"]) == ("Great phone", "price", "train.csv:42")
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert all(near["label"] == "price" for near in answers[1]["topic"]["nearest"])  # rows without a label left out
    embeddings = unit_rows(model.encode([*rows.texts.texts]))
    order = np.argsort(-(embeddings @ unit_rows(model.encode(["Great phone"])).T)[:, 0], kind="stable")[:3]
    assert [near["text"] for near in answers[0]["mood"]["nearest"]] == [rows.texts.texts[int(at)] for at in order]


def test_examples_without_labels(folder: Path, table: Path) -> None:
    with running(folder, examples=read_rows(table, "text", None, LABELS)) as served:
        answer = httpx.post(f"{served.url}/predict?nearest=1", json={"inputs": "Great phone"}).json()
    assert [answer[task]["nearest"][0]["label"] for task in LABELS] == [None, None]
    assert answer["topic"]["nearest"][0]["text"] == "Great phone"


def test_nearest_without_examples(client: httpx.Client) -> None:
    answer = client.post("/predict?nearest=3", json={"inputs": "a"})
    content = assert_error(answer, 422, "validation", "nearest")
    assert content["problems"][0]["repair"] == "python -m mtl.serve examples=FILE"


@pytest.mark.parametrize(
    ("query", "place"),
    [
        *(
            (f"coverage={value}", "query.coverage")
            for value in ("0", "1", "-0.1", "1e300", "nan", "inf", "9" * 5000, "")
        ),
        *((f"max_risk={value}", "query.max_risk") for value in ("0", "-1", "2", "-inf", "x", "%00", "")),
        *((f"nearest={value}", "query.nearest") for value in ("0", "-1", "21", "1.5", "9" * 5000)),
        ("coverge=0.9", "query.coverge"),
    ],
    ids=lambda value: value[:20],
)
def test_wrong_queries(client: httpx.Client, query: str, place: str) -> None:
    answer = client.post(f"/predict?{query}", json={"inputs": "a"})
    content = assert_error(answer, 422, "validation", place)
    assert len(answer.content) < 2000
    assert content["problems"][0]["expected"]


def test_the_description_of_the_interface_is_complete(client: httpx.Client, table: Path, folder: Path) -> None:
    description = client.get("/openapi.json").json()
    assert description["info"]["version"] == mtl.__version__
    for path, methods in description["paths"].items():
        for method in methods.values():
            kind = "text/plain" if path == "/metrics" else "application/json"
            assert [*method["responses"]["200"]["content"]] == [kind]
            assert method["responses"]["200"]["content"][kind]["schema"]
            assert method["responses"]["422"]["content"][kind]["schema"]["$ref"].endswith("/Problems")
    parameters = {entry["name"] for entry in description["paths"]["/predict"]["post"]["parameters"]}
    assert parameters == {"task", "coverage", "max_risk", "nearest"}
    assert "securitySchemes" not in description["components"]
    answers = TypeAdapter(PredictAnswer)
    with running(folder, examples=read_rows(table, "text", "mood:mood", LABELS)) as served:
        for query in ("nearest=2&coverage=0.9&max_risk=0.1", "task=mood&coverage=0.9&max_risk=0.1"):
            for inputs in ("a", ["a", "b"]):
                found = httpx.post(f"{served.url}/predict?{query}", json={"inputs": inputs}).json()
                assert answers.dump_python(answers.validate_python(found), exclude_unset=True) == found
        info = httpx.get(f"{served.url}/info").json()
    assert Info.model_validate(info).model_dump() == info


def test_embeddings_equal_those_of_the_python_interface(client: httpx.Client, model: MultiTaskModel) -> None:
    texts = ["Great phone", "Battery died after a week"]
    expected = model.encode(texts)
    assert np.array(client.post("/embed", json={"inputs": texts}).json()) == pytest.approx(expected, abs=1e-5)
    single = client.post("/embed", json={"inputs": texts[0], "normalize": True}).json()
    assert np.array(single) == pytest.approx(expected[:1], abs=1e-5)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_client_of_openai(served: Running, model: MultiTaskModel, encoding: Any) -> None:
    from openai import OpenAI

    with OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        texts = ["Great phone", "Battery died"]
        default = client.embeddings.create(model="mine", input=texts)
        chosen = client.embeddings.create(model="mine", input=texts[0], encoding_format=encoding)
    assert np.array([row.embedding for row in default.data]) == pytest.approx(model.encode(texts), abs=1e-5)
    assert [row.index for row in default.data] == [0, 1]
    assert default.usage.prompt_tokens > 4
    embedding: Any = chosen.data[0].embedding
    if isinstance(embedding, str):  # base64 that was asked for is not decoded
        import base64

        embedding = np.frombuffer(base64.b64decode(embedding), "<f4")
    assert np.array(embedding) == pytest.approx(model.encode(texts[0]), abs=1e-5)


def test_the_inference_client_of_the_hub(
    served: Running, model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import InferenceClient

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the tests set it against the hub itself
    client = InferenceClient()
    found = client.text_classification("Great phone", model=f"{served.url}/predict?task=mood", top_k=1)
    expected = model.predict("Great phone")["mood"]
    assert [row.label for row in found] == [expected.label]
    assert found[0].score == pytest.approx(expected.probabilities[expected.label], abs=1e-5)
    embedding = client.feature_extraction("Great phone", model=f"{served.url}/embed")
    assert embedding[0] == pytest.approx(model.encode("Great phone"), abs=1e-5)


def test_the_state_of_the_server(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    info = client.get("/info").json()
    assert info["tasks"] == {task: list(labels) for task, labels in LABELS.items()}
    assert (info["dimension"], info["max_length"], info["device"]) == (32, 128, "cpu")
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/embed", "/v1/embeddings", "/health", "/ready", "/info", "/metrics"} <= set(paths)
    lines = client.get("/metrics").text.splitlines()
    assert 'mtl_requests_total{path="/ready",status="200"}' in [line.rpartition(" ")[0] for line in lines]
    assert all(line.startswith("#") or float(line.rpartition(" ")[2]) >= 0 for line in lines)


def test_metrics_are_what_prometheus_reads(client: httpx.Client) -> None:
    client.get("/nowhere/at/all")
    families = {family.name: family for family in parser.text_string_to_metric_families(client.get("/metrics").text)}
    assert families["mtl_request_seconds"].type == "histogram"
    assert {sample.labels["path"] for sample in families["mtl_requests"].samples} >= {"other"}
    assert "/nowhere/at/all" not in {sample.labels["path"] for sample in families["mtl_requests"].samples}


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "place"),
    [
        ("/predict", b'{"inputs": ', 422, "validation", "body, position 11"),
        ("/predict", b"[" * 100_000, 400, "validation", "body"),
        ("/predict", '{"inputs": "größe"}'.encode("latin-1"), 400, "validation", "body"),
        ("/predict", b'{"inputs": 3}', 422, "validation", "body.inputs"),
        ("/predict", b'{"inputs": ["a", null]}', 422, "validation", "body.inputs"),
        ("/predict", b'{"inputs": []}', 422, "validation", "inputs"),
        ("/predict", b'{"text": "a"}', 422, "validation", "body.inputs"),
        ("/predict", json.dumps({f"k{at}": 1 for at in range(100_000)}).encode(), 422, "validation", "body"),
        ("/predict", json.dumps({"inputs": [1] * 500_000}).encode(), 422, "validation", "body.inputs"),
        ("/predict", b'{"inputs": "a", "truncate": false}', 422, "validation", "body.truncate"),
        ("/predict", b'{"inputs": "a", "prompt_name": "query"}', 422, "validation", "prompt_name"),
        ("/predict", b"", 422, "validation", "body"),
        ("/predict?task=mod", b'{"inputs": "a"}', 422, "validation", "task"),
        ("/v1/embeddings", b'{"input": [[1, 2]]}', 422, "validation", "body.input"),
        ("/v1/embeddings", b'{"input": "a", "dimensions": 8}', 422, "validation", "dimensions"),
        ("/embed", json.dumps({"inputs": ["a"] * 257}).encode(), 413, "too_large", "inputs"),
        ("/predict", json.dumps({"inputs": ["a", "ä" * 100_001]}).encode(), 413, "too_large", "inputs.1"),
        ("/v1/embeddings", json.dumps({"input": "a " * 950_000}).encode(), 413, "too_large", "input.0"),
        ("/nowhere", b"{}", 404, "not_found", "path"),
        ("/health", b"{}", 405, "method_not_allowed", "path"),
    ],
)
def test_errors_have_one_shape(
    client: httpx.Client, path: str, body: bytes, status: int, kind: str, place: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert_error(answer, status, kind, place)
    assert len(answer.content) < 5000


def test_half_a_surrogate_pair_is_read_as_the_replacement_character(client: httpx.Client) -> None:
    content = b'{"inputs": ["\\ud800", "\\ufffd"]}'
    answer = client.post("/embed", content=content, headers={"Content-Type": "application/json"})
    assert answer.json()[0] == pytest.approx(answer.json()[1], abs=1e-6)


def test_the_longest_text_is_truncated_as_in_the_python_interface(client: httpx.Client, model: MultiTaskModel) -> None:
    text = "battery, " * 11_111
    assert_equal([client.post("/predict", json={"inputs": text}).json()], as_objects(model, [text]))


def test_a_misspelt_task_is_answered_with_a_suggestion(client: httpx.Client) -> None:
    answer = client.post("/predict?task=mod", json={"inputs": "a"})
    assert answer.json() == {
        "error": "task: found 'mod', expected topic, mood (did you mean mood?)",
        "error_type": "validation",
        "problems": [
            {"place": "task", "found": "'mod'", "expected": "topic, mood", "repair": "did you mean mood?"},
        ],
    }


def test_a_body_that_is_no_json_by_its_header_is_refused(client: httpx.Client) -> None:
    """A foreign page may send a form or plain text without being asked, but no JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/predict", content=b'{"inputs": "a"}', headers={"Content-Type": kind})
        assert_error(answer, 415, "validation", "header Content-Type")


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_of_100_megabytes_is_refused_without_being_kept(served: Running, chunked: bool) -> None:
    part = b"x" * 1_000_000
    content = (part for _ in range(100)) if chunked else part * 100
    with httpx.Client(base_url=served.url) as client:
        answer = client.post("/predict", content=content, headers={"Content-Type": "application/json"})
    assert_error(answer, 413, "too_large", "body")


def test_many_clients_share_batches_and_get_their_own_answers(served: Running, model: MultiTaskModel) -> None:
    hold = Hold(served)
    texts = [f"sentence {at} " + "word " * (at % 40) for at in range(60)]
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=served.url, limits=limits) as client, ThreadPoolExecutor(61) as pool:
        first = pool.submit(client.post, "/predict", json={"inputs": "first"})
        assert hold.begun.wait(60)
        paths = ["/predict", "/predict", "/embed"]
        futures = [pool.submit(client.post, paths[at % 3], json={"inputs": [text]}) for at, text in enumerate(texts)]
        until(lambda: served.batcher.waiting == len(texts))
        hold.release()
        answers = [future.result() for future in futures]
        assert first.result().status_code == 200
    assert hold.sizes == [1, 60]  # one pass for all that had gathered, predictions and embeddings alike
    expected, embeddings = as_objects(model, texts), model.encode(texts)
    for at, answer in enumerate(answers):
        if at % 3 == 2:
            assert np.array(answer.json()[0]) == pytest.approx(embeddings[at], abs=1e-5)
        else:
            assert_equal(answer.json(), [expected[at]])


def test_a_full_queue_is_answered_with_429_and_when_to_come_back(folder: Path) -> None:
    with running(folder, queue=3) as served, httpx.Client(base_url=served.url) as client, ThreadPoolExecutor(4) as pool:
        hold = Hold(served)
        running_one = pool.submit(client.post, "/predict", json={"inputs": "computed"})
        assert hold.begun.wait(60)
        waiting = pool.submit(client.post, "/predict", json={"inputs": ["one", "two", "three"]})
        until(lambda: served.batcher.waiting == 3)
        answer = client.post("/predict", json={"inputs": "one too many"})
        assert_error(answer, 429, "overloaded", "queue")
        assert answer.headers["retry-after"] == "1"
        hold.release()
        assert [running_one.result().status_code, waiting.result().status_code] == [200, 200]


def test_the_deadline_ends_the_wait_and_takes_the_request_out_of_the_queue(folder: Path) -> None:
    limits = Limits(deadline_seconds=0.3)
    with running(folder, limits) as served, httpx.Client(base_url=served.url) as client, ThreadPoolExecutor(2) as pool:
        hold = Hold(served)
        first = pool.submit(client.post, "/predict", json={"inputs": "computed"})
        assert hold.begun.wait(60)
        answer = client.post("/predict", json={"inputs": "waits"})
        assert_error(answer, 504, "deadline", "server")
        assert_error(first.result(), 504, "deadline", "server")
        hold.release()
        assert client.get("/ready").status_code == 200
        until(lambda: served.batcher.waiting == 0)
    assert hold.sizes == [1]


def test_a_text_that_fails_does_not_fail_the_others_of_its_batch(folder: Path) -> None:
    with running(folder) as served, httpx.Client(base_url=served.url) as client, ThreadPoolExecutor(3) as pool:
        compute = served.batcher._compute
        hold = Hold(served)
        held = served.batcher._compute

        def failing(batch: list[Any]) -> list[Any]:
            if hold.begun.is_set() and any("poison" in text for job in batch for text in job.texts):
                raise RuntimeError("poison")
            return compute(batch) if hold.begun.is_set() else held(batch)

        served.batcher._compute = failing  # type: ignore[method-assign]
        first = pool.submit(client.post, "/predict", json={"inputs": "computed"})
        assert hold.begun.wait(60)
        others = [pool.submit(client.post, "/predict", json={"inputs": text}) for text in ("good", "poison")]
        until(lambda: served.batcher.waiting == 2)
        hold.release()
        assert [first.result().status_code, others[0].result().status_code] == [200, 200]
        assert_error(others[1].result(), 500, "internal", "server")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    ],
    ids=["nothing", "headers", "body"],
)
def test_a_slow_client_is_cut_off_and_others_are_answered(served: Running, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as slow:
        slow.sendall(sent)
        assert httpx.post(f"{served.url}/predict", json={"inputs": "a"}).status_code == 200
        received = b""
        try:
            while part := slow.recv(65536):
                received += part
        except ConnectionResetError:
            pass
    status = received.split(b" ")[1] if received else b""
    assert status == (b"408" if sent.endswith(b"{") else b"")


@pytest.mark.parametrize(
    ("head", "part", "status"),
    [
        (b"Content-Length: 9999\r\n\r\n", b" ", b"408"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + 50 * (b"c350\r\n%b\r\n" % (b"x" * 50_000)), b"1\r\nx\r\n", b"413"),
    ],
    ids=["byte by byte", "chunks without end"],
)
def test_a_client_that_never_ends_its_body_is_cut_off(served: Running, head: bytes, part: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as slow:
        slow.sendall(HEAD + head)
        received = b""
        end = time.monotonic() + 60
        while not received and time.monotonic() < end:
            slow.settimeout(60)
            slow.sendall(part)
            slow.settimeout(0.05)
            with suppress(TimeoutError):
                received = slow.recv(65536)
    assert received.startswith(b"HTTP/1.1 %b " % status)


def test_requests_that_are_sent_together_are_answered_in_order(served: Running, client: httpx.Client) -> None:
    bodies = [json.dumps({"inputs": text}).encode() for text in ("a", "y z", "Great phone")]
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as pipe, pipe.makefile("rb") as answers:
        pipe.sendall(b"".join(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies))
        for body in bodies:
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.lower().split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            alone = client.post("/predict", content=body, headers={"Content-Type": "application/json"}).json()
            assert_equal([json.loads(answers.read(int(headers[b"content-length"])))], [alone])


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        HEAD + b"X: " + b"a" * 20_000,
        HEAD + b"Content-Length: -5\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["TLS", "a header without end", "a negative length", "two lengths", "a chunk without a size"],
)
def test_what_is_no_http_has_the_same_shape_of_error(served: Running, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as other:
        other.sendall(sent)
        with other.makefile("rb") as file:
            received = file.read()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error_type"] == "http"


def test_a_foreign_name_for_this_machine_is_refused(client: httpx.Client) -> None:
    answer = client.get("/info", headers={"Host": "evil.example:8000"})
    assert_error(answer, 403, "host", "header Host")
    assert client.get("/info", headers={"Host": "LOCALHOST:8000"}).status_code == 200


def test_a_token_is_asked_for_everywhere_but_at_the_state_and_the_page(folder: Path) -> None:
    with running(folder, token="s3cret") as served, httpx.Client(base_url=served.url) as client:  # noqa: S106
        for path in ("/health", "/ready", "/", "/page.js", "/page.css"):
            assert client.get(path).status_code == 200
        for path in ("/info", "/metrics", "/openapi.json", "/nowhere"):
            answer = client.get(path)
            assert_error(answer, 401, "authorization", "header Authorization")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearer"):
            assert client.post("/predict", json={"inputs": "a"}, headers={"Authorization": wrong}).status_code == 401
        right = {"Authorization": "Bearer s3cret"}
        assert client.get("/openapi.json", headers=right).json()["components"]["securitySchemes"]
        assert client.post("/predict", json={"inputs": "a"}, headers=right).status_code == 200


def test_a_reload_takes_the_new_model_and_drops_no_request(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tiny_folder, seed=1)
    old = as_objects(MultiTaskModel.from_pretrained(folder, device="cpu"), ["Great phone"])
    with running(folder) as served, httpx.Client(base_url=served.url) as client, ThreadPoolExecutor(1) as pool:
        write_model(folder, tiny_folder, seed=2)
        new = as_objects(MultiTaskModel.from_pretrained(folder, device="cpu"), ["Great phone"])
        assert old != new
        hold = Hold(served)
        before = pool.submit(client.post, "/predict", json={"inputs": ["Great phone"]})
        assert hold.begun.wait(60)
        served.service.reload()
        hold.release()
        assert_equal(before.result().json(), old)  # accepted before the reload
        assert_equal(client.post("/predict", json={"inputs": ["Great phone"]}).json(), new)
        (folder / "heads.safetensors").write_bytes(b"broken")
        served.service.reload()
        assert_equal(client.post("/predict", json={"inputs": ["Great phone"]}).json(), new)
        text = client.get("/metrics").text
        assert 'mtl_reloads_total{result="loaded"} 1' in text
        assert 'mtl_reloads_total{result="refused"} 1' in text


def test_the_page_allows_nothing_but_its_own_files(client: httpx.Client) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in answer.text
    assert "https://" not in answer.text
