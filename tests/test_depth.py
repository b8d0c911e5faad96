"""Pictures of more than 8 bits: scaled by what is known of them, said in words, or refused."""

import warnings

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vlm_utils.sources.images import UnreadableImage, as_rgb, open_image
from vlm_utils.sources.picture_folders import load_image_folder

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def tiff(folder, values, tags=None, name="a.tif"):
    """A grey TIFF of these values, in their type; tags: {number: (TIFF type, value)}."""
    directory = ImageFileDirectory_v2()
    for number, (kind, value) in (tags or {}).items():
        directory.tagtype[number] = kind
        directory[number] = value
    Image.fromarray(values).save(folder / name, tiffinfo=directory)
    return folder / name


def ramp(low, high, kind):
    """256 values from low to high, on 16 x 16 pixels."""
    return np.linspace(low, high, 256).reshape(16, 16).astype(kind)


def shades(picture):
    """The grey levels of an RGB picture, as numbers."""
    values = np.asarray(picture)
    assert values.shape[-1] == 3 and (values[..., 0] == values[..., 2]).all()
    return values[..., 0].astype(int)


SHORT, DOUBLE, ASCII = 3, 12, 2


@pytest.mark.parametrize(("low", "high", "kind", "first", "last", "says"), [
    (0.0, 0.6, np.float32, 0, 153, "0 is shown as black and 1 as white"),           # reflectance
    (-0.02, 1.3, np.float32, 0, 255, "0 is shown as black and 1 as white"),         # snow
    (-0.4, 0.9, np.float32, 76, 242, "-1 is shown as black and 1 as white"),        # NDVI
    (0.0, 200.0, np.float32, 0, 200, "0 is shown as black and 255 as white"),
    (0, 2800, np.uint16, 0, 174, "0 is shown as black and 4095 as white"),          # 12 bits
    (0, 1023, np.uint16, 0, 255, "0 is shown as black and 1023 as white"),
    (0, 10_000, np.uint16, 0, 156, "0 is shown as black and 16383 as white"),
    (0, 250, np.int32, 0, 250, "0 is shown as black and 255 as white")])
def test_values_are_scaled_by_a_range_that_fits_and_it_is_said(tmp_path, low, high, kind, first,
                                                               last, says):
    """Cut to 8 bits these come all black, or all white; 12 bits of 16 reach 11 of 255."""
    path = tiff(tmp_path, ramp(low, high, kind))
    with pytest.warns(UserWarning, match=f"a.tif: its values go from .*; {says} .a guess"):
        found = shades(open_image(path))
    assert abs(found[0, 0] - first) <= 1 and abs(found[-1, -1] - last) <= 1
    assert (np.diff(found.flatten()) >= 0).all() and len(set(found.flatten())) > 60


def test_sixteen_whole_bits_need_no_words(tmp_path):
    path = tiff(tmp_path, ramp(0, 65535, np.uint16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(shades(open_image(path)).flatten() - np.arange(256)).max() <= 1


def test_all_black_stays_black_without_words(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tiff(tmp_path, ramp(0, 0, np.uint16))).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("numbers", [(340, 341), (280, 281)])
def test_the_range_that_the_file_names_is_taken(tmp_path, numbers):
    kind = DOUBLE if numbers[0] == 340 else SHORT
    tags = {numbers[0]: (kind, 1000), numbers[1]: (kind, 3000)}
    path = tiff(tmp_path, ramp(500, 3000, np.uint16), tags)
    with pytest.warns(UserWarning, match="1000 is shown as black and 3000 as white .as the file"):
        found = shades(open_image(path))
    assert found[0, 0] == 0 and found[-1, -1] == 255
    assert abs(found.flatten()[153] - 127) <= 2         # 2000, half way between the two


def test_a_range_that_makes_no_sense_is_not_taken(tmp_path):
    path = tiff(tmp_path, ramp(0, 4000, np.uint16), {280: (SHORT, 9), 281: (SHORT, 9)})
    with pytest.warns(UserWarning, match="4095 as white .a guess"):
        open_image(path)


@pytest.mark.parametrize(("low", "high", "kind"), [
    (-9999.0, 2600.0, np.float32), (0.0, 10_000.0, np.float32), (-50, 900, np.int32),
    (0, 1_000_000, np.int32), (np.nan, np.nan, np.float32)])
def test_values_of_which_nothing_is_known_are_refused(tmp_path, low, high, kind):
    path = tiff(tmp_path, ramp(low, high, kind))
    with pytest.raises(UnreadableImage, match="a.tif: holds (values from .* to .* SMin|no number)"):
        open_image(path)


def test_missing_values_are_black_and_do_not_count(tmp_path):
    """As GDAL writes them: a number that stands for no value, or no number."""
    values = ramp(-0.5, 1, np.float32)
    values[3, 3], values[4, 4], values[5, 5] = -9999, np.nan, np.inf
    path = tiff(tmp_path, values, {42113: (ASCII, "-9999")})
    with pytest.warns(UserWarning, match="from -0.5 to 1; -1 is shown as black"):
        found = shades(open_image(path))
    assert found[3, 3] == found[4, 4] == 0 and found[5, 5] == 255 and found[0, 0] == 64


def test_white_may_be_zero(tmp_path):
    path = tiff(tmp_path, ramp(0, 65535, np.uint16), {262: (SHORT, 0)})
    found = shades(open_image(path))
    assert found[0, 0] == 255 and found[-1, -1] == 0


def test_a_picture_in_memory_is_scaled_too():
    with pytest.warns(UserWarning, match="row 3: its values go from 0 to 4000"):
        picture = as_rgb(Image.fromarray(ramp(0, 4000, np.uint16)), "row 3")
    assert shades(picture)[-1, -1] == 249


# --- a folder of them ----------------------------------------------------------------------------

def test_the_frames_of_a_folder_are_scaled_alike(tmp_path):
    """A trap: each frame stretched by itself looks like every other, and what fell is not seen."""
    for k, (low, high) in enumerate([(0.2, 0.9), (0.1, 0.5), (-0.3, 0.1)]):
        tiff(tmp_path, ramp(low, high, np.float32), name=f"frame_{k}.tif")
    with pytest.warns(UserWarning) as caught:
        dataset = load_image_folder(tmp_path)
    assert [str(w.message).split(": ")[1:] for w in caught] == [[
        "frame_0.tif, frame_1.tif, frame_2.tif",
        "its values go from -0.3 to 0.9; -1 is shown as black and 1 as white (a guess from its "
        "values)"]]
    first = [shades(row["image"])[0, 0] for row in dataset]
    assert np.abs(np.array(first) - (np.array([0.2, 0.1, -0.3]) + 1) * 127.5).max() <= 1


def test_one_frame_that_no_range_fits_names_them_all(tmp_path):
    tiff(tmp_path, ramp(0, 1, np.float32), name="frame_0.tif")
    tiff(tmp_path, ramp(0, 9000, np.float32), name="frame_1.tif")
    with pytest.raises(ValueError, match="frame_0.tif, frame_1.tif: holds values from 0 to 9000"):
        load_image_folder(tmp_path)


def test_frames_that_each_name_their_range_share_the_widest(tmp_path):
    for k, high in enumerate([2000, 4000]):
        tiff(tmp_path, ramp(0, high, np.uint16), {340: (DOUBLE, 0), 341: (DOUBLE, high)},
             name=f"frame_{k}.tif")
    with pytest.warns(UserWarning, match="4000 as white .as the file says"):
        dataset = load_image_folder(tmp_path)
    assert [shades(row["image"])[-1, -1] for row in dataset] == [128, 255]
