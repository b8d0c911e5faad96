"""benchmarks/frames.py: what is true of a series if only some frames are shown, and who wins."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import drawn

from vlm_utils import tiny_earth
from vlm_utils.datasets import Truth
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import REPOSITORY, data_folder, get_profile
from vlm_utils.training import encode_table

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture
def frames(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import frames
    return frames


@pytest.fixture(scope="module")
def series():
    """Six places of 16 frames and one of 8, drawn."""
    rng, scenes, sites = np.random.default_rng(0), [], []
    for length in (16, 16, 16, 8, 16, 16, 16):
        sites.append(tuple(range(len(scenes), len(scenes) + length)))
        scenes += tiny_earth.sample_sequence(rng, length)
    return drawn(Truth(scenes, [tiny_earth.captions(scene) for scene in scenes], sites))


# --- what is asked -----------------------------------------------------------------------------

COMES_AND_GOES = "A fire appears in the top left in <image_7> and disappears in <image_9>."


@pytest.mark.parametrize(("chosen", "expected"), [
    (range(16), "in <image_7> and disappears in <image_9>."),
    ([2, 6, 10, 14], "in <image_2> and disappears in <image_3>."),  # frame 7 is shown, 9 is not
    ([1, 3, 5, 7, 9, 11, 13, 15], "in <image_4> and disappears in <image_5>."),
    ([2, 8], "in <image_2> and disappears in <image_2>."),          # the fire is never seen
    ([2, 5], "in <image_3> and disappears in <image_3>."),          # both come after the last
    ([8], "in <image_1> and disappears in <image_1>.")])
def test_an_image_is_named_as_the_first_shown_one_at_or_after_it(frames, chosen, expected):
    told = frames.in_shown_names(COMES_AND_GOES, list(chosen))
    assert told == f"A fire appears in the top left {expected}"


def test_an_answer_that_names_no_image_stays(frames):
    assert frames.in_shown_names("The lake in the top left grows.", [8]) == \
        "The lake in the top left grows."


def test_every_place_of_16_frames_is_asked_about_in_both_directions(frames, series):
    questions = frames.whole_series(series)
    assert len(questions) == 12 and len({q.rows for q in questions}) == 12
    assert {len(q.rows) for q in questions} == {16}
    assert {tuple(sorted(q.rows)) for q in questions} == set(series.truth.sites) - {
        series.truth.sites[3]}
    for question in questions:
        scenes = [series.truth.scenes[row] for row in question.rows]
        assert question.answer == tiny_earth.describe_sequence(scenes)


def test_a_table_without_long_series_is_refused_by_its_name(frames, series):
    short = drawn(Truth(series.truth.scenes[48:56], [[]] * 8, [tuple(range(8))]))
    with pytest.raises(ValueError, match="no place with 16 frames"):
        frames.whole_series(short)


@pytest.mark.parametrize(("count", "shown"), [
    (1, [8]), (2, [4, 12]), (4, [2, 6, 10, 14]), (16, list(range(16)))])
def test_frames_are_shown_at_the_centres_of_equal_segments(frames, series, count, shown):
    questions = frames.whole_series(series)
    for recipe, question in zip(frames.shown_frames(questions, count), questions, strict=True):
        assert recipe.rows == tuple(question.rows[k] for k in shown)
        assert recipe.prompt.count("<image>") == count


def test_the_truth_is_that_of_the_whole_series_and_not_of_what_is_shown(frames, series):
    """A trap: the truth about the shown frames alone can always be told, so few would do."""
    questions = frames.whole_series(series)
    shares = [frames.answered_by(frames.shown_frames(questions, count), series)
              for count in frames.FRAMES]
    assert shares[-1] == 1 and shares[0] < shares[3] < 1
    still = sum(q.answer == "Nothing changes." for q in questions)
    assert shares[0] == still / len(questions)


def test_the_commonest_answer_is_counted(frames, series):
    recipes = frames.shown_frames(frames.whole_series(series), 16)
    most = max(sum(a.answer == b.answer for b in recipes) for a in recipes)
    assert frames.commonest(recipes) == most / len(recipes)


def test_a_model_that_describes_what_it_sees_is_as_good_as_what_it_sees(
        frames, series, monkeypatch, model, processor):
    """The model's place is taken by the truth about the shown frames."""
    def all_seeing(model, processor, dataset):
        scenes = dataset.table.truth.scenes
        return pd.DataFrame({
            "answer": [r.answer for r in dataset.recipes],
            "prediction": [tiny_earth.describe_sequence([scenes[row] for row in r.rows])
                           for r in dataset.recipes]})

    monkeypatch.setattr(frames, "predict", all_seeing)
    _, names = load_checkpoint(data_folder() / get_profile("tiny").trained_model)
    table = frames.measure(model, names, series)
    assert table["num_images"].tolist() == list(frames.FRAMES)
    assert table["accuracy"].tolist() == table["shown"].tolist()
    assert table["prompt_tokens"].is_monotonic_increasing


