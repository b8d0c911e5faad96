"""Images as people have them: each is read as one expects, or refused by name."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from vlm_utils.profiles import REPOSITORY
from vlm_utils.sources import images
from vlm_utils.sources.images import FORMATS, UnreadableImage, as_rgb, open_image

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

def png_of(width, height, bits, data):
    """An RGB PNG of these values, each row as it is."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png_header(width, height):
    """A PNG that says how large it is, and holds nothing."""
    return png_of(width, height, 8, b"")


def cut_short(name, share, **options):
    stream = io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    picture.save(stream, name, **options)
    return stream.getvalue()[:int(len(stream.getvalue()) * share)]


@pytest.mark.parametrize(("content", "says"), [
    (b"", "is an empty file"),
    (b"a shopping list", "is not an image"),
    (b"%PDF-1.7 not a picture", "is not an image"),
    (b"\x89PNG\r\n\x1a\n", "is (not an image|damaged|a TIFF)"),
    (cut_short("jpeg", 0.5), "is damaged or cut short"),
    (cut_short("png", 0.5), "is damaged or cut short"),
    (cut_short("webp", 0.5), "is (not an image|damaged|a TIFF)"),
    (cut_short("tiff", 0.5), "is (not an image|damaged|a TIFF)"),
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


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_and_one_cut_short_is_named(tmp_path):
    path = saved(tmp_path, halves(size=(64, 32)), "a.avif", quality=95)
    assert close(open_image(path), RED, (10, 16)) and close(open_image(path), GREEN, (54, 16))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnreadableImage, match="a.avif: is "):
        open_image(path)


def test_heic_is_named_with_what_to_do(tmp_path):
    (tmp_path / "IMG_7.heic").write_bytes(
        struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 99)
    with pytest.raises(UnreadableImage, match="IMG_7.heic: is HEIC .*save it as JPEG or PNG"):
        open_image(tmp_path / "IMG_7.heic")


@pytest.mark.parametrize(("kind", "options"), [("eps", {}), ("ico", {}), ("ppm", {}), ("tga", {})])
def test_no_format_is_tried_but_those_of_the_list(tmp_path, monkeypatch, kind, options):
    """A trap: left to choose, Pillow reads an EPS named .png, and starts Ghostscript to do it."""
    path = tmp_path / "holiday.png"
    halves(size=(32, 16)).save(path, format=kind, **options)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **_: started.append(given))
    with Image.open(path) as picture:
        assert picture.format not in FORMATS             # Pillow itself would
    with pytest.raises(UnreadableImage, match="holiday.png: is not an image that can be read"):
        open_image(path)
    assert started == []


