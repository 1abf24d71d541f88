"""``python -m mtl.serve``: answer HTTP requests with a trained model, and show a page to try it in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, Problem, printable
from mtl.base.run_folder import find_model
from mtl.base.schema import Count, Fraction, Name, Positive

if TYPE_CHECKING:
    from mtl.serving.examples import ExampleRows

TOKEN = "MTL_SERVE_TOKEN"  # noqa: S105 - the name of the variable
USAGE = """
usage: python -m mtl.serve model=FOLDER port=8000

  model=FOLDER        a run folder or a saved model; kill -HUP loads it again without a dropped request
  port=8000           0 takes any free port
  host=127.0.0.1      the address to listen on; 0.0.0.0 for all of this machine
  hosts=NAME,NAME     names that clients may use for this server (default: those of this machine on a loopback
                      address, any elsewhere)
  token=TEXT          what clients must send as "Authorization: Bearer TEXT"; the environment variable MTL_SERVE_TOKEN
                      does the same and does not show in the list of processes
  precision=auto      fp32, bf16, or auto: bf16 where the hardware computes it natively
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
  coverage=0.9        adds to every prediction the set of labels that cannot be ruled out, and
  max_risk=0.05       whether to abstain, as in mtl.predict; a request may ask for its own
  examples=FILE       CSV, TSV, JSON Lines, Parquet or .txt with at most 100,000 rows, such as the training rows: those
                      nearest to a text are shown to every client that asks; encoded before the server answers
  text_column=NAME    their column of sentences (default: text)
  label_column=NAME   their column of labels; for several tasks TASK:NAME,TASK:NAME (default: none is shown)
  batch_tokens=16384  the most tokens of the requests that are computed together; 1 computes each alone
  queue=1000          the most texts that wait; more are refused with 429
  deadline=30         the most seconds that a request may wait for its answer
  max_texts=256       the most texts of a request
  max_text=100000     the most characters of a text, of which the model reads the first tokens
  max_body=2000000    the most bytes of a request's body
  client_timeout=20   the most seconds that a client may take to send a request
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    model: Name
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    host: Name = "127.0.0.1"
    hosts: Name | None = None
    token: Name | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["cpu", "cuda", "mps"] | None = None
    coverage: Fraction | None = None
    max_risk: Fraction | None = None
    examples: Name | None = None
    text_column: Name = "text"
    label_column: Name | None = None
    batch_tokens: Count = 16_384
    queue: Count = 1000
    deadline: Positive = 30.0
    max_texts: Count = 256
    max_text: Count = 100_000
    max_body: Count = 2_000_000
    client_timeout: Positive = 20.0


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then serve until SIGINT or SIGTERM."""
    options = cli.parse(Options, arguments, USAGE)
    _check(options)
    folder = find_model(Path(options.model))  # report a wrong path before importing torch, which takes seconds
    examples = None if options.examples is None else _read_examples(options, Path(options.examples), folder)

    from mtl.serving.running import Server, bind, is_loopback, url

    bound = bind(options.host, options.port)
    with cli.large_imports():
        from mtl.serving.app import create_app
        from mtl.serving.batching import Batcher
        from mtl.serving.guard import Limits
        from mtl.serving.metrics import Metrics
        from mtl.serving.service import Service

    metrics = Metrics()
    limits = Limits(options.max_body, options.max_texts, options.client_timeout, options.deadline, options.max_text)
    service = Service(
        Path(options.model),
        options.device,
        options.precision,
        metrics,
        coverage=options.coverage,
        max_risk=options.max_risk,
        examples=examples,
    )
    batcher = Batcher(options.precision, options.batch_tokens, options.queue, metrics)
    hosts = None if options.hosts is None else options.hosts.split(",")
    if hosts is None and is_loopback(bound):
        hosts = ["localhost", "127.0.0.1", "[::1]", options.host]
    token = options.token or os.environ.get(TOKEN) or None
    app = create_app(service, batcher, limits, metrics, token=token, hosts=hosts)
    server = Server(app, limits, on_hangup=service.reload)
    print(printable(f"serving {options.model} on {url(bound)}"), flush=True)
    if (nearest := service.served.nearest) is not None:
        size = f"{len(nearest.rows.texts):,} examples, {nearest.nbytes / 1e6:,.1f} MB of embeddings"
        print(printable(f"{size}, from {options.examples}"), flush=True)
    server.answer(bound, batcher)


def _read_examples(options: Options, path: Path, folder: Path) -> ExampleRows:
    with cli.large_imports():
        from mtl.model.saved import read_manifest
        from mtl.serving.examples import read_rows

    labels = {name: task.labels for name, task in read_manifest(folder).tasks.items()}
    return read_rows(path, options.text_column, options.label_column, labels)


def _check(options: Options) -> None:
    problems = []
    missing = [name for name in ("fastapi", "uvicorn", "h11", "prometheus_client") if find_spec(name) is None]
    if missing:
        found = f"no package {' or '.join(missing)}"
        problems.append(Problem("the server", found, "the extra serve", "pip install 'mtl[serve]'"))
    if options.examples is None:
        unset = {"text_column": "text", "label_column": None}
        idle = {name: value for name, usual in unset.items() if (value := getattr(options, name)) != usual}
        problems += [Problem(name, repr(value), "only with examples=") for name, value in idle.items()]
    if options.max_texts > options.queue:
        found = f"{options.max_texts}, and a queue of {options.queue}"
        problems.append(Problem("max_texts", found, "at most the length of the queue", f"queue={options.max_texts}"))
    token = options.token or os.environ.get(TOKEN, "")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        problems.append(Problem("token", "characters that no header carries", "printable ASCII without spaces"))
    if problems:
        raise ConfigError(problems)


if __name__ == "__main__":
    cli.run(main)
