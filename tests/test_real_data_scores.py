"""Scores of public benchmarks: as they are defined, and where the official scripts differ."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_utils.datasets import load_series_table
from vlm_utils.real_data import (
    bleu_4,
    caption_scores,
    cider_d,
    class_f1,
    draw,
    drawn_f1,
    nlvr_scores,
    parse_boxes,
    parse_polygons,
    read_levir_cc,
    read_nlvr2,
    read_teochatlas,
    rouge_l,
    teochat_scores,
    write_levir_cc,
    write_nlvr2,
    write_teochatlas,
)
from vlm_utils.real_data.caption_scores import words
from vlm_utils.real_data.scores import parse_label, plain
from vlm_utils.real_data.shapes import box_polygon


@pytest.fixture(scope="module")
def table():
    return load_series_table("validation")


def predicted(data, texts) -> pd.DataFrame:
    recipes = data.samples.recipes
    return pd.DataFrame({"task": [r.task for r in recipes],
                         "num_images": [r.num_images for r in recipes],
                         "prompt": [r.prompt for r in recipes],
                         "answer": [r.answer for r in recipes], "prediction": texts})


# --- true or false -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def nlvr2(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nlvr2")
    write_nlvr2(folder, table, sentences=4)         # 16 pairs, half of them true
    return read_nlvr2(folder)


def test_accuracy_counts_answers_and_consistency_sentences(nlvr2):
    answers = [recipe.answer for recipe in nlvr2.samples.recipes]
    other = {"True": "False", "False": "True"}
    answers[0] = other[answers[0]]
    found = nlvr_scores(nlvr2, predicted(nlvr2, answers))
    assert found["accuracy"] == 15 / 16 and found["consistency"] == 3 / 4
    assert (found["samples"], found["sentences"], found["unreadable"]) == (16, 4, 0)
    assert found["low"] < 15 / 16 < found["high"]


def test_always_true_scores_half_and_no_sentence(nlvr2):
    found = nlvr_scores(nlvr2, predicted(nlvr2, ["true."] * 16))
    assert found["accuracy"] == found["guessing"] == 0.5
    assert found["consistency"] == found["guessing_consistency"] == 0


def test_what_cannot_be_parsed_is_wrong_and_stays(nlvr2):
    """The naive way, to score what can be parsed, calls this model perfect."""
    answers = [recipe.answer for recipe in nlvr2.samples.recipes]
    texts = [answer if i == 5 else "I cannot tell" for i, answer in enumerate(answers)]
    found = nlvr_scores(nlvr2, predicted(nlvr2, texts))
    assert found["accuracy"] == 1 / 16 and found["unreadable"] == 15
    kept = [text == answer for text, answer in zip(texts, answers, strict=True)
            if parse_label(text)]
    assert np.mean(kept) == 1


@pytest.mark.parametrize(("text", "label"), [
    ("True", "True"), ("false.", "False"), (" TRUE ", "True"), ("True or false", None),
    ("not true", None), ("", None), ("It is true", None), ("truefalse", None)])
def test_a_label_is_just_that(text, label):
    assert parse_label(text) == label


# --- TEOChat -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def teochatlas(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teochatlas")
    write_teochatlas(folder, table, samples=8)
    return read_teochatlas(folder, "eval_TinyEarth.json")


def test_answers_are_compared_without_case_and_punctuation(teochatlas):
    texts = [f" {r.answer.upper().rstrip('.')}!" for r in teochatlas.samples.recipes]
    found = teochat_scores(teochatlas, predicted(teochatlas, texts)).set_index("task")
    assert found.loc["question_answering", "accuracy"] == 1
    assert found.loc["change_detection_localization", "pixel_f1"] > 0.97
    assert plain("<Image_2>, Yes.") == "image2 yes"


def test_the_official_keywords_give_more_than_is_right(teochatlas):
    """TEOChat's script: right if any of its keywords is in both. Here, all of the answer counts."""
    recipes = teochatlas.samples.recipes
    keywords = ["yes", "no", "top left", "top center", "top right", "center left", "center",
                "center right", "bottom left", "bottom center", "bottom right"]
    assert any(word in "top center" and word in "center left" for word in keywords)
    texts = [" ".join(keywords)] * len(recipes)
    found = teochat_scores(teochatlas, predicted(teochatlas, texts)).set_index("task")
    assert (found["accuracy"].dropna() == 0).all()


def test_a_task_without_a_right_answer_is_still_in_the_table(teochatlas):
    """The official script leaves it out, and the mean over tasks rises."""
    texts = [r.answer if r.task == "question_answering" else "?"
             for r in teochatlas.samples.recipes]
    found = teochat_scores(teochatlas, predicted(teochatlas, texts)).set_index("task")
    assert found.loc["temporal_referring_expression", "accuracy"] == 0
    assert set(found.index) == {r.task for r in teochatlas.samples.recipes}


