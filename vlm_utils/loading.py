"""Models from where they are kept: embedded in data/, joined from the hub, or a checkpoint."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vlm_utils.architecture import (
    MultiImageProcessor,
    MultiImageVLM,
    MultiImageVLMConfig,
    base_of_adapter,
    join_pretrained,
    merge_adapter,
    put_adapter,
)
from vlm_utils.cross_attention import CrossAttentionVLM
from vlm_utils.profiles import Profile, data_folder, get_device, output_folder, quiet_libraries
from vlm_utils.sources.checkpoints import (
    Checkpoint,
    absolute,
    brief,
    find_checkpoints,
    find_finished,
    find_interrupted,
    read_unchanged,
)
from vlm_utils.sources.folders import DamagedFiles
from vlm_utils.sources.hub import fetch_all

# The models of the course, by what their config.json says that they are.
MODELS = {model.config_class.model_type: model for model in (MultiImageVLM, CrossAttentionVLM)}


def load_base_model(profile: Profile, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """The model a profile starts from, its vision encoder frozen, on the best device.

    settings: of MultiImageProcessor, as layout="prepended".
    Raises MissingFiles if the full profile's parts are neither cached nor to be had.
    """
    if profile.base_model is not None:
        return load_checkpoint(data_folder() / profile.base_model, **settings)
    return _join_parts(profile, **settings)


def load_checkpoint(folder: str | Path, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """A trained model and its processor, as train() or save_pretrained wrote them; of a LoRA
    adapter (peft), its base and it.

    settings: of MultiImageProcessor, as layout="prepended". Raises FileNotFoundError if there is
    no model, or only that of an interrupted training, and DamagedFiles naming the file that is
    not as it was written, or does not fit the others.
    """
    folder = absolute(folder)
    model, processor = read_unchanged(
        lambda: _find_model(folder), lambda found: read_model(found, **settings))
    return merge_adapter(model) if hasattr(model, "peft_config") else model, processor


def read_model(found: Checkpoint, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """The model of a checkpoint that was found, every file of it compared with its marker.

    Of an adapter, its base with it, apart, as training goes on with them.
    """
    if found.facts:
        found.verify()
    if (base := base_of_adapter(found.path)) is not None:
        model, processor = load_checkpoint(base, **settings)
        return put_adapter(model, found.path, trainable=True), processor
    config = _read_config(found.path)
    try:
        with quiet_libraries():
            model, said = MODELS[config.model_type].from_pretrained(
                found.path, config=config, output_loading_info=True, use_safetensors=True,
                local_files_only=True, dtype=torch.float32)     # also what is stored in half
    except Exception as error:          # what torch, safetensors or transformers make of the files
        raise DamagedFiles(f"{found.path}: config.json and the weights do not make a model "
                           f"({type(error).__name__}: {error})") from None
    if wrong := sorted(map(str, chain(said["missing_keys"], said["mismatched_keys"],
                                      said["unexpected_keys"]))):
        raise DamagedFiles(f"{found.path}: the weights are not those of the model in config.json: "
                           f"{len(wrong)} tensors are missing, unknown or of another shape, as "
                           f"{wrong[0]}")
    processor = _read_processor(found.path, config, settings)
    _keep_in_memory(model)
    return model.eval().to(get_device()), processor


def lesson_checkpoint(profile: Profile) -> Path:
    """Where lesson 04 writes its model."""
    return output_folder() / profile.folder / "lesson_04"


def find_trained_model(profile: Profile) -> tuple[Path, str]:
    """The checkpoint of lesson 04 if it was trained to its end, else the embedded one; and which.

    What is said names the number of steps, and an interrupted training if there is a later one.
    Raises FileNotFoundError if there is neither, saying what was found instead.
    """
    folder = absolute(lesson_checkpoint(profile))
    found, later = find_finished(folder), find_interrupted(folder)
    but = "" if later is None else (f"; a later training was interrupted after step {later.steps} "
                                    f"of {later.of}: {brief(later.path)}")
    if found is not None:
        return found.path, f"the checkpoint that lesson 04 wrote after {found.steps} steps{but}"
    if (folder / "config.json").is_file():
        return folder, f"the model in {folder.name}, which says of no training{but}"
    if profile.trained_model is not None:
        return data_folder() / profile.trained_model, f"the trained model in data/{but}"
    raise FileNotFoundError(f"no trained model for profile {profile.name!r}{but}: run lesson 04 "
                            f"first, to its end; it writes {folder}")


def _find_model(folder: Path) -> Checkpoint:
    """The finished checkpoint of a folder, or a model without a marker, as data/ holds them."""
    found = find_checkpoints(folder)
    for checkpoint in sorted(found, key=lambda c: c.finished, reverse=True):
        if checkpoint.finished or checkpoint.path == folder:    # asked for by its own name
            return checkpoint
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return Checkpoint(folder, {})
    if found:
        later = found[0]
        raise FileNotFoundError(
            f"no trained model in {folder}: its training was interrupted after step {later.steps} "
            f"of {later.of}. Go on with train(resume_run({folder.name!r}, dataset), "
            f"{folder.name!r}), or take it as it is: load_checkpoint({str(later.path)!r})")
    raise FileNotFoundError(f"no model in {folder}: config.json is missing")


def _read_config(folder: Path) -> MultiImageVLMConfig:
    """config.json, if it describes a model of the size that the weights have.

    Looked at before the model is built: a damaged number can ask for any amount of memory.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("model_type") not in MODELS:
            raise ValueError(f"model_type is {content.get('model_type')!r}, not "
                             f"{' or '.join(map(repr, MODELS))}")
        model = MODELS[content["model_type"]]
        config = model.config_class.from_dict(content)
        tensors, weights = _count_weights(folder)
        layers = [part.num_hidden_layers for part in (config.vision_config, config.text_config)]
        layers.append(getattr(config, "resampler_layers", 0))
        if max(layers) > tensors:
            raise ValueError(f"it has {max(layers)} layers, and the file of weights {tensors} "
                             "tensors")
        with torch.device("meta"):      # shapes without memory
            wanted = sum(p.numel() for p in model(config).parameters())
        if wanted > weights:
            raise ValueError(f"it describes a model of {wanted:,} weights, and the file of weights "
                             f"holds {weights:,}")
    except DamagedFiles:
        raise
    except Exception as error:          # whatever a wrong value of whatever type leads to
        raise DamagedFiles(f"{path} does not describe the model that is here ({error})") from None
    return config


