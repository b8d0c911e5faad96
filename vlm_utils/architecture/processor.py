"""From images and text to tensors: where placeholders and identifiers go (lesson 01).

The prompt holds `<image>` where an image goes and `<image_k>` where the text names image k.
After TEOChat (Irvin et al. 2024), each image's tokens are followed by its identifier:
`[image 1 tokens] <image_1> [image 2 tokens] <image_2> What changed?`

These two are commands; every other special token of the tokenizer (its end of text, its padding)
that stands in a prompt or an answer is read as the text that it is. A caption may hold commands
too: `as_text` takes their force where captions enter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from transformers import AutoTokenizer, ViTImageProcessorPil

IMAGE_TOKEN = "<image>"
LAYOUTS = ("interleaved", "prepended")
IDENTIFIERS = ("after", "before", "none")
_FILE = "multi_image_processor.json"
IDENTIFIER_PATTERN = re.compile(r"<image_(\d+)>")
_COMMAND = re.compile(r"<(image(?:_\d+)?>)")
_WORD_JOINER = "\u2060"             # takes no room and shows nothing


def identifier(k: int) -> str:
    """The token that names image k, counted from 1."""
    return f"<image_{k}>"


def named_images(text: str) -> list[int]:
    """The numbers of the images that a text names: [2, 1] of "<image_2> or <image_1>"."""
    return [int(k) for k in IDENTIFIER_PATTERN.findall(text)]


def as_text(text: str) -> str:
    """A text of which nothing is obeyed: `<image>` and `<image_2>` in it are no commands.

    A word joiner, which shows nothing, comes after their "<": the text looks the same, and without
    its word joiners it is the same. A caption goes through this before it becomes part of a prompt
    or an answer that holds commands.
    """
    return _COMMAND.sub(rf"<{_WORD_JOINER}\1", text)


def special_tokens(max_images: int) -> list[str]:
    """The tokens that a language model's tokenizer must learn: placeholder and identifiers."""
    return [IMAGE_TOKEN] + [identifier(k) for k in range(1, max_images + 1)]


def image_block(k: int, tokens_per_image: int, identifiers: str = "after") -> str:
    """All that stands for image k in a prompt: its placeholders and, after or before, its name."""
    placeholders = IMAGE_TOKEN * tokens_per_image
    return {"after": placeholders + identifier(k), "before": identifier(k) + placeholders,
            "none": placeholders}[identifiers]


def lay_out(prompt: str, blocks: Sequence[str], layout: str = "interleaved") -> str:
    """The prompt with block k in place of its k-th `<image>`; or, prepended, all blocks in front.

    Raises ValueError, with both numbers, if there are not as many `<image>` as blocks.
    """
    pieces = prompt.split(IMAGE_TOKEN)          # one more than there are images
    if len(pieces) - 1 != len(blocks):
        raise ValueError(f"the prompt has {len(pieces) - 1} {IMAGE_TOKEN} placeholders and "
                         f"{len(blocks)} images were given: write one for each image")
    if layout == "prepended":
        return "".join(blocks) + "".join(pieces)
    return pieces[0] + "".join(
        block + piece for block, piece in zip(blocks, pieces[1:], strict=True))