def test_brackets_that_hold_no_box_are_counted_and_end_nothing(teochatlas):
    """TEOChat's script raises IndexError for [1, 2] and draws [1, 2, 3, 4, 5]."""
    assert parse_boxes("[10, 20, 30, 40] and [1, 2], [a, b, c, d], [5, 4, 3, 2], [9,9,9,9,9]") == \
        ([(10, 20, 30, 40), (3, 2, 5, 4)], 3)
    assert parse_boxes("none") == ([], 0) and parse_boxes("[-5, 0, 120, 50.5]")[0] == \
        [(0, 0, 100, 50.5)]
    texts = ["[1, 2]"] * len(teochatlas)
    found = teochat_scores(teochatlas, predicted(teochatlas, texts)).set_index("task")
    assert found.loc["spatial_referring_expression", "unreadable"] == 8
    assert found.loc["spatial_referring_expression", "pixel_f1"] == 0


def test_pixels_of_all_images_are_counted_together():
    """By hand: 64 x 64 of 128 x 128 found, then nothing where 128 x 128 is."""
    half, quarter = draw(boxes=[(0, 0, 50, 50)]), draw(boxes=[(0, 0, 25, 25)])
    assert half.shape == (256, 256) and half.sum() == 129**2 and quarter.sum() == 65**2
    assert drawn_f1([(half, quarter)]) == pytest.approx(2 * 65**2 / (65**2 + 129**2))
    nothing = draw()
    assert drawn_f1([(half, quarter), (half, nothing)]) == pytest.approx(
        2 * 65**2 / (65**2 + 2 * 129**2))
    assert drawn_f1([(nothing, half)]) == 0 and np.isnan(drawn_f1([(nothing, nothing)]))


def test_polygons_are_drawn_as_boxes_are():
    box = (10, 20, 50, 60)
    assert (draw(parse_polygons([box_polygon(box)], "x")) == draw(boxes=[box])).all()
    triangle = draw(parse_polygons(["POLYGON ((0 0, 255 0, 0 255, 0 0))"], "x"))
    assert 0.49 < triangle.mean() < 0.52
    assert parse_polygons(["", "POLYGON EMPTY"], "x") == []
    small = draw(boxes=[box], side=64)
    assert small.shape == (64, 64) and abs(small.mean() - draw(boxes=[box]).mean()) < 0.02


def test_the_files_polygons_are_the_truth_and_not_the_boxes_in_the_answer(teochatlas):
    answers = [r.answer for r in teochatlas.samples.recipes]
    moved = teochatlas.rows.assign(polygons=[
        [[(200, 200), (200, 250), (250, 250)]] if polygons else polygons
        for polygons in teochatlas.rows["polygons"]])
    found = teochat_scores(type(teochatlas)("x", teochatlas.samples, moved, teochatlas.notes, 0),
                           predicted(teochatlas, answers)).set_index("task")
    assert found.loc["spatial_referring_expression", "pixel_f1"] < 0.3


def test_a_class_that_does_not_exist_is_missed_by_the_true_one():
    """TEOChat's script counts no false negative for it: saying "ruin" for "destroyed" keeps
    the recall of "destroyed" at 1."""
    truths = ["destroyed"] * 4 + ["no damage"] * 2
    said = ["Destroyed.", "ruin", "ruin", "ruin", "No damage", "No damage"]
    found = class_f1(truths, said).set_index("class")
    assert found.loc["destroyed", "f1"] == pytest.approx(2 * 1 / (4 + 1))   # recall 1/4
    assert found.loc["no damage", "f1"] == 1
    assert found["prevalence"].to_dict() == {"destroyed": 4 / 6, "no damage": 2 / 6}


def test_a_large_building_counts_more():
    found = class_f1(["a", "a", "b"], ["a", "b", "b"], [30, 10, 60]).set_index("class")
    assert found.loc["a", "f1"] == pytest.approx(2 * 30 / (40 + 30))
    assert found.loc["b", "f1"] == pytest.approx(2 * 60 / (60 + 70))
    assert found["prevalence"].tolist() == [0.4, 0.6]
    with pytest.raises(ValueError, match="3 true answers and 1 predictions"):
        class_f1(["a"] * 3, ["a"])


def test_an_answer_that_is_not_known_is_no_score(teochatlas):
    table = predicted(teochatlas, ["x"] * len(teochatlas))
    table.loc[3, "answer"] = None
    with pytest.raises(ValueError, match="sample 3 of TEOChatlas .* has no true answer"):
        teochat_scores(teochatlas, table)


# --- captions ------------------------------------------------------------------------------------

TEXTS = ["a lake appeared in the top left", "the scene is the same as before",
         "the forest was cleared for a road and a road", "houses"]
REFERENCES = [["a lake appeared in the top left", "in the later image a small lake appeared"],
              ["there is no difference", "the scene is the same as before", "nothing changed"],
              ["the forest was cleared for a new road", "a road cuts the forest in the top left"],
              ["two houses were built near the lake"]]


