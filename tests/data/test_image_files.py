import contextlib
import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from datasets import Dataset, Features, Image as ImageFeature, Value
from hypothesis import given, settings, strategies as st
from PIL import Image

from picture_files import noise
from svdistill.common.errors import DataError
from svdistill.data import DataWarning
from svdistill.data.image_files import (
    EncodedPictures,
    SkippedFiles,
    image_suffixes,
    images_below,
)


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def told(folder):
    """The names of the images, and what is said of the rest."""
    skipped = SkippedFiles(folder)
    images = images_below(folder, skipped)
    with pytest.warns(DataWarning) as notes:
        skipped.warn()
    (note,) = notes
    return [str(image.relative_to(folder)) for image in images], str(note.message)


def test_suffixes_are_those_that_pillow_decodes(monkeypatch):
    suffixes = set(image_suffixes())
    assert {".jpg", ".jpe", ".jfif", ".png", ".pgm", ".webp", ".tif", ".mpo"} <= suffixes
    assert not {".pdf", ".mpg", ".h5", ".eps", ".heic"} & suffixes
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")  # as a plugin registers it
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))
    assert ".heic" in image_suffixes()


def test_whatever_is_left_out_is_counted_and_named(tmp_path):
    more = tmp_path / "more"
    write(*(tmp_path / "ant" / name for name in ("1.PNG", "a/2.jfif", "3.heic", "4.HEIC", "x")))
    write(tmp_path / "ant" / ".copies" / "1.png", tmp_path / "ant" / "__MACOSX" / "2.png")
    write(tmp_path / "ant" / "._1.png", tmp_path / "ant" / "b.png" / "5.png", more / "6.png")
    (tmp_path / "ant" / "more").symlink_to(more)
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    images, note = told(tmp_path / "ant")
    assert images == ["1.PNG", "a/2.jfif"]
    for part in (
        "2 hidden folder(s) with 2 image(s) ('.copies', '__MACOSX')",
        "1 hidden file(s) ('._1.png')",
        "1 folder(s) named like images with 1 image(s) ('b.png')",
        "1 pipe(s) or device(s) ('pipe.png')",
        "1 link(s) to folders, not followed ('more')",
        "3 file(s) that Pillow does not read by suffix (2 .heic, 1 no suffix)",
    ):
        assert part in note


def test_a_link_to_a_file_is_read(tmp_path):
    write(tmp_path / "1.png", tmp_path / "ant" / "x.txt")
    (tmp_path / "ant" / "1.png").symlink_to(tmp_path / "1.png")
    assert told(tmp_path / "ant")[0] == ["1.png"]


# Decoding


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures(*cells, image_size=None):
    """Pictures of cells: encoded bytes, or `{"bytes", "path"}`."""
    cells = [{"bytes": cell, "path": None} if isinstance(cell, bytes) else cell for cell in cells]
    features = Features(img={"bytes": Value("binary"), "path": Value("string")})
    table = Dataset.from_dict({"img": cells}, features=features)
    table = table.cast_column("img", ImageFeature(decode=False))
    return EncodedPictures(table, "img", "some.parquet", image_size)


def decode(image, kind="png", image_size=None, **options):
    """One image, encoded and decoded, [H, W, 3]."""
    read = pictures(encode(image, kind, **options), image_size=image_size)
    return read.read(np.array([0]))[0].transpose(1, 2, 0)


GREY = noise(1)[0, :, :, 0]
COLOUR = noise(1)[0]


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_formats_come_back_exactly(kind):
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(decode(Image.fromarray(COLOUR), kind, **options), COLOUR)


def test_jpeg_comes_back_nearly():
    smooth = np.add.outer(np.arange(0, 128, 4), np.arange(0, 128, 4)).astype(np.uint8)
    decoded = decode(Image.fromarray(smooth), "jpeg", quality=95)
    assert abs(decoded.astype(int) - smooth[..., None]).max() < 8


def threefold(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), threefold(GREY)),
        (Image.fromarray(np.dstack([GREY, GREY[::-1]])), threefold(GREY)),
        (Image.fromarray(np.dstack([COLOUR, GREY])), COLOUR),
        (Image.fromarray(GREY > 99), threefold(np.where(GREY > 99, 255, 0))),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 99), threefold(GREY)),
    ],
    ids=["grey", "grey+alpha", "RGBA", "bits", "16 bits"],
)
def test_every_mode_becomes_rgb(image, expected):
    assert np.array_equal(decode(image), expected)


@pytest.mark.parametrize("options", [{}, {"transparency": 3}])
def test_a_palette_becomes_its_colours(options):
    palette = noise(1, 16)[0].reshape(256, 3)
    image = Image.new("P", (8, 8))
    image.putdata(GREY.flatten().tolist())
    image.putpalette(palette.tobytes())
    assert np.array_equal(decode(image, **options), palette[GREY])


def test_16_bits_keep_their_order_in_tiff():
    steps = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    assert np.array_equal(decode(Image.fromarray(steps), "tiff"), threefold(steps // 256))


def test_a_photo_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    decoded = decode(Image.fromarray(COLOUR), exif=exif)
    assert np.array_equal(decoded, np.rot90(COLOUR, -1))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.float32), "got a float image;"),
        (np.full((8, 8), np.nan, dtype=np.float32), "got a float image with NaN"),
        (np.full((8, 8), np.inf, dtype=np.float32), "with NaN or infinite pixels"),
        (GREY.astype(np.int32) << 16, "got an image with 32 bits per pixel"),
    ],
)
def test_refuses_what_has_no_range(pixels, message):
    with pytest.raises(DataError, match=rf"some\.parquet, row 0: .*8 or 16 bits.*{message}"):
        decode(Image.fromarray(pixels), "tiff")


