"""Fixtures of the tests. What they hand out is made in `small_models` and `pictures`."""

import gc
import os
from itertools import count
from pathlib import Path

import datasets
import nbformat
import pytest
import torch
from huggingface_hub.utils import enable_progress_bars
from hypothesis import settings
from jupyter_client.manager import start_new_kernel
from pictures import captions_only, drawn, noise, noise_sample, tiny_earth_truth
from small_models import MAX_IMAGES, SIDE, TEXTS, TOKENS, small_model
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil
from transformers.utils.logging import enable_progress_bar

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import ImageTable, Truth
from vlm_utils.making.base_model import make_tokenizer
from vlm_utils.profiles import REPOSITORY

PROGRESS_BARS = (enable_progress_bar, datasets.enable_progress_bars, enable_progress_bars)

# With a deadline, a test would fail because the machine is busy with something else.
settings.register_profile("course", deadline=None)
settings.load_profile("course")


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_search():
    """What lives on after a module, most of all the libraries, is no longer looked through for
    garbage: a second each time, in a process that has loaded all of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _outputs(tmp_path_factory):
    """Numbered folders in one of their own: pytest's would read the names of all of them each time.
    """
    place = tmp_path_factory.mktemp("outputs")
    return (place / str(number) for number in count())


@pytest.fixture
def _environment_as_before():
    """A command may set variables, as its process is its own. Those that one left behind here would
    decide what later tests, and their kernels, show."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before) - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ |= before


@pytest.fixture(autouse=True)
def _own_surroundings(_environment_as_before, monkeypatch, _outputs):
    """Each test on the CPU, on the tiny profile, with a folder of its own for what it writes."""
    for name in ("VLM_PROFILE", "VLM_IMAGES", "VLM_SUBSET"):
        monkeypatch.delenv(name, raising=False)
    output = next(_outputs)
    output.mkdir()
    monkeypatch.setenv("VLM_OUTPUT", str(output))
    monkeypatch.setattr("vlm_utils.loading.get_device", lambda: torch.device("cpu"))


@pytest.fixture(autouse=True)
def _libraries_stay_loud():
    """What a test switches off in a library is on again for the next one."""
    yield
    for progress_bars in PROGRESS_BARS:
        progress_bars()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(TEXTS, MAX_IMAGES)


@pytest.fixture(scope="session")
def image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


@pytest.fixture(scope="session")
def make_processor(tokenizer, image_processor):
    """A function that builds a processor; its arguments are settings of MultiImageProcessor."""
    def make(tokenizer=tokenizer, **settings) -> MultiImageProcessor:
        settings = {"tokens_per_image": TOKENS, "max_images": MAX_IMAGES,
                    "max_length": 512} | settings
        return MultiImageProcessor(tokenizer, image_processor, **settings)
    return make


@pytest.fixture(scope="session")
def processor(make_processor) -> MultiImageProcessor:
    return make_processor()


@pytest.fixture(scope="session")
def make_model(processor):
    """A function that builds a small random model, the same one for the same seed."""
    def make(seed: int = 0, frozen: bool = True) -> MultiImageVLM:
        return small_model(processor, seed, frozen)
    return make


@pytest.fixture
def model(make_model) -> MultiImageVLM:
    return make_model()


@pytest.fixture(scope="session")
def picture():
    """A function that makes a picture of noise, the same one for the same seed."""
    return noise


@pytest.fixture(scope="session")
def make_sample():
    """A function that makes a sample of that many pictures of noise, with an answer."""
    return noise_sample


@pytest.fixture(scope="session")
def earth_truth() -> Truth:
    """Scenes of 60 single places and of 40 places seen several times."""
    return tiny_earth_truth()


@pytest.fixture(scope="session")
def earth_table(earth_truth) -> ImageTable:
    """Those scenes drawn, as an image table."""
    return drawn(earth_truth)


@pytest.fixture(scope="session")
def caption_truth() -> Truth:
    """As Flickr8k: five captions an image, no scene, no place seen twice."""
    return captions_only()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A function that runs a cell in a notebook's kernel, one for a module, and gives its outputs.

    An error is an output too. What %debug asks is answered with q.
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY),
                                "VLM_OUTPUT": str(tmp_path_factory.mktemp("kernel"))}
    manager, client = start_new_kernel(env=environment, extra_arguments=["--log-level=40"])

    def run(code: str) -> list[nbformat.NotebookNode]:
        outputs = []

        def keep(message):
            if message["msg_type"] in ("stream", "display_data", "execute_result", "error"):
                outputs.append(nbformat.v4.output_from_msg(message))

        client.execute_interactive(code, timeout=600, allow_stdin=True, output_hook=keep,
                                   stdin_hook=lambda request: client.input("q"))
        return outputs

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def real_images() -> Path:
    """The folder of real photographs beside the repository; without it a test is skipped."""
    folder = REPOSITORY / ".." / "shared" / "real"
    if not (folder / "photos" / "metadata.jsonl").is_file():
        pytest.skip("the real images (shared/real, beside the repository) are not here")
    return folder.resolve()