def test_scores_are_those_of_the_usual_scorer():
    """Frozen values: what the formulas of coco-caption (github.com/tylin/coco-caption: CiderScorer,
    Rouge, BleuScorer) give for these texts, run once outside of this repository."""
    assert cider_d(TEXTS, REFERENCES) == pytest.approx(
        [5.978196980777216, 3.4977769220093475, 3.489873906753958, 0.6617792046296775], rel=1e-12)
    assert [rouge_l(text, right) for text, right in zip(TEXTS, REFERENCES, strict=True)] == \
        pytest.approx([1.0, 1.0, 0.7936802973977695, 0.22021660649819494], rel=1e-12)
    assert bleu_4(TEXTS, REFERENCES) == pytest.approx(66.3077533580749, rel=1e-8)


def test_cider_d_by_hand():
    """Two images that share no word: every run weighs log 2. Of "a b", the runs of one and of two
    words fit: (1 + 1 + 0 + 0) / 4 * 10. "a a" against "a b": one word fits, clipped to once:
    cosine 1 / (2 * sqrt 2)."""
    assert cider_d(["a b", "c d"], [["a b"], ["c d"]]) == pytest.approx([5, 5])
    assert cider_d(["a a", "c d"], [["a b"], ["c d"]])[0] == pytest.approx(
        10 / 4 / (2 * np.sqrt(2)))
    # Four pairs of words longer: the Gaussian of sigma 6 takes exp(-16 / 72).
    longer = cider_d(["a b x x x x", "c d"], [["a b"], ["c d"]])[0]
    one = 1 / (np.sqrt(1 + 1 + 16) * np.sqrt(2)) * 2        # a and b; x weighs 4
    two = 1 / np.sqrt(1 + 1 + 9)                            # a b; b x, and x x three times
    assert longer == pytest.approx(10 / 4 * (one + two) * np.exp(-16 / 72))


def test_a_single_image_has_no_rare_words():
    assert cider_d(["a b"], [["a b"]]) == [0]


def test_rouge_l_by_hand():
    """"the lake grew" in "the small lake has grown": two words in order; P 2/3, R 2/5."""
    p, r, b = 2 / 3, 2 / 5, 1.2**2
    assert rouge_l("the lake grew", ["the small lake has grown"]) == pytest.approx(
        (1 + b) * p * r / (r + b * p))
    assert rouge_l("", ["a lake"]) == 0 and rouge_l("a lake", ["no", "A lake."]) == 1


def test_bleu_4_by_hand():
    """Seven words against seven: no penalty for brevity, only the shares of runs that fit."""
    text = "the lake in the top left grew"
    right = ["the lake in the north has grown", "in the top left a lake grew now"]
    found = bleu_4([text], [right])
    assert found == pytest.approx(100 * _share(text, right), rel=1e-6) and 0 < found < 100
    assert bleu_4(["a b c"], [["a b c"]]) == 0              # no run of four: nothing to count


def _share(text, right):
    """BLEU-4 of one text without brevity penalty, by counting."""
    product = 1.0
    for n in (1, 2, 3, 4):
        def runs(sentence, n=n):
            said = sentence.split()
            return [tuple(said[k:k + n]) for k in range(len(said) - n + 1)]
        said = runs(text)
        product *= sum(min(said.count(run), max(runs(other).count(run) for other in right))
                       for run in set(said)) / len(said)
    return product ** 0.25


def test_words_are_those_of_a_plain_sentence():
    assert words("A two-storey house's roof, GONE .") == [
        "a", "two", "storey", "house's", "roof", "gone"]


VOCABULARY = st.lists(st.sampled_from("a b c d e f".split()), min_size=1, max_size=9).map(" ".join)


@given(st.lists(st.tuples(VOCABULARY, st.lists(VOCABULARY, min_size=1, max_size=4)), min_size=1,
                max_size=5))
def test_scores_stay_within_their_bounds(rows):
    texts, references = zip(*rows, strict=True)
    assert all(-1e-9 <= score <= 10 + 1e-9 for score in cider_d(texts, references))
    assert all(0 <= rouge_l(text, right) <= 1 + 1e-9 for text, right in rows)
    assert 0 <= bleu_4(texts, references) <= 100 + 1e-6


def test_the_five_sentences_of_no_change_are_worth_much(table, tmp_path):
    """What a model that sees nothing reaches on pairs without a change: a trap of LEVIR-CC."""
    write_levir_cc(tmp_path, table, pairs=40)
    data = read_levir_cc(tmp_path)
    blind = predicted(data, ["there is no difference"] * 40)
    found = caption_scores(data, blind)
    still = data.rows["changed"].eq(False)
    each = np.array([rouge_l("there is no difference", right) for right in data.rows["references"]])
    assert (each[still] == 1).all() and each[~still].mean() < 0.3
    assert found["samples"] == 40 and found["rouge_l"] == pytest.approx(each.mean())