class MultiImageProcessor:
    """Tokenizer and image processor, and the layout that joins them.

    layout: "interleaved" leaves each image where the prompt puts it; "prepended" moves all of
    them to the front. identifiers: name each image "after" it, "before" it, or not at all.
    tokens_per_image: placeholders that one image takes. max_length: tokens the model can hold.
    """

    def __init__(self, tokenizer, image_processor, tokens_per_image: int, max_images: int = 8,
                 layout: str = "interleaved", identifiers: str = "after", max_length: int = 2048):
        if layout not in LAYOUTS:
            raise ValueError(f"layout is one of {LAYOUTS}, not {layout!r}")
        if identifiers not in IDENTIFIERS:
            raise ValueError(f"identifiers is one of {IDENTIFIERS}, not {identifiers!r}")
        missing = [t for t in special_tokens(max_images) if t not in tokenizer.get_vocab()]
        if missing:
            raise ValueError(f"the tokenizer lacks {missing}: add them with "
                             "tokenizer.add_special_tokens and resize the embeddings")
        self.tokenizer, self.image_processor = tokenizer, image_processor
        commands = special_tokens(max_images)
        special = {token.content for token in tokenizer.added_tokens_decoder.values()
                   if token.special}
        self._obeyed = {"prompt": commands, "answer": commands[1:]}
        self._as_text = {kind: special.difference(obeyed)
                         for kind, obeyed in self._obeyed.items()}
        self.tokens_per_image, self.max_images = tokens_per_image, max_images
        self.layout, self.identifiers, self.max_length = layout, identifiers, max_length

    def lay_out(self, prompt: str, num_images: int) -> str:
        """The prompt as the model reads it: each `<image>` as placeholders and identifier.

        Raises ValueError for an empty prompt, too many images, a count of `<image>` that differs
        from num_images, or a name `<image_k>` of an image that is not there.
        """
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt is {prompt!r:.60}, not a text")
        if not prompt.replace(IMAGE_TOKEN, "").strip():
            raise ValueError("the prompt is empty: write a question or an instruction")
        if num_images > self.max_images:
            raise ValueError(f"{num_images} images were given and the model has names for "
                             f"{self.max_images}: <image_1> to {identifier(self.max_images)}")
        absent = [k for k in named_images(prompt) if not 1 <= k <= num_images]
        blocks = [image_block(k, self.tokens_per_image, self.identifiers)
                  for k in range(1, num_images + 1)]
        text = lay_out(prompt, blocks, self.layout)
        if absent:
            raise ValueError(f"the prompt names {identifier(absent[0])} and "
                             f"{num_images} images were given")
        return text

    def encode_prompt(self, prompt: str, num_images: int) -> list[int]:
        """Token ids of the laid out prompt, closed by a line break."""
        return self._tokenise(self.lay_out(prompt, num_images) + "\n", "prompt")

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of the answer and the end-of-sequence token.

        Tokenised apart from the prompt: joined, the last letters of one and the first of the
        other could fuse into a token, and generation would start from a prompt never trained.
        An answer may name images; `<image>` in it is text.
        """
        return self._tokenise(answer, "answer") + [self.tokenizer.eos_token_id]

    def check_length(self, length: int, num_images: int = 0) -> None:
        """Raise ValueError if a sample is longer than the model can hold: nothing is cut."""
        if length <= self.max_length:
            return
        of_images = num_images * (self.tokens_per_image + (self.identifiers != "none"))
        advice = ("use fewer images or fewer tokens per image" if 2 * of_images > self.max_length
                  else "shorten its text")
        raise ValueError(f"the sample is {length} tokens long, {length - self.max_length} more "
                         f"than the {self.max_length} the model can hold; {of_images} of them are "
                         f"those of its {num_images} images: {advice}")

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """PIL images of 8 bits and any size -> (num_images, 3, height, width), normalised.

        They are seen as files are read: upright, whatever side the camera was held on, and
        transparency laid over white. Raises ValueError for what is not an image, for an animation,
        and for 16-bit and float images: which of their values are black and white is decided where
        they are read.
        """
        if not images:
            raise ValueError("no image was given")
        for position, image in enumerate(images, start=1):
            if not isinstance(image, Image.Image):
                raise ValueError(f"image {position} is a {type(image).__name__}, not a PIL "
                                 "image: open files with vlm_utils.sources.images.open_image")
            if image.mode.startswith("I") or image.mode == "F":
                raise ValueError(f"image {position} has more than 8 bits a pixel (mode "
                                 f"{image.mode}) and would turn white or black: scale it first, "
                                 "with vlm_utils.sources.images.as_rgb")
            if not all(image.size):
                raise ValueError(f"image {position} is {image.width} x {image.height} pixels")
            if image.format in ("GIF", "WEBP", "PNG") and getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"image {position} is an animation of {image.n_frames} frames: "
                                 "give the frames you mean, each as an image")
        rgb = [_seen(image) for image in images]
        return self.image_processor(rgb, return_tensors="pt")["pixel_values"]

    def decode(self, ids) -> str:
        """Text of token ids, up to the end-of-sequence token; identifiers stay, padding goes."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        if eos in ids:
            ids = ids[:ids.index(eos)]
        return self.tokenizer.decode([i for i in ids if i != pad]).strip()

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @property
    def pad_token_id(self) -> int:
        """The padding token, or where a tokenizer has none, the end-of-sequence token."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def save_pretrained(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        settings = {name: getattr(self, name) for name in (
            "tokens_per_image", "max_images", "layout", "identifiers", "max_length")}
        (folder / _FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes) -> MultiImageProcessor:
        """Read what save_pretrained wrote. changes: settings to use instead of the saved ones."""
        folder = Path(folder)
        settings = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
                   ViTImageProcessorPil.from_pretrained(folder), **(settings | changes))

    def _tokenise(self, text: str, kind: str) -> list[int]:
        """Token ids of a text in which only the commands of its kind are obeyed."""
        if not isinstance(text, str):
            raise ValueError(f"the {kind} is {text!r:.60}, not a text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the {kind} holds half of a character (a lone surrogate, "
                             f"{text[error.start]!r}): write it again") from error
        if not any(token in text for token in self._as_text[kind]):     # nearly always
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        obeyed, ids = self._obeyed[kind], []
        for piece in re.split(f"({'|'.join(map(re.escape, obeyed))})", text):
            if piece in obeyed:
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False,
                                      split_special_tokens=True)["input_ids"]
        return ids


def _seen(image: Image.Image) -> Image.Image:
    """A picture of 8 bits as upright RGB, as `sources.images` reads a file: a picture that somebody
    has opened himself must not look different to the model. (`sources` needs no torch, and so
    cannot import it from here.)"""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def add_special_tokens(tokenizer, max_images: int) -> int:
    """Teach a tokenizer the placeholder and identifiers; returns how many were new."""
    return tokenizer.add_special_tokens(
        {"additional_special_tokens": special_tokens(max_images)},
        replace_extra_special_tokens=False)
