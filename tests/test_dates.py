"""When a user's frames were taken: from their names, the camera, and the metadata."""

import datetime
import json
import warnings

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_utils.datasets import load_image_table
from vlm_utils.profiles import get_profile
from vlm_utils.sources.dates import date_in_name, parse_date
from vlm_utils.sources.picture_folders import list_pictures, load_image_folder


def fill(folder, names, taken=None):
    """Small pictures of these names; taken: the camera's note in each, or None."""
    for k, name in enumerate(names):
        exif = Image.Exif()
        exif[0x010F] = "a maker"                # without any other note, Pillow writes none
        if taken and taken[k]:
            exif.get_ifd(0x8769)[36867] = taken[k]
        Image.new("RGB", (k + 1, 4)).save(folder / name, exif=exif)


def dates_of(folder):
    return [(picture.file.name, picture.date) for picture in list_pictures(folder)]


# --- names --------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "date"), [
    ("2019-03-17.png", "2019-03-17"), ("2019-03.png", "2019-03"),
    ("airport_2019_03_17.tif", "2019-03-17"), ("20190317.png", "2019-03-17"),
    ("2019.03.17.png", "2019-03-17"), ("S2A_MSIL1C_20190317T101021_N0207.jpg", "2019-03-17"),
    ("site2_2019-03.png", "2019-03"), ("2019-03-17_2019-03-17.png", "2019-03-17"),
    ("2019_03_17_02.png", "2019-03-17"), ("2020-02-29.png", "2020-02-29"),
    # no date, and nothing that looks like one
    ("frame_07.png", None), ("IMG_2019.jpg", None), ("2019.png", None), ("201903.png", None),
    ("12345678.png", None), ("2019-02-29.png", None), ("2019-13.png", None),
    ("120190317.png", None), ("site_2019_03_004.png", None), ("1700-01-01.png", None)])
def test_the_date_in_a_name(name, date):
    assert date_in_name(name) == date


@pytest.mark.parametrize(("name", "why"), [
    ("03-04-2019.png", "could start with the day or the month"),
    ("airport_17_03_2019.png", "could start with the day or the month"),
    ("17_03_2019_04.png", "could start with the day or the month"),
    ("LC08_122044_20190317_20200829_T1.tif", "the dates 2019-03-17 and 2020-08-29"),
    ("2019-03_2019-04.png", "the dates 2019-03 and 2019-04")])
def test_a_name_that_could_mean_several_dates_is_not_guessed(name, why):
    with pytest.raises(ValueError, match=why):
        date_in_name(name)


@given(st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 12, 31)),
       st.sampled_from(["", "-", "_", "."]), st.sampled_from(["", "site_", "b2_"]))
def test_every_day_is_found_as_it_is_written(day, sign, before):
    assert date_in_name(before + day.strftime(f"%Y{sign}%m{sign}%d") + ".png") == day.isoformat()


@given(st.text("0123456789-_. ab", max_size=14))
def test_what_is_found_is_a_day_of_the_calendar(stem):
    try:
        date = date_in_name(stem + ".png")
    except ValueError:
        return
    if date is not None:
        datetime.date.fromisoformat((date + "-01-01")[:10])


def test_frames_have_the_dates_of_their_names(tmp_path):
    fill(tmp_path, ["2019-03-17.png", "airport_2019_04_17.tif", "20190517.png", "2019-06-01.webp"])
    with pytest.warns(UserWarning, match="put in the order of their dates"):
        assert dates_of(tmp_path) == [
            ("2019-03-17.png", "2019-03-17"), ("airport_2019_04_17.tif", "2019-04-17"),
            ("20190517.png", "2019-05-17"), ("2019-06-01.webp", "2019-06-01")]


def test_a_table_of_frames_knows_the_date_of_each_row(tmp_path, monkeypatch):
    fill(tmp_path, [f"2019-{month:02d}.png" for month in (3, 4, 10, 11)])
    monkeypatch.setenv("VLM_IMAGES", str(tmp_path))
    table = load_image_table(get_profile("tiny"), "test")
    assert table.dataset["date"][:] == ["2019-03", "2019-04", "2019-10", "2019-11"]
    assert "time" not in table.dataset.column_names


