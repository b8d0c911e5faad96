"""What the tests share: a model small enough to build in milliseconds, and images to give it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from vlm_utils import tiny_earth
from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM, join_parts
from vlm_utils.collate import collate
from vlm_utils.datasets import ImageTable, Sample, Truth, encode_samples
from vlm_utils.making.base_model import make_tokenizer

# A deadline would make a test of what a machine does beside it.
settings.register_profile("course", deadline=None)
settings.load_profile("course")

REPOSITORY = Path(__file__).resolve().parents[1]
SIDE, PATCH, MERGE, MAX_IMAGES = 64, 16, 2, 8
TOKENS = (SIDE // PATCH // MERGE) ** 2
TEXTS = ["What changed?", "Which image shows a lake?", "What happens over time?",
         "Describe the image.", "Nothing changed.", "The lake in the top left grew.",
         "A satellite image of forest with a lake in the top left.", "Is there a road?"] * 3


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch, tmp_path_factory):
    """Each test on the CPU, on the tiny profile, with a folder of its own for what it writes."""
    for name in ("VLM_PROFILE", "VLM_IMAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path_factory.mktemp("output")))
    monkeypatch.setattr("vlm_utils.loading.get_device", lambda: torch.device("cpu"))


def batch_of(samples, processor, for_generation: bool = False) -> dict[str, torch.Tensor]:
    """Samples as the model reads them in training, or their prompts as it reads them to answer."""
    encoded = encode_samples(samples, processor, for_generation)
    return collate(encoded, processor.pad_token_id, left=for_generation)


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


SMALL_VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 64, "image_size": SIDE, "patch_size": PATCH}


def small_vit() -> ViTModel:
    return ViTModel(ViTConfig(**SMALL_VIT), add_pooling_layer=False)


def small_llama(tokenizer, **settings) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": len(tokenizer),
        "tie_word_embeddings": True, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.3} | settings))


@pytest.fixture(scope="session")
def make_model(processor):
    """A function that builds a small random model, the same one for the same seed."""
    def make(seed: int = 0, frozen: bool = True) -> MultiImageVLM:
        torch.manual_seed(seed)
        model = join_parts(
            small_vit(), small_llama(processor.tokenizer), merge_factor=MERGE,
            max_images=MAX_IMAGES, image_token_id=processor.image_token_id)
        with torch.no_grad():  # image tokens as loud as words: no test may pass by their silence
            model.projector.layers[-1].weight.fill_(1.0)
        return model.freeze_vision_encoder().eval() if frozen else model.eval()
    return make


@pytest.fixture
def model(make_model) -> MultiImageVLM:
    return make_model()


@pytest.fixture(scope="session")
def picture():
    """A function that makes a picture of noise, the same one for the same seed."""
    def make(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
        values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
        return Image.fromarray(values.astype(np.uint8))
    return make


@pytest.fixture(scope="session")
def make_sample(picture):
    """A function that makes a sample of so many images, with an answer."""
    def make(num_images: int, text: str = "What changed?", answer: str | None = "Nothing changed.",
             seed: int = 0) -> Sample:
        images = [picture(100 * seed + i) for i in range(num_images)]
        return Sample(images, "<image>" * num_images + text, answer, "compare")
    return make


@pytest.fixture(scope="session")
def earth_truth() -> Truth:
    """Scenes of 60 single places and of 40 places seen several times."""
    rng = np.random.default_rng(0)
    scenes = [tiny_earth.sample_scene(rng) for _ in range(60)]
    places = []
    for i in range(40):
        frames = tiny_earth.sample_sequence(rng, 2 + i % 5)
        places.append(tuple(range(len(scenes), len(scenes) + len(frames))))
        scenes += frames
    return Truth(scenes, [tiny_earth.captions(scene) for scene in scenes], places)


@pytest.fixture(scope="session")
def earth_table(earth_truth) -> ImageTable:
    """Those scenes drawn, as an image table."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature
    images = [Image.fromarray(tiny_earth.render(scene, place_seed=row, light_seed=row))
              for row, scene in enumerate(earth_truth.scenes)]
    dataset = Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature()}))
    return ImageTable("tiny table", dataset, earth_truth)


@pytest.fixture(scope="session")
def caption_truth() -> Truth:
    """As Flickr8k: five captions an image, no scene, no place seen twice."""
    captions = [[f"Photo {row} shows thing {row}, wording {i}." for i in range(5)]
                for row in range(12)]
    return Truth([None] * 12, captions, [(row,) for row in range(12)])


@pytest.fixture
def real_images() -> Path:
    """The folder of real photographs beside the repository; without it a test is skipped."""
    folder = REPOSITORY / ".." / "shared" / "real"
    if not (folder / "photos" / "metadata.jsonl").is_file():
        pytest.skip("the real images (shared/real, beside the repository) are not here")
    return folder.resolve()


# --- a cache in the hub's own layout -----------------------------------------------------------

def into_hub_cache(cache: Path, repository) -> Path:
    """An empty snapshot folder of a repository at its revision, as huggingface_hub lays it out."""
    commit = repository.revision if len(repository.revision) == 40 else "0" * 40
    root = cache / f"{repository.repo_type}s--{repository.repo_id.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def write_flickr(snapshot: Path, rows: dict[str, int]) -> None:
    """Parquet files of jxie/flickr8k's schema: image and caption_0 ... caption_4."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    (snapshot / "data").mkdir()
    features = Features({"image": ImageFeature()} | {
        f"caption_{i}": Value("string") for i in range(5)})
    for number, (split, count) in enumerate(rows.items()):
        rng = np.random.default_rng(number)
        images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8))
                  for _ in range(count)]
        columns = {f"caption_{i}": [f"A {split} dog {row} runs , wording {i} ."
                                    for row in range(count)] for i in range(5)}
        Dataset.from_dict({"image": images} | columns, features=features).to_parquet(
            snapshot / "data" / f"{split}-00000-of-00001.parquet")


def write_parts(cache: Path, profile, vision: ViTForImageClassification,
                language: LlamaForCausalLM, tokenizer) -> None:
    """A classifier and a language model in the cache, as the profile's repositories hold them."""
    folder = into_hub_cache(cache, profile.vision_encoder)
    vision.save_pretrained(folder)
    size = {"height": vision.config.image_size, "width": vision.config.image_size}
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "do_normalize": True, "do_resize": True, "do_rescale": True, "size": size,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
        "image_processor_type": "ViTImageProcessor"}))
    folder = into_hub_cache(cache, profile.language_model)
    language.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain_tokenizer(texts: list[str], vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows neither placeholder nor identifiers, as SmolLM's."""
    from tokenizers import ByteLevelBPETokenizer
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary, min_frequency=2,
                            special_tokens=["<|endoftext|>"], show_progress=False)
    return _with_end(bpe._tokenizer)


def filled_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with exactly so many entries, most of them never used."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.pre_tokenizers import ByteLevel
    entries = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    entries += [f"filler {i}" for i in range(vocabulary - len(entries))]
    bpe = ByteLevelBPETokenizer({entry: i for i, entry in enumerate(entries)}, [])
    return _with_end(bpe._tokenizer)


def _with_end(tokenizer) -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end,
                                   unk_token=end)
