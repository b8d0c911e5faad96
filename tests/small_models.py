"""Models and tokenizers that are small enough to build in milliseconds."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM, join_parts
from vlm_utils.collate import collate
from vlm_utils.cross_attention import add_cross_attention
from vlm_utils.datasets import encode_samples

SIDE, PATCH, MERGE, MAX_IMAGES = 64, 16, 2, 8
TOKENS = (SIDE // PATCH // MERGE) ** 2
TEXTS = ["What changed?", "Which image shows: a lake?", "What happens over time?",
         "Describe the image.", "Nothing changed.", "The lake in the top left grew.",
         "A satellite image of forest with a lake in the top left.", "Is there a road?"] * 3
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


def small_model(processor: MultiImageProcessor, seed: int = 0,
                frozen: bool = True) -> MultiImageVLM:
    """A random model for that processor, the same one for the same seed."""
    torch.manual_seed(seed)
    model = join_parts(
        small_vit(), small_llama(processor.tokenizer), merge_factor=MERGE,
        max_images=MAX_IMAGES, image_token_id=processor.image_token_id)
    with torch.no_grad():  # image tokens as loud as words: no test may pass by their silence
        model.projector.layers[-1].weight.fill_(1.0)
    return model.freeze_vision_encoder().eval() if frozen else model.eval()


def small_base(processor: MultiImageProcessor, seed: int = 0, **settings) -> MultiImageVLM:
    """As small_model, with a language model of two layers or of those settings."""
    torch.manual_seed(seed)
    model = join_parts(
        small_vit(), small_llama(processor.tokenizer, **{"num_hidden_layers": 2} | settings),
        merge_factor=MERGE, max_images=MAX_IMAGES, image_token_id=processor.image_token_id)
    with torch.no_grad():
        model.projector.layers[-1].weight.fill_(1.0)
    return model.freeze_vision_encoder().eval()


def beside_sequence(processor: MultiImageProcessor, seed: int = 0, **settings):
    """A small random model with cross-attention in both layers, and its processor.

    settings: of add_cross_attention.
    """
    model, beside = add_cross_attention(
        small_base(processor, seed), processor, **{"layers": (0, 1), "seed": seed} | settings)
    with torch.no_grad():       # images as loud as words, and each with a loud name
        if model.config.latents:
            model.projector.norm.weight.fill_(1.0)
        if model.image_order is not None:
            model.image_order.weight.normal_(std=1.0)
    return model, beside


def batch_of(samples, processor, for_generation: bool = False) -> dict[str, torch.Tensor]:
    """Samples as the model reads them in training, or their prompts as it reads them to answer."""
    encoded = encode_samples(samples, processor, for_generation)
    return collate(encoded, processor.pad_token_id, left=for_generation)


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