# --- the models --------------------------------------------------------------------------------

def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_models_differ_in_their_tokens_per_frame_and_projector_only(frames):
    trained, _ = load_checkpoint(data_folder() / get_profile("tiny").trained_model)
    assert list(frames.MERGE_FACTORS) == [1, 4, 16]
    for tokens in frames.MERGE_FACTORS:
        model, processor = frames.make_start(tokens, seed=0)
        assert processor.tokens_per_image == model.config.tokens_per_image == tokens
        ids = processor.encode_prompt("<image><image>What happens over time?", 2)
        assert ids.count(processor.image_token_id) == 2 * tokens
        for part in ("vision_encoder", "language_model"):
            assert torch.equal(weights(getattr(model, part)), weights(getattr(trained, part)))
        assert not any(p.requires_grad for p in model.vision_encoder.parameters())
        again, other = (frames.make_start(tokens, seed)[0].projector for seed in (0, 1))
        assert torch.equal(weights(again), weights(model.projector))
        assert not torch.equal(weights(other), weights(model.projector))


def test_a_model_is_trained_and_measured(frames, series, monkeypatch):
    """Two steps of each training on few places."""
    model, processor = frames.make_start(4, seed=0)
    series.image_features = encode_table(series, model, processor)
    monkeypatch.setattr(frames, "encoded", lambda split: series)
    monkeypatch.setattr(frames, "FRAMES", (1, 2, 16))
    table = frames.train_and_measure(1, 3, {frames.CAPTIONS: 2, frames.SERIES: 2}, "test")
    assert table["num_images"].tolist() == [1, 2, 16] and (table["samples"] == 12).all()
    assert table["accuracy"].between(0, 1).all() and (table["seed"] == 3).all()


def test_the_encoded_images_are_the_same_for_all_models(frames):
    """Encoding happens before patches are merged, so it need not be done again."""
    assert len({frames.make_start(tokens, 0)[0].config.patches_per_image
                for tokens in frames.MERGE_FACTORS}) == 1


# --- the table ---------------------------------------------------------------------------------

def measured(frames, tokens: int, seed: int, accuracies: dict[int, float]) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "sequence", "num_images": count, "samples": 166, "accuracy": accuracies[count],
         "shown": 0.9, "prior": 0.1, "prompt_tokens": count * (tokens + 1) + 6, "seed": seed}
        for count in frames.FRAMES])


def flat(frames, tokens: int, value: float, spread: float = 0.0) -> list[pd.DataFrame]:
    return [measured(frames, tokens, seed, dict.fromkeys(frames.FRAMES, value + step * spread))
            for seed, step in enumerate((-1, 0, 1))]


def test_the_table_has_means_intervals_and_every_seed(frames):
    table = frames.tabulate({1: flat(frames, 1, 0.5, 0.02), 4: flat(frames, 4, 0.8)})
    assert table["tokens"].tolist() == 8 * [1] + 8 * [4]
    assert (table["image_tokens"] == table["tokens"] * table["frames"]).all()
    row = table[(table["tokens"] == 1) & (table["frames"] == 16)].iloc[0]
    assert row.accuracy == pytest.approx(0.5) and row.low < 0.45 and row.high > 0.55
    assert row.seeds == [0.48, 0.5, 0.52] and row.prompt_tokens == 38
    assert len(frames.draw(table).axes) == 2


