"""Images as people have them: each is read as one expects, or refused by name."""

import io
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vlm_utils.datasets import build_tasks, load_image_table
from vlm_utils.profiles import get_profile
from vlm_utils.sources.images import as_rgb, load_image_folder, open_image

RED, GREEN = (200, 30, 30), (30, 180, 60)


def halves(mode="RGB", size=(20, 10), left=RED, right=GREEN):
    """A picture whose left half is red and whose right half is green."""
    picture = Image.new("RGB", size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture.convert(mode)


def saved(folder, picture, name, **options):
    picture.save(folder / name, **options)
    return folder / name


def close(picture, colour, at, tolerance=25):
    return np.abs(np.array(picture.getpixel(at), dtype=int) - colour).max() <= tolerance


# --- what is read ------------------------------------------------------------------------------

@pytest.mark.parametrize(("mode", "name"), [
    ("RGB", "a.png"), ("RGB", "a.jpg"), ("RGBA", "a.png"), ("P", "a.png"), ("P", "a.gif"),
    ("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("RGB", "a.webp"), ("RGB", "a.bmp"), ("YCbCr", "a.jpg")])
def test_every_mode_becomes_rgb_with_its_colours(tmp_path, mode, name):
    picture = open_image(saved(tmp_path, halves(mode), name))
    assert (picture.mode, picture.size) == ("RGB", (20, 10))
    assert close(picture, RED, (3, 5)) and close(picture, GREEN, (16, 5))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_rgb_grey(tmp_path, mode):
    picture = open_image(saved(
        tmp_path, halves(left=(0, 0, 0), right=(255, 255, 255)).convert(mode), "a.png"))
    assert picture.mode == "RGB"
    assert picture.getpixel((3, 5)) == (0, 0, 0) and picture.getpixel((16, 5)) == (255, 255, 255)


def test_sixteen_bits_keep_their_shades(tmp_path):
    """Pillow's own conversion would cut everything above 255 to white."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = open_image(saved(tmp_path, Image.fromarray(ramp), "a.png"))
    found = np.asarray(picture)
    assert found.shape == (16, 16, 3)
    assert np.abs(found[..., 0].flatten().astype(int) - np.arange(256)).max() <= 1


def test_transparency_lies_over_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.putpixel((0, 0), (*RED, 255))
    picture = open_image(saved(tmp_path, clear, "a.png"))
    assert picture.getpixel((0, 0)) == RED and picture.getpixel((3, 3)) == (255, 255, 255)


def test_a_transparent_palette_lies_over_white(tmp_path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    picture.putpixel((0, 0), 0)
    found = open_image(saved(tmp_path, picture, "a.png", transparency=0))
    assert found.getpixel((0, 0)) == (255, 255, 255) and found.getpixel((3, 3)) == RED


def test_a_transparent_colour_lies_over_white(tmp_path):
    """A PNG without alpha may name one colour that is not shown."""
    found = open_image(saved(tmp_path, halves(), "a.png", transparency=GREEN))
    assert found.getpixel((3, 5)) == RED and found.getpixel((16, 5)) == (255, 255, 255)


@pytest.mark.parametrize(("orientation", "size", "red"), [
    (1, (20, 10), (3, 5)), (3, (20, 10), (16, 5)), (6, (10, 20), (5, 3)), (8, (10, 20), (5, 16))])
def test_a_photo_held_upright_stands_upright(tmp_path, orientation, size, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_image(saved(tmp_path, halves(), "a.jpg", exif=exif, quality=95))
    assert picture.size == size
    assert close(picture, RED, red)


def test_one_pixel_is_an_image(tmp_path, processor):
    picture = open_image(saved(tmp_path, Image.new("RGB", (1, 1), RED), "a.png"))
    assert picture.size == (1, 1) and picture.getpixel((0, 0)) == RED
    assert processor.pixel_values([picture]).shape == (1, 3, 64, 64)


def test_a_photo_with_a_preview_is_one_photo(tmp_path):
    path = tmp_path / "a.jpg"
    halves().save(path, format="MPO", save_all=True, append_images=[halves()], quality=95)
    with Image.open(path) as picture:
        assert (picture.format, picture.n_frames) == ("MPO", 2)
    assert close(open_image(path), RED, (3, 5))


def test_bytes_are_read_as_files_are():
    stream = io.BytesIO()
    halves().save(stream, "png")
    assert open_image(stream.getvalue()).size == (20, 10)


# --- what is refused ---------------------------------------------------------------------------

def png_header(width, height):
    """A PNG that says how large it is, and holds nothing."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def cut_short(name, share, **options):
    stream = io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    picture.save(stream, name, **options)
    return stream.getvalue()[:int(len(stream.getvalue()) * share)]


@pytest.mark.parametrize(("content", "says"), [
    (b"", "is no image"),
    (b"a shopping list", "is no image"),
    (b"%PDF-1.7 not a picture", "is no image"),
    (b"\x89PNG\r\n\x1a\n", "is (no image|damaged)"),
    (cut_short("jpeg", 0.5), "is damaged or cut short"),
    (cut_short("png", 0.5), "is damaged or cut short"),
    (cut_short("webp", 0.5), "is (no image|damaged)"),
    (cut_short("tiff", 0.5), "is (no image|damaged)"),
    (png_header(20_000, 20_000), "(20000 x 20000|400000000) pixels.*save it smaller"),
    (png_header(12_000, 12_000), "12000 x 12000 pixels, more than the 100 million"),
])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, says):
    path = tmp_path / "holiday.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"holiday.png: .*{says}"):
        open_image(path)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_an_animation_is_refused_and_named(tmp_path, name):
    frames = [halves(), halves(left=GREEN, right=RED), halves(left=(0, 0, 0))]
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=f"{name}: is an animation of 3 frames"):
        open_image(path)


def test_an_animation_in_a_data_set_is_refused(tmp_path):
    """Images of a data set are opened by `datasets`, and come here as PIL images."""
    frames = [halves(), halves(left=GREEN), halves(left=(0, 0, 0))]
    path = saved(tmp_path, frames[0], "a.webp", save_all=True, append_images=frames[1:])
    with Image.open(path) as picture, pytest.raises(ValueError, match="row 7: is an animation"):
        as_rgb(picture, "row 7")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match="gone.png: cannot be opened"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=f"{tmp_path.name}: cannot be opened"):
        open_image(tmp_path)


# --- folders -----------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path, picture):
    """Four images with captions: two of a.png, one of the others."""
    rows = []
    for i, name in enumerate(["a.png", "b.jpg", "c.webp", "d.bmp"]):
        picture(i, (30 + i, 20)).save(tmp_path / name)
        rows.append({"file_name": name, "caption_0": f"Thing {i}."})
    rows[0]["caption_1"] = "Another thing."
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_metadata_gives_images_and_their_captions(folder):
    dataset = load_image_folder(folder)
    assert [row["image"].size for row in dataset] == [(30, 20), (31, 20), (32, 20), (33, 20)]
    assert dataset["caption_0"][2] == "Thing 2."
    assert dataset["caption_1"][0] == "Another thing."
    assert not dataset["caption_1"][1]


def test_fewer_captions_than_five_are_fine(folder, monkeypatch):
    monkeypatch.setenv("VLM_IMAGES", str(folder))
    table = load_image_table(get_profile(), "train")
    assert len(table) == 3
    assert {len(captions) for captions in table.truth.captions} <= {1, 2}
    assert all(caption for captions in table.truth.captions for caption in captions)


def test_metadata_may_be_a_table(folder):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('file_name,caption_0\nb.jpg,"A dog, running."\n')
    dataset = load_image_folder(folder)
    assert dataset["caption_0"][:] == ["A dog, running."]
    assert dataset[0]["image"].size == (31, 20)


def test_without_metadata_frames_come_in_the_order_that_people_count(tmp_path):
    """frame_2 comes before frame_10, which the alphabet does not know."""
    for number in (10, 2, 1, 33, 9):
        Image.new("RGB", (number, 1)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    widths = [row["image"].width for row in load_image_folder(tmp_path)]
    assert widths == [1, 2, 9, 10, 33]


@pytest.mark.parametrize("names", [
    ["1.png", "2.png", "10.png"], ["2024-01-05.png", "2024-02-01.png", "2024-11-01.png"],
    ["a.png", "b.jpg", "c.PNG"], ["frame_007.png", "frame_08.png", "frame_9.png"],
    ["site1_t2.png", "site1_t10.png", "site2_t1.png"]])
def test_names_with_numbers_are_in_order(tmp_path, names):
    for width, name in reversed(list(enumerate(names, start=1))):
        Image.new("RGB", (width, 1)).save(tmp_path / name)
    assert [row["image"].width for row in load_image_folder(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(("line", "says"), [
    ({"file_name": "gone.png", "caption_0": "x"}, "line 3: names gone.png, which is not in"),
    ('{"file_name": "a.png"', "line 3: is no JSON"),
    ({"caption_0": "x"}, "line 3: has no file_name"),
    ([1, 2], "line 3: has no file_name"),
    ({"file_name": 7, "caption_0": "x"}, "line 3: has no file_name"),
    ({"file_name": "a.png"}, "line 3: a.png has no caption, others have"),
])
def test_a_wrong_line_is_named(folder, line, says):
    good = {"file_name": "a.png", "caption_0": "A thing."}
    write(folder, [good, good, line])
    with pytest.raises(ValueError, match=says):
        load_image_folder(folder)


def test_a_damaged_file_in_a_folder_is_named_before_anything_starts(folder):
    (folder / "c.webp").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="c.webp: is no image"):
        load_image_folder(folder)


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}: holds no image .*.jpg.*.png"):
        load_image_folder(tmp_path)


def test_metadata_that_names_nothing_is_refused(folder):
    (folder / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="metadata.jsonl: names no image"):
        load_image_folder(folder)


def test_a_folder_is_not_read_from_memory_of_an_earlier_one(folder, picture):
    first = load_image_folder(folder)._fingerprint
    assert load_image_folder(folder)._fingerprint == first
    picture(8, (99, 9)).save(folder / "a.png")
    assert load_image_folder(folder)._fingerprint != first


# --- real images -------------------------------------------------------------------------------

def test_real_photos_are_split_and_asked_about(real_images, monkeypatch):
    monkeypatch.setenv("VLM_IMAGES", str(real_images / "photos"))
    train, test = (load_image_table(get_profile(), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 6)
    for table in (train, test):
        assert all(len(captions) == 5 for captions in table.truth.captions)
        assert {table.image(i).mode for i in range(len(table))} == {"RGB"}
    assert not {c for row in train.truth.captions for c in row} & {
        c for row in test.truth.captions for c in row}
    dataset = build_tasks(test, get_profile().mixture | {"select 2": 20, "select 3": 20}, seed=0)
    assert {"select", "compare", "refer", "describe"} == {r.task for r in dataset.recipes}
    sample = dataset.of_task("select")[0]
    assert len(sample.images) == sample.prompt.count("<image>")


def test_real_frames_make_a_sequence(real_images, monkeypatch, processor):
    monkeypatch.setenv("VLM_IMAGES", str(real_images / "airport"))
    table = load_image_table(get_profile(), "test")
    assert len(table) == 16 and table.truth.sites == [tuple(range(16))]
    with Image.open(real_images / "airport" / "frame_10.png") as frame:
        assert np.array_equal(table.image(10), frame.convert("RGB"))
    dataset = build_tasks(table, {"sequence 8": 3, "select 2": 3}, seed=0)
    assert {(r.task, len(r.rows), r.answer) for r in dataset.recipes} == {("sequence", 8, None)}
    assert all(list(r.rows) == sorted(r.rows) for r in dataset.recipes)
    assert processor.pixel_values(dataset[0].images).shape == (8, 3, 64, 64)


def test_a_copy_of_real_photos_with_one_file_cut_short_is_refused(real_images, tmp_path):
    folder = shutil.copytree(real_images / "photos", tmp_path / "photos")
    victim = sorted(folder.glob("*.jpg"))[7]
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{victim.name}: is damaged or cut short"):
        load_image_folder(folder)
