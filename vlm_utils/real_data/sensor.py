"""Another domain from the same world: TinyEarth as another satellite sees it.

Nothing on the ground changes, so every caption, box and answer stays true. What changes is what an
encoder was never told about: colours, haze, and how much ground a pixel covers.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from vlm_utils.datasets import ImageTable, load_image_table, load_series_table
from vlm_utils.datasets.tables import take_subset
from vlm_utils.plots import progress
from vlm_utils.profiles import Profile, image_folder


@dataclass(frozen=True)
class Sensor:
    """How a satellite turns the ground into a picture.

    colours: what of red, green and blue (columns) reaches each channel of the picture (rows).
    haze: the share of each pixel that is scattered light, of haze_colour (0 to 255).
    resolution: pixels on a side that it takes of a tile; None: as many as the tile has.
    noise: spread of each pixel's error, in levels of 256.
    """

    colours: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    haze: float = 0.0
    haze_colour: tuple[float, float, float] = (196, 204, 216)
    resolution: int | None = None
    noise: float = 0.0

    def see(self, picture: Image.Image, seed: int) -> Image.Image:
        """An RGB picture of the same size. seed: of the noise, the same noise for the same seed."""
        pixels = np.asarray(picture, np.float32) @ np.array(self.colours, np.float32).T
        pixels = (1 - self.haze) * pixels + self.haze * np.array(self.haze_colour, np.float32)
        if self.noise:
            pixels += np.random.default_rng(seed).normal(0, self.noise, pixels.shape)
        seen = Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))      # (h, w, 3)
        if self.resolution is None:
            return seen
        coarse = seen.resize((self.resolution, self.resolution), Image.Resampling.BOX)
        return coarse.resize(picture.size, Image.Resampling.BILINEAR)


# Near infrared shown as red, as on many satellite pictures: what grows is red. Plants' green goes
# into the red channel, the soil's red into green; half the resolution; a hazy sky.
OTHER_SENSOR = Sensor(colours=((-0.3, 1.5, -0.3), (0.9, 0.1, 0.0), (0.2, 0.6, 0.2)), haze=0.3,
                      resolution=32, noise=4.0)


def seen_by(sensor: Sensor, table: ImageTable) -> ImageTable:
    """A table with the same rows and the same truth, its images taken by a sensor.

    The pictures are made here, in memory, and never stored. Features of the table's own images are
    not taken over: these are other images.
    """
    pictures = []
    with progress(len(table.dataset), f"{table.name} by another sensor", "images") as line:
        for row in range(len(table.dataset)):
            stream = io.BytesIO()
            # Row by row of the data set, before any orientation: a turned image is the same one.
            sensor.see(replace(table, orientations=1).image(row), row).save(
                stream, "PNG", compress_level=1)
            pictures.append({"bytes": stream.getvalue(), "path": None})
            line.update()
    images = Dataset.from_dict({"image": pictures}, features=Features({"image": ImageFeature()}))
    return replace(table, name=f"{table.name}, another sensor", dataset=images,
                   image_features=None)


def load_new_domain(profile: Profile, split: str, images: int) -> ImageTable:
    """A domain that the embedded encoder was not made for: your own pictures, or another sensor's.

    The pictures of VLM_IMAGES if they have captions, all of them; else so many images of TinyEarth
    as OTHER_SENSOR sees them.
    """
    if image_folder() is not None:
        table = load_image_table(profile, split, with_truth=True)
        if not table.truth.has_scenes:
            return table
    return seen_by(OTHER_SENSOR, take_subset(load_series_table(split), images))