def test_rows_are_read_in_any_order_and_more_than_once():
    images = noise(5)
    read = pictures(*(encode(Image.fromarray(image)) for image in images))
    rows = np.array([4, 0, 4, 2])
    assert np.array_equal(read.read(rows), images[rows].transpose(0, 3, 1, 2))
    assert read.read(np.array([], dtype=np.int64)).shape == (0, 3, 8, 8)
    assert read.shape == (3, 8, 8)


def test_more_rows_than_are_read_at_once(monkeypatch):
    monkeypatch.setattr("svdistill.data.image_files.READ_AT_ONCE", 3)
    images = noise(8)
    read = pictures(*(encode(Image.fromarray(image)) for image in images))
    assert np.array_equal(read.read(np.arange(8)), images.transpose(0, 3, 1, 2))


# Sizes


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (16, 16), (9, 40), (8, 8)])
def test_image_size_resizes_and_takes_the_middle(height, width):
    # The red channel tells the column, the green one the row.
    row, column = np.mgrid[:height, :width] * 4
    image = np.dstack([column, row, np.full_like(row, 77)]).astype(np.uint8)
    decoded = decode(Image.fromarray(image), image_size=16).astype(float)
    assert decoded.shape == (16, 16, 3)
    assert (decoded[..., 2] == 77).all()
    side = min(height, width)
    inner = slice(2, 14)  # at the border the filter sees less
    places = (np.arange(16) + 0.5) * side / 16 - 0.5
    for channel, length in ((0, width), (1, height)):
        seen = decoded[..., channel] if channel == 0 else decoded[..., channel].T
        expected = 4 * (places + (length - side) / 2)
        assert abs(seen - expected)[:, inner].max() <= 1.5


def test_shrinking_is_antialiased():
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    decoded = decode(Image.fromarray(board.astype(np.uint8)), image_size=16)
    assert abs(decoded.astype(int) - 127).max() < 8


def test_a_very_long_image_stays_cheap():
    long = np.full((1, 60_000), 9, dtype=np.uint8)
    assert (decode(Image.fromarray(long), image_size=224) == 9).all()


def test_an_image_of_the_wanted_size_stays_as_it_is():
    assert np.array_equal(decode(Image.fromarray(COLOUR), image_size=8), COLOUR)


def test_only_square_images_without_image_size():
    with pytest.raises(DataError, match=r"row 0: .*height 8 and width 9; give image_size"):
        decode(Image.fromarray(noise(1, 9)[0][:8]))


def test_only_one_size_without_image_size():
    cells = [encode(Image.fromarray(noise(1, size)[0])) for size in (8, 8, 9)]
    message = r"row 2: expected an image of 8x8 like the first one, got one of 9x9; give image_size"
    with pytest.raises(DataError, match=message):
        pictures(*cells).read(np.arange(3))
    assert pictures(*cells, image_size=8).read(np.arange(3)).shape == (3, 3, 8, 8)


# Damage

WHOLE = encode(Image.fromarray(COLOUR))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (b"this is no image", r"some\.parquet, row 1: .*got no image format that Pillow knows"),
        (b"", r"some\.parquet, row 1: .*got no image format that Pillow knows"),
        (WHOLE[:-40], r"some\.parquet, row 1: .*truncated"),
        (None, r"some\.parquet, row 1: .*got an empty cell"),
        ({"bytes": None, "path": None}, r"some\.parquet, row 1: .*got an empty cell"),
    ],
)
def test_a_damaged_image_is_named(cell, message):
    read = pictures(WHOLE, cell)
    assert read.read(np.array([0])).shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match=f"{message}.*; replace the image or remove it"):
        read.read(np.array([0, 1]))


def test_an_image_too_large_for_memory_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"row 0: .*exceeds limit"):
        pictures(WHOLE).read(np.array([0]))


SEEDS = [encode(Image.fromarray(COLOUR), kind) for kind in ("png", "jpeg", "gif", "bmp", "webp")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_bytes_give_an_image_or_a_data_error(encoded, data):
    end = data.draw(st.integers(0, len(encoded)))
    broken = bytearray(encoded[:end])
    place = st.tuples(st.integers(0, max(0, end - 1)), st.integers(0, 255))
    for position, value in data.draw(st.lists(place, max_size=4)) if end else ():
        broken[position] = value
    with contextlib.suppress(DataError):
        image = pictures(bytes(broken), image_size=8).read(np.array([0]))
        assert image.shape == (1, 3, 8, 8)


def test_a_header_of_ten_thousand_million_pixels_takes_no_memory():
    content = bytearray(encode(Image.new("RGB", (8, 8))))
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    tracemalloc.start()
    with pytest.raises(DataError, match="decompression bomb"):
        pictures(bytes(content)).read(np.array([0]))
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    read = pictures({"bytes": None, "path": str(tmp_path / "pipe.png")})
    with pytest.raises(DataError, match="got a pipe or a device"):
        read.read(np.array([0]))


def test_a_directory_is_no_image(tmp_path):
    read = pictures({"bytes": None, "path": str(tmp_path)})
    with pytest.raises(DataError, match=r"an image file, got a directory; give the image files"):
        read.read(np.array([0]))


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone.png", "row 1"), ("/nowhere/gone.png", r"^/nowhere/gone\.png")],
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(path, message):
    read = pictures(WHOLE, {"bytes": None, "path": path})
    with pytest.raises(DataError, match=f"{message}: expected a file that can .*No such file"):
        read.read(np.array([1]))


def test_without_memory_an_image_is_not_called_damaged(monkeypatch):
    def full(*_):
        raise MemoryError

    read = pictures(WHOLE, WHOLE)
    monkeypatch.setattr("svdistill.data.image_files._to_array", full)
    with pytest.raises(MemoryError):
        read.read(np.array([1]))
