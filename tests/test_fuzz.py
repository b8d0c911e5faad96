"""The fuzz of `fuzz_inputs.py`: 500 of its cases, and that it finds what it looks for."""

import sys

import fuzz_inputs
import numpy as np
import pytest
from fuzz_inputs import KINDS, fuzz, judge, mutate, mutate_json, run_case, watch

from vlm_utils.sources.folders import DamagedFiles
from vlm_utils.sources.images import UnreadableImage


def test_five_hundred_mutated_inputs_end_in_the_projects_own_errors(capsys):
    """Each kind both reads and refuses: else the mutations change too much, or nothing."""
    table = fuzz(500, seed=0, kinds=KINDS)
    assert "FAULT" not in capsys.readouterr().out
    for kind, counts in table.items():
        assert set(counts) == {"read", "refused"} and min(counts.values()) >= 5, (kind, counts)
    assert sum(sum(counts.values()) for counts in table.values()) == 500


# --- the watch -----------------------------------------------------------------------------------

WORKER = """
import json, os, sys, time
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    print(json.dumps({"start": number}), flush=True)
    if number == 2:
        time.sleep(600)
    if number == 4:
        held = bytearray(os.urandom(1 << 20) * 300)
        time.sleep(600)
    if number == 6:
        os._exit(11)
    print(json.dumps({"end": number, "outcome": "read"}), flush=True)
"""


def test_a_case_that_hangs_grows_or_dies_is_a_fault_and_the_next_ones_are_read():
    found = list(watch([sys.executable, "-c", WORKER], 0, 8, seconds=2, most=200_000_000))
    assert [number for number, _ in found] == list(range(8))
    outcomes = dict(found)
    assert [outcomes[n] for n in (0, 1, 3, 5, 7)] == ["read"] * 5
    assert outcomes[2].startswith("FAULT: no answer for ")
    assert outcomes[4].startswith("FAULT: ") and outcomes[4].endswith("MB of memory")
    assert outcomes[6] == "FAULT: the process ended (11)"


def test_a_worker_that_does_not_start_is_not_taken_for_success():
    with pytest.raises(RuntimeError, match="did nothing .3.: .*no such thing"):
        list(watch([sys.executable, "-c", "import sys; sys.stderr.write('no such thing'); "
                    "sys.exit(3)"], 0, 8))


# --- the judge and the mutations -----------------------------------------------------------------

@pytest.mark.parametrize(("error", "word"), [
    (ValueError("case.png: is damaged"), "refused"), (UnreadableImage("case.png: x"), "refused"),
    (FileNotFoundError("no model in case.png"), "refused"), (DamagedFiles("case.png"), "refused"),
    (ValueError("is damaged"), "FAULT"), (KeyError("case.png"), "FAULT"),
    (UnicodeDecodeError("utf-8", b"case.png", 0, 1, "case.png"), "FAULT"),
    (OSError("case.png"), "FAULT"), (MemoryError("case.png"), "FAULT")])
def test_only_the_projects_errors_that_name_a_file_pass(error, word):
    assert judge(error, ["case.png"]).startswith(word)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_another_is_found_in_every_kind(kind, tmp_path, monkeypatch):
    def broken(rng, folder):
        (folder / "case.png").write_bytes(b"")
        return {}["case.png"].read
    monkeypatch.setitem(fuzz_inputs.CASES, kind, lambda rng, folder: lambda: broken(rng, folder))
    assert run_case(0, 1, [kind], tmp_path) == "FAULT: an error of another's: KeyError: 'case.png'"


def test_a_case_depends_on_its_number_and_the_seed_alone(tmp_path):
    def files(seed, number, name):
        folder = tmp_path / name
        folder.mkdir()
        run_case(seed, number, KINDS, folder)
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")
                if path.is_file()}
    first = files(3, 7, "a")
    assert files(3, 7, "b") == first
    assert files(4, 7, "c") != first and files(3, 17, "d") != first


def test_mutations_change_something_most_of_the_time():
    rng = np.random.default_rng(0)
    content, text = bytes(range(256)) * 4, '{"a": [1, {"b": "c"}], "d": {"e": 2}}'
    assert sum(mutate(content, rng, content) != content for _ in range(200)) > 180
    changed = {mutate_json(text, rng) for _ in range(200)}
    assert len(changed) > 60 and any('"e"' not in one for one in changed)