def test_a_budget_gives_each_model_as_many_frames_as_fit(frames):
    table = frames.tabulate({t: flat(frames, t, 0.5) for t in frames.MERGE_FACTORS})
    found = {budget: [row["frames"] for row in frames.at_budget(table, budget)]
             for budget in frames.BUDGETS}
    assert found == {4: [4, 1], 8: [8, 2],              # one frame of 16 tokens does not fit
                     16: [16, 4, 1], 32: [16, 8, 2], 64: [16, 16, 4], 128: [16, 16, 8]}


def test_what_the_interval_or_a_seed_contradicts_is_not_above(frames):
    def above(second: list[pd.DataFrame]) -> list[list[int]]:
        table = frames.tabulate({1: flat(frames, 1, 0.5, 0.05), 4: second})
        return [row["above"] for row in frames.at_budget(table, 64)]
    assert above(flat(frames, 4, 0.7)) == [[], [1]]
    assert above(flat(frames, 4, 0.3)) == [[4], []]
    assert above(flat(frames, 4, 0.55)) == [[], []]                 # within the interval
    assert above(flat(frames, 4, 0.7, 0.16)) == [[], []]            # one seed is below another


# --- the command -------------------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "1,2"], "'2' is none of 1, 4, 16"),
    (["--only", "many"], "'many' is none of 1, 4, 16"),
    (["--seeds", "0"], "--seeds: a whole number of at least 1, not '0'"),
    (["--series", "-3"], "--series: a whole number of at least 1, not '-3'"),
    (["--output", "nowhere/a.json"], "--output: there is no folder nowhere")])
def test_a_wrong_argument_is_refused_and_what_is_allowed_is_named(
        frames, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["frames.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        frames.main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_command_trains_every_model_with_every_seed_and_reports(
        frames, monkeypatch, capsys, tmp_path):
    """All but the trainings, in whose place stand made up accuracies."""
    asked = []

    def pretend(tokens, seed, steps, split):
        asked.append((tokens, seed, steps, split))
        return flat(frames, tokens, 0.3 if tokens == 1 else 0.8)[1].assign(seed=seed)

    monkeypatch.setattr(frames, "train_and_measure", pretend)
    monkeypatch.setenv("VLM_OUTPUT", str(tmp_path))
    monkeypatch.setattr("sys.argv", [
        "frames.py", "--only", "1,16", "--seeds", "2", "--captions", "7", "--series", "9",
        "--split", "validation", "--output", str(tmp_path / "frames.json")])
    frames.main()
    steps = {"describe 1": 7, "sequence 1-16": 9}
    assert asked == [(tokens, seed, steps, "validation") for seed in (0, 1) for tokens in (1, 16)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 tokens per frame, seed 0, ")
    report = json.loads(lines[-1])
    assert report["settings"] == {"seeds": 2, "captions": 7, "series": 9, "split": "validation",
                                  "only": [1, 16]}
    assert report["training"]["describe 1"]["steps"] == 7
    assert len(report["rows"]) == 2 * len(frames.FRAMES)
    assert [row["above"] for row in report["budgets"] if row["budget"] >= 16] == 4 * [[], [1]]
    assert (tmp_path / "benchmarks" / "frames.png").is_file()
    assert (tmp_path / "frames.json").read_text() == lines[-1] + "\n"


def test_the_stored_table_is_one_that_the_command_writes(frames):
    """And its judgements follow from its rows."""
    stored = json.loads((FOLDER / "frames.json").read_text())
    table = pd.DataFrame(stored["rows"])
    assert stored["settings"]["split"] == "test" and stored["settings"]["seeds"] >= 3
    assert set(zip(table["tokens"], table["frames"], strict=True)) == {
        (tokens, count) for tokens in frames.MERGE_FACTORS for count in frames.FRAMES}
    assert (table["seeds"].map(len) == stored["settings"]["seeds"]).all()
    budgets = [row for budget in frames.BUDGETS for row in frames.at_budget(table, budget)]
    assert [row["above"] for row in budgets] == [row["above"] for row in stored["budgets"]]
