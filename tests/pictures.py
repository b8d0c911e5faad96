"""Pictures and image tables that the tests make for themselves."""

import numpy as np
from PIL import Image
from small_models import SIDE

from vlm_utils import tiny_earth
from vlm_utils.datasets import ImageTable, Sample, Truth


def noise(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A picture of noise, width x height, the same one for the same seed."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(np.uint8))


def noise_sample(num_images: int, text: str = "What changed?",
                 answer: str | None = "Nothing changed.", seed: int = 0) -> Sample:
    """A sample of that many pictures of noise, with an answer."""
    images = [noise(100 * seed + i) for i in range(num_images)]
    return Sample(images, "<image>" * num_images + text, answer, "compare")


def tiny_earth_truth() -> Truth:
    """Scenes of 60 single places and of 40 places seen several times."""
    rng = np.random.default_rng(0)
    scenes = [tiny_earth.sample_scene(rng) for _ in range(60)]
    places = []
    for i in range(40):
        frames = tiny_earth.sample_sequence(rng, 2 + i % 5)
        places.append(tuple(range(len(scenes), len(scenes) + len(frames))))
        scenes += frames
    scenes = [tiny_earth.with_boxes(scene, row) for row, scene in enumerate(scenes)]
    return Truth(scenes, [tiny_earth.captions(scene) for scene in scenes], places)


def drawn(truth: Truth) -> ImageTable:
    """The scenes of a truth, drawn, as an image table."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature
    images = [Image.fromarray(tiny_earth.render(scene, site_seed=row, light_seed=row))
              for row, scene in enumerate(truth.scenes)]
    dataset = Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature()}))
    return ImageTable("tiny table", dataset, truth)


def captions_only() -> Truth:
    """As Flickr8k: five captions an image, no scene, no place seen twice."""
    captions = [[f"Photo {row} shows thing {row}, wording {i}." for i in range(5)]
                for row in range(12)]
    return Truth([None] * 12, captions, [(row,) for row in range(12)])