def test_a_text_of_two_megabytes_in_a_png_names_the_file(tmp_path):
    """Pillow raises a ValueError of its own for it, which names nothing."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("notes", "x" * 2_000_000, zip=True)
    path = saved(tmp_path, halves(), "a.png", pnginfo=texts)
    with pytest.raises(UnreadableImage, match="a.png: is damaged .*too large.*save it again"):
        open_image(path)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), ZeroDivisionError("x"),
                                   RuntimeError("x"), MemoryError("x"), OverflowError("x")])
def test_whatever_pillow_raises_the_file_is_named(tmp_path, monkeypatch, error):
    def fail(self):
        raise error
    path = saved(tmp_path, halves(), "a.bmp")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(UnreadableImage, match=f"a.bmp: .*{type(error).__name__}"):
        open_image(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes, sockets and devices are files on POSIX")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_not_a_file_is_refused_and_never_waited_for(tmp_path, kind):
    """A trap: to open a pipe that nobody writes to is to wait for ever."""
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        server = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(tmp_path)              # a socket's path may be 100 characters long
        server.bind("a.png")
        os.chdir(here)
    with pytest.raises(UnreadableImage, match="a.png: cannot be opened .it is a pipe, a socket"):
        open_image(path)


def test_a_tiff_with_smaller_copies_of_itself_is_one_picture(tmp_path):
    """Overviews and masks, as a cloud-optimised GeoTIFF has them, are pages, not frames."""
    path = tmp_path / "scene.tif"
    small, mask = halves(size=(10, 5)), Image.new("1", (20, 10))
    small.encoderinfo, mask.encoderinfo = {"tiffinfo": {254: 1}}, {"tiffinfo": {254: 4}}
    halves().save(path, save_all=True, append_images=[small, mask])
    with Image.open(path) as picture:
        assert picture.n_frames == 3
    assert open_image(path).size == (20, 10) and close(open_image(path), RED, (3, 5))


def test_a_tiff_of_many_bands_is_named(tmp_path):
    tags = {256: 2, 257: 2, 258: (8,) * 5, 259: 1, 262: 1, 273: 200, 277: 5, 278: 2, 279: 20}
    path = tmp_path / "bands.tif"
    path.write_bytes(tiff_of(tags, bytes(20)))
    with pytest.raises(UnreadableImage, match="bands.tif: is a TIFF .*save three of its bands"):
        open_image(path)


def tiff_of(tags, data):
    """A TIFF of such tags (of 16 bits), its data at byte 200."""
    entries, beyond, place = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag, value in tags.items():
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", place + len(beyond)), beyond + packed
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + beyond
    return head.ljust(200, b"\0") + data


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_sixteen_bit_colours_that_would_be_black_are_refused(tmp_path, kind):
    """Pillow keeps the upper 8 of 16 bits: of 12-bit colours, next to nothing."""
    values = np.random.default_rng(0).integers(0, 4096, (10, 10, 3), np.uint16)
    path = tmp_path / f"colour.{kind}"

    def write(values):
        if kind == "png":
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
            path.write_bytes(png_of(10, 10, 16, rows))
        else:
            tags = {256: 10, 257: 10, 258: (16, 16, 16), 259: 1, 262: 2, 273: 200, 277: 3, 278: 10,
                    279: 600}
            path.write_bytes(tiff_of(tags, values.astype("<u2").tobytes()))

    write(values)
    with pytest.raises(UnreadableImage, match=f"colour.{kind}: has 16 bits .* below 4096 of 65536"):
        open_image(path)
    write(values * 16)
    assert np.abs(np.asarray(open_image(path)).astype(int) - values // 16).max() == 0
    write(values * 0)
    assert np.asarray(open_image(path)).max() == 0       # a real image may be black


# --- size --------------------------------------------------------------------------------------

def test_a_large_jpeg_comes_at_half_its_width(tmp_path):
    """As large as a telephone takes them: the decoder leaves out what nobody would see."""
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    ImageOps.pad(halves(), (7000, 5000), color=RED).save(path, quality=50, exif=exif)
    assert open_image(path).size == (2500, 3500)


@pytest.mark.parametrize(("mode", "options", "fits"), [
    ("L", {"format": "png"}, 66), ("RGB", {"format": "png"}, 85), ("I;16", {"format": "png"}, 66),
    ("RGB", {"format": "webp"}, 35), ("RGB", {"format": "jpeg"}, 100),
    ("RGB", {"format": "jpeg", "progressive": True}, 75)])
def test_memory_is_bounded_and_not_only_pixels(monkeypatch, mode, options, fits):
    """The bounds are those of the whole size, tried on pictures of a thousandth of it."""
    monkeypatch.setattr(images, "MAX_PIXELS", images.MAX_PIXELS // 1000)
    monkeypatch.setattr(images, "MAX_BYTES", images.MAX_BYTES // 1000)
    for thousands, refused in ((fits - 1, False), (fits + 2, True)):
        stream = io.BytesIO()
        Image.new(mode, (100, thousands * 10)).save(stream, **options)
        if refused:
            with pytest.raises(UnreadableImage, match="image: is 100 x .*(memory|million)"):
                open_image(stream.getvalue())
        else:
            assert open_image(stream.getvalue()).mode == "RGB"


@pytest.mark.skipif(os.name != "posix", reason="peak memory is asked of POSIX")
@pytest.mark.parametrize(("mode", "million"), [("I;16", 64), ("RGBA", 64)])
def test_the_largest_picture_of_a_kind_takes_less_than_a_gigabyte(tmp_path, mode, million):
    """100 million pixels of 16 bits took 3 GB: a float64 for each is what numpy would make."""
    side = int((million * 1e6) ** 0.5)
    path = saved(tmp_path, Image.new(mode, (side, side)), "a.png", compress_level=1)
    code = ("import resource, sys; from vlm_utils.sources.images import open_image; "
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
            "size = open_image(sys.argv[1]).size; "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 700_000_000