def test_without_any_date_nothing_is_said_and_no_column_is_there(tmp_path):
    fill(tmp_path, ["frame_1.png", "frame_2.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "date" not in load_image_folder(tmp_path).column_names


def test_a_frame_without_a_date_among_others_is_named(tmp_path):
    fill(tmp_path, ["2019-03.png", "2019-04.png", "05-06-2019.png", "last.png"])
    with pytest.warns(UserWarning, match=r"2 of 4 frames have no date: 05-06-2019.png \(05-06-2019 "
                                         r"could start with the day or the month.*; last.png"):
        assert dict(dates_of(tmp_path))["last.png"] is None


def test_frames_are_put_in_the_order_of_their_dates_with_a_word(tmp_path):
    """A trap: the alphabet puts b after a, whatever their years."""
    fill(tmp_path, ["b_2018-05.png", "a_2019-05.png", "c_2020-05.png"])
    with pytest.warns(UserWarning, match="put in the order of their dates"):
        assert [date for _, date in dates_of(tmp_path)] == ["2018-05", "2019-05", "2020-05"]


@pytest.mark.filterwarnings("ignore:.*frames have no date")
@pytest.mark.parametrize("names", [["a_2019-05.png", "b_2018-05-03.png"],
                                   ["a_2019-05.png", "b.png", "c_2018-05.png"]])
def test_frames_whose_order_is_not_sure_stay_and_a_warning_says_so(tmp_path, names):
    fill(tmp_path, names)
    with pytest.warns(UserWarning, match="that is not the order of their dates"):
        assert [name for name, _ in dates_of(tmp_path)] == names


def test_frames_of_one_month_stay_in_the_order_that_people_count(tmp_path):
    fill(tmp_path, ["2019-03_10.png", "2019-03_2.png", "2019-03_1.png"])
    assert dates_of(tmp_path) == [(f"2019-03_{k}.png", "2019-03") for k in (1, 2, 10)]


# --- the camera ---------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_the_camera_says_when(tmp_path, kind):
    fill(tmp_path, [f"IMG_{k}.{kind}" for k in (1, 2)],
         ["2019:03:17 10:11:12", "2019:04:01 00:00:00"])
    assert [date for _, date in dates_of(tmp_path)] == ["2019-03-17", "2019-04-01"]


@pytest.mark.parametrize("note", ["0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday",
                                  "2019:02:30 10:00:00"])
def test_a_note_that_is_no_date_is_none(tmp_path, note):
    fill(tmp_path, ["a.jpg", "b.jpg"], [note, "2019:04:01 00:00:00"])
    with pytest.warns(UserWarning, match="1 of 2 frames have no date: a.jpg"):
        assert [date for _, date in dates_of(tmp_path)] == [None, "2019-04-01"]


def test_a_name_counts_more_than_the_camera(tmp_path):
    """A picture that was scanned or exported has the day of that in it."""
    fill(tmp_path, ["1987-05.jpg", "1988-05.jpg"], ["2019:03:17 10:11:12"] * 2)
    assert [date for _, date in dates_of(tmp_path)] == ["1987-05", "1988-05"]


# --- metadata -----------------------------------------------------------------------------------

def write(folder, rows, kind="jsonl"):
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_may_hold_dates_alone(tmp_path, kind):
    fill(tmp_path, ["a.png", "b.png", "c.png"])
    write(tmp_path, [{"file_name": f"{name}.png", "date": date}
                     for name, date in zip("abc", ["2019-03-17", "2019-04-01", "2020-01-01"],
                                           strict=True)], kind)
    dataset = load_image_folder(tmp_path)
    assert dataset["date"][:] == ["2019-03-17", "2019-04-01", "2020-01-01"]
    assert "caption_0" not in dataset.column_names


def test_dates_of_a_table_may_be_dates(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    pd.DataFrame({"file_name": ["a.png", "b.png"], "date": pd.to_datetime(
        ["2019-03-17 00:00", "2019-04-01 12:00"])}).to_parquet(tmp_path / "metadata.parquet")
    assert load_image_folder(tmp_path)["date"][:] == ["2019-03-17", "2019-04-01"]


def test_captions_and_dates_stand_side_by_side(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    write(tmp_path, [{"file_name": "a.png", "caption": "A lake.", "date": "2019"},
                     {"file_name": "b.png", "caption": "A road.", "date": None}])
    dataset = load_image_folder(tmp_path)
    assert dataset["date"][:] == ["2019", None]
    assert dataset["caption_0"][:] == ["A lake.", "A road."]


@pytest.mark.parametrize("value", ["03/04/2019", "17.03.2019", "next May", "2019-02-30", "2019-13",
                                   19, 3.5, True, ["2019"], "19-03-17", "0019-03-17"])
def test_a_date_that_cannot_be_read_is_refused_with_file_and_row(tmp_path, value):
    fill(tmp_path, ["a.png", "b.png"])
    write(tmp_path, [{"file_name": "a.png", "date": "2019-03"},
                     {"file_name": "b.png", "date": value}])
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 2: date is .*write it as 2019-03"):
        list_pictures(tmp_path)


@pytest.mark.parametrize(("value", "date"), [
    ("2019-03-17T10:11:12Z", "2019-03-17"), ("2019-3-7", "2019-03-07"), ("20190317", "2019-03-17"),
    (20190317, "2019-03-17"), (2019, "2019"), (" 2019-03 ", "2019-03"), ("", None), (None, None),
    (datetime.date(2019, 3, 17), "2019-03-17"),
    (datetime.datetime(2019, 3, 17, 23, 59), "2019-03-17")])
def test_dates_are_kept_as_precisely_as_they_are_given(value, date):
    assert parse_date(value, "row 1") == date


def test_rows_of_one_picture_agree_on_its_date(tmp_path):
    fill(tmp_path, ["a.png"])
    rows = [{"file_name": "a.png", "caption": "A lake.", "date": "2019-03"},
            {"file_name": "a.png", "caption": "Water.", "date": "2019-04"}]
    write(tmp_path, rows)
    with pytest.raises(ValueError, match="line 2: a.png is of 2019-04, and of 2019-03 by .*line 1"):
        list_pictures(tmp_path)
    write(tmp_path, [rows[0], rows[1] | {"date": None}])
    assert dates_of(tmp_path) == [("a.png", "2019-03")]


def test_metadata_counts_more_than_the_name(tmp_path):
    fill(tmp_path, ["2019-03.png", "2019-04.png"])
    write(tmp_path, [{"file_name": "2019-03.png", "date": "2018-03"},
                     {"file_name": "2019-04.png"}])
    assert [date for _, date in dates_of(tmp_path)] == ["2018-03", "2019-04"]