def _count_weights(folder: Path) -> tuple[int, int]:
    """Tensors and single weights in a folder's safetensors files, from their first lines."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DamagedFiles(f"{folder / 'model.safetensors'} is missing")
    sizes = []
    for path in files:
        try:
            with safe_open(path, "pt") as weights:
                sizes += [prod(weights.get_slice(name).get_shape()) for name in weights.keys()]
        except (SafetensorError, OSError) as error:
            raise DamagedFiles(f"{path} is damaged or cut short ({error})") from None
    return len(sizes), sum(sizes)


def _read_processor(folder: Path, config: MultiImageVLMConfig,
                    settings: dict) -> MultiImageProcessor:
    """Tokenizer, preprocessing and layout, if they are those of the model."""
    try:
        layout = json.loads((folder / "multi_image_processor.json").read_text(encoding="utf-8"))
        if not 0 < layout["max_images"] < config.text_config.vocab_size:    # a name for each
            raise ValueError(f"names for {layout['max_images']} images")
        processor = MultiImageProcessor.from_pretrained(folder)
        side = {config.vision_config.image_size}
        if {*dict(processor.image_processor.size).values()} != side:
            raise ValueError(f"images of {processor.image_processor.size}, and the encoder reads "
                             f"{side}")
        if processor.tokens_per_image != config.tokens_per_image:
            raise ValueError(f"{processor.tokens_per_image} tokens an image, and the model makes "
                             f"{config.tokens_per_image}")
        if processor.image_token_id != config.image_token_id or len(
                processor.tokenizer) > config.text_config.vocab_size:
            raise ValueError("the tokenizer is another than the model's")
    except Exception as error:          # what json, tokenizers or transformers make of the files
        names = "tokenizer.json, preprocessor_config.json or multi_image_processor.json"
        raise DamagedFiles(f"{folder}: {names} does not fit the model, or cannot be read "
                           f"({type(error).__name__}: {error})") from None
    return MultiImageProcessor.from_pretrained(folder, **settings) if settings else processor


def _keep_in_memory(model: MultiImageVLM) -> None:
    """Weights of its own, where transformers maps the file: Windows replaces no mapped file."""
    for tensor in chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def _join_parts(profile: Profile, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """A pretrained ViT and a pretrained language model, with a new projector between them."""
    # Fetched before anything is built: what is missing is said first, and all of it.
    vision_folder, text_folder = fetch_all([profile.vision_encoder, profile.language_model])
    # The projector and the rows of new tokens are random. The same ones each time: a training
    # that is repeated, or compared with one that was interrupted, must start where the first did.
    with quiet_libraries(), _without_good_news(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(profile.training.seed)
        model, processor = join_pretrained(
            vision_folder, text_folder, profile.max_images, profile.merge_factor, **settings)
    return model.to(get_device()), processor


@contextmanager
def _without_good_news() -> Iterator[None]:
    """Keep transformers from warning of what is as it should be: weights of a classifier that is
    not asked for, rows for new tokens. Weights that are missing are still named."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_news(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        expected = "LOAD REPORT" in said and not re.search("MISSING|MISMATCH|CONVERSION", said)
        return not expected and not said.startswith("The new embeddings will be initialized")

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
