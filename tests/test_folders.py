"""Folders that appear as one: the disk's journal replayed, two writers, damaged files."""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vlm_utils.sources import checkpoints, folders
from vlm_utils.sources.checkpoints import MARKER, find_checkpoints, find_finished, new_checkpoint
from vlm_utils.sources.folders import DamagedFiles, FolderInUse, beside, hold

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads inodes and /proc as on Linux")


def save(folder: Path, steps: int, of: int = 12, run: str = "a", words: str = "weights") -> None:
    """A checkpoint of a few bytes."""
    with new_checkpoint(folder, {"steps": steps, "of": of, "run": run}) as fresh:
        (fresh / "model.safetensors").write_text(f"{words} after {steps} steps")
        (fresh / "config.json").write_text("{}")
        (fresh / "inner").mkdir()
        (fresh / "inner" / "more.txt").write_text("more")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the order of what is brought to the disk --------------------------------------------------

class Journal:
    """Records what a program does to a folder, and shows what a power cut would leave of it.

    Content is on the disk once its file has been synced; a name, once the folder that it stands in
    has been. `images()` gives, for the moment before and after each call, what four disks hold:
    one that keeps only what was synced, one that keeps names but no content ("zero bytes"), one
    that keeps everything, and one that keeps, as journals do, all names up to some moment after
    the last sync and of each unsynced file whatever it likes.
    """

    CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove")

    def __init__(self, root: Path, monkeypatch, seed: int = 0):
        self.root, self.rng = root, random.Random(seed)
        self.pinned: dict[tuple, int] = {}      # open, so that no number is given out twice
        self.content: dict[int, bytes] = {}     # of each file that was synced
        self.names: dict[int, dict] = {}        # of each folder that was synced
        self.trees: list[dict] = []             # all names since the last sync
        self.points: list[list[dict]] = []      # images, as {path: content, or None for a folder}
        self.expected: list[tuple[int, bool]] = []
        self.saved = (0, False)                 # saves that have returned; was one finished?
        self._record(synced=True)
        for call in self.CALLS:
            monkeypatch.setattr(os, call, self._watch(call, getattr(os, call)))

    def _watch(self, call, original):
        def watched(*arguments, **options):
            self._record()
            result = original(*arguments, **options)
            if call == "fsync":
                self._sync(os.fstat(arguments[0]).st_ino)
            self._record()
            return result
        return watched

    def _scan(self) -> dict:
        """{path: (inode, content or None)} of everything under the root, which is ""."""
        found = {"": (self.root.stat().st_ino, None)}
        for path in sorted(self.root.rglob("*")):
            inode = path.stat().st_ino
            if inode not in self.pinned:
                self.pinned[inode] = os.open(path, os.O_RDONLY)
            found[path.relative_to(self.root).as_posix()] = (
                inode, None if path.is_dir() else path.read_bytes())
        return found

    def _sync(self, inode: int) -> None:
        tree = self._scan()
        for path, (other, content) in tree.items():
            if other == inode and content is not None:
                self.content[inode] = content
            elif other == inode:
                self.names[inode] = children(tree, path)
        self.trees = []

    def _record(self, synced: bool = False) -> None:
        tree = self._scan()
        if synced:
            for path, (inode, content) in tree.items():
                if content is None:
                    self.names[inode] = children(tree, path)
                else:
                    self.content[inode] = content
        self.trees.append(tree)
        self.points.append([self._only_synced(), self._names_alone(tree), self._all(tree),
                            self._some()])
        self.expected.append(self.saved)

    def _only_synced(self) -> dict:
        image, waiting = {}, [("", self.root.stat().st_ino)]
        while waiting:
            above, inode = waiting.pop()
            for name, (inner, is_folder) in self.names.get(inode, {}).items():
                path = f"{above}/{name}".lstrip("/")
                image[path] = None if is_folder else self.content.get(inner, b"")
                if is_folder:
                    waiting.append((path, inner))
        return image

    def _names_alone(self, tree: dict) -> dict:
        return {path: None if content is None else self.content.get(inode, b"")
                for path, (inode, content) in tree.items()}

    def _all(self, tree: dict) -> dict:
        return {path: content for path, (_, content) in tree.items()}

    def _some(self) -> dict:
        image = {}
        for path, (inode, content) in self.rng.choice(self.trees).items():
            if content is not None and content != self.content.get(inode):
                content = self.rng.choice([b"", content[:len(content) // 2], bytes(len(content)),
                                           content, self.content.get(inode, b"")])
            image[path] = content
        return image

    def images(self):
        """Each image with what was saved by then."""
        for images, expected in zip(self.points, self.expected, strict=True):
            for image in images:
                yield image, expected

    def close(self) -> None:
        for descriptor in self.pinned.values():
            os.close(descriptor)


def children(tree: dict, above: str) -> dict:
    """{name: (inode, is it a folder)} of what stands directly in a folder of a tree."""
    return {Path(path).name: (inode, content is None) for path, (inode, content) in tree.items()
            if path and (Path(path).parent.as_posix() == (above or "."))}


def lay_out(image: dict, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path, content in sorted(image.items()):
        if content is None:
            (place / path).mkdir(exist_ok=True)
        else:
            (place / path).write_bytes(content)


def what_is_lost(journal: Journal, place: Path, monkeypatch) -> list[str]:
    """Of all images of a journal, those in which a checkpoint is missing or not whole."""
    monkeypatch.setattr(folders, "_sync", lambda path: None)    # what is recorded is recorded
    lost, seen = [], set()
    for number, (image, (saves, finished)) in enumerate(journal.images()):
        key = (tuple(sorted(image.items(), key=lambda item: item[0])), saves, finished)
        if key in seen:
            continue
        seen.add(key)
        try:
            lay_out(image, place)
            found = find_checkpoints(place / "run")
            for checkpoint in found[:1]:
                checkpoint.verify()
            assert not saves or found[0].facts["number"] >= saves, "the last checkpoint is gone"
            if finished:
                find_finished(place / "run").verify()
            with checkpoints.reserve(place / "run", 0, "another"):      # puts things right
                pass
            again = find_checkpoints(place / "run")
            assert [c.facts for c in again[:1]] == [c.facts for c in found[:1]], "lost in recovery"
            for checkpoint in again[:1]:
                checkpoint.verify()
            assert not finished or (place / "run" / MARKER).is_file(), "not back in its place"
        except (AssertionError, ValueError, AttributeError, OSError, IndexError) as error:
            lost.append(f"image {number}: {error}")
    return lost


SAVES = [  # steps, of, run: on the way, to the end, a shorter one after it, a longer one on the way
    (4, 12, "a"), (8, 12, "a"), (12, 12, "a"), (4, 12, "b"), (12, 12, "b"), (6, 6, "c"),
    (3, 20, "d"), (9, 20, "d")]


def record_saves(place: Path, monkeypatch, saves) -> Journal:
    place.mkdir()
    with monkeypatch.context() as patch:
        journal = Journal(place, patch)
        for number, (steps, of, run) in enumerate(saves, start=1):
            save(place / "run", steps, of, run)
            journal.saved = (number, journal.saved[1] or steps == of)
    journal.close()
    return journal


@on_linux
def test_after_a_power_cut_at_any_moment_one_whole_checkpoint_is_there(tmp_path, monkeypatch):
    journal = record_saves(tmp_path / "disk", monkeypatch, SAVES)
    assert len(journal.points) >= 300
    assert what_is_lost(journal, tmp_path / "image", monkeypatch) == []


@on_linux
def test_the_journal_finds_what_is_lost_without_syncing(tmp_path, monkeypatch):
    """The naive way: write and rename. The test above sees that it loses checkpoints."""
    monkeypatch.setattr(folders, "_sync", lambda path: None)
    journal = record_saves(tmp_path / "disk", monkeypatch, SAVES[:3])
    assert len(what_is_lost(journal, tmp_path / "image", monkeypatch)) > 20


@on_linux
def test_the_journal_finds_what_is_lost_if_only_files_are_synced(tmp_path, monkeypatch):
    original = folders._sync
    monkeypatch.setattr(folders, "_sync",
                        lambda path: None if path.is_dir() else original(path))
    journal = record_saves(tmp_path / "disk", monkeypatch, SAVES[:3])
    assert what_is_lost(journal, tmp_path / "image", monkeypatch) != []


# --- one writer, many readers ------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from vlm_utils.sources.folders import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held_elsewhere(tmp_path):
    """A folder that another process is writing to, and that process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, cwd=Path(folders.__file__).parents[2])
    assert process.stdout.readline() == "held\n"
    yield tmp_path / "run", process
    process.kill()
    process.wait()


def test_a_second_writer_is_refused_at_once_and_told_who_the_first_is(held_elsewhere):
    folder, process = held_elsewhere
    with pytest.raises(FolderInUse, match=rf"run is being written by process {process.pid} \("):
        save(folder, 12)
    assert not folder.exists()


def test_the_lock_of_a_killed_process_is_taken_over(held_elsewhere):
    folder, process = held_elsewhere
    process.kill()
    process.wait()
    assert beside(folder).exists()              # what it left does not keep others out
    save(folder, 12)
    assert names(folder.parent) == {"run"}


def test_a_thread_may_hold_twice_and_another_thread_may_not(tmp_path):
    refused = []

    def second():
        try:
            save(tmp_path / "run", 12)
        except FolderInUse as error:
            refused.append(str(error))

    with hold(tmp_path / "run"):
        save(tmp_path / "run", 4)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1 and f"process {os.getpid()}" in refused[0]
    save(tmp_path / "run", 12)
    assert names(tmp_path) == {"run"}


def test_who_waits_gets_the_folder_when_the_other_is_done(held_elsewhere, capsys):
    folder, process = held_elsewhere
    threading.Timer(0.3, process.stdin.close).start()
    with hold(folder, wait=True):
        assert process.wait() == 0
    assert f"waiting for process {process.pid}" in capsys.readouterr().out


def test_reading_while_a_training_writes_never_fails_and_never_moves_anything(tmp_path,
                                                                              monkeypatch):
    """The naive reader "repairs" what it takes for a crash, in the middle of the two renames."""
    folder, done, read, errors = tmp_path / "run", threading.Event(), [], []
    save(folder, 12, words="first")
    writer = threading.get_ident()

    def only_the_writer(original):
        def watched(*arguments, **options):
            if threading.get_ident() != writer:
                errors.append("a reader changed something")
            return original(*arguments, **options)
        return watched

    for call in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, call, only_the_writer(getattr(os, call)))

    def content(found):
        found.verify()
        return (found.path / "model.safetensors").read_text()

    def reader():
        while not done.is_set():
            try:
                read.append(checkpoints.read_unchanged(lambda: find_finished(folder), content))
            except Exception as error:
                errors.append(repr(error))

    thread = threading.Thread(target=reader)
    thread.start()
    for i in range(40):
        save(folder, 12, run=f"run {i}", words=f"text {i}")
    done.set()
    thread.join()
    assert errors == []
    assert read and all(text.endswith("after 12 steps") for text in read)


# --- markers and damage ------------------------------------------------------------------------

@pytest.fixture
def sealed(tmp_path) -> Path:
    save(tmp_path / "run", 12)
    return tmp_path / "run"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "shorter":
        path.write_bytes(content[:-1])
    elif how == "longer":
        path.write_bytes(content + b" ")
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:])


@pytest.mark.parametrize("how", ["missing", "empty", "shorter", "longer", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "inner/more.txt"])
def test_a_damaged_file_is_named(sealed, name, how):
    damage(sealed / name, how)
    with pytest.raises(DamagedFiles, match=f"{name}.* damaged: take another one, or move it away"):
        find_finished(sealed).verify()


@pytest.mark.parametrize("how", ["empty", "shorter", "flipped"])
def test_a_damaged_marker_is_named(sealed, how):
    content = (sealed / MARKER).read_bytes()
    damage(sealed / MARKER, how)
    if how == "shorter":
        (sealed / MARKER).write_bytes(content[:-9])
    with pytest.raises(DamagedFiles, match="checkpoint.json"):
        find_checkpoints(sealed)


def test_any_byte_of_the_marker_that_flips_is_noticed(sealed):
    content = (sealed / MARKER).read_bytes()
    for position in range(len(content)):
        changed = bytes([content[position] ^ 0x15])
        (sealed / MARKER).write_bytes(content[:position] + changed + content[position + 1:])
        try:
            found = find_checkpoints(sealed)
        except DamagedFiles:
            continue
        # White space between words of JSON means nothing.
        assert not content[position:position + 1].strip() or not changed.strip()
        assert [c.steps for c in found] == [12]


def test_the_checkpoint_of_another_program_is_not_ours(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MARKER).write_text('{"epoch": 3}')
    assert find_checkpoints(tmp_path / "run") == []
    with pytest.raises(ValueError, match=f"holds {MARKER}, which no training wrote"):
        checkpoints.check_place(tmp_path / "run", 0)


def test_a_block_that_fails_changes_nothing(sealed):
    before = {path: path.read_bytes() for path in sealed.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match="no space"):
        with new_checkpoint(sealed, {"steps": 12, "of": 12, "run": "b"}) as fresh:
            (fresh / "config.json").write_text("half")
            raise OSError("no space left on device")
    assert names(sealed.parent) == {"run"}
    assert {p: p.read_bytes() for p in sealed.rglob("*") if p.is_file()} == before


# --- what belongs to others --------------------------------------------------------------------

def test_names_of_the_user_beside_a_checkpoint_are_safe(tmp_path):
    """The naive names FOLDER.old and FOLDER.new have met a user's folders."""
    theirs = ("run.old", "run.new", "run.tmp", "run.3-steps")
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("four years")
    for run, steps in (("a", 12), ("b", 3)):
        save(tmp_path / "run", steps, steps, run)
    assert names(tmp_path) == {"run", "run.12-steps", *theirs}
    for name in theirs:
        assert (tmp_path / name / "thesis.tex").read_text() == "four years"


def test_a_folder_of_the_user_with_the_name_of_ours_is_refused(tmp_path):
    (tmp_path / "run.unfinished").mkdir()
    (tmp_path / "run.unfinished" / "thesis.tex").write_text("four years")
    with pytest.raises(FileExistsError, match="run.unfinished .* holds something else"):
        save(tmp_path / "run", 12)
    with pytest.raises(ValueError, match="run.unfinished is needed .* something else"):
        checkpoints.check_place(tmp_path / "run", 0)
    assert names(tmp_path / "run.unfinished") == {"thesis.tex"}


def test_what_was_put_into_the_folder_meanwhile_stays(sealed):
    """Between the first step and the last, somebody keeps notes in the old checkpoint."""
    (sealed / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match="stays in .*20-steps-2: .*it is not a checkpoint alone"):
        save(sealed, 20, 20)
    assert (sealed / "notes.txt").read_text() == "mine"
    assert find_finished(sealed).steps == 20                    # it is found all the same
    (sealed / "notes.txt").unlink()
    with checkpoints.reserve(sealed, 0, "another"):
        pass
    assert find_finished(sealed).path == sealed and names(sealed.parent) == {"run"}


def test_what_file_managers_leave_is_nobodys(sealed):
    (sealed / ".DS_Store").write_bytes(b"x")
    checkpoints.check_place(sealed, 0)
    save(sealed, 12, run="b")
    assert names(sealed.parent) == {"run"}


def test_a_link_in_the_place_of_a_checkpoint_is_never_followed(sealed, tmp_path):
    """Made while a training runs: what it leads to is not ours to delete."""
    elsewhere = tmp_path / "elsewhere"
    sealed.rename(elsewhere)
    (tmp_path / "run").symlink_to(elsewhere, target_is_directory=True)
    with pytest.warns(UserWarning, match="cannot be replaced"):
        save(tmp_path / "run", 20, 20)
    assert find_finished(elsewhere).steps == 12


# --- longer and shorter trainings --------------------------------------------------------------

def test_a_longer_training_is_kept_beside_a_shorter_one_and_the_shorter_says_so(tmp_path, capsys):
    for run, steps in (("a", 20), ("b", 5), ("c", 20), ("d", 5)):
        save(tmp_path / "run", steps, steps, run)
    assert names(tmp_path) == {"run", "run.20-steps", "run.20-steps-2"}
    assert find_finished(tmp_path / "run").facts["run"] == "d"
    assert find_finished(tmp_path / "run.20-steps").facts["run"] == "a"
    assert capsys.readouterr().out.splitlines() == [
        "run held a training of 20 steps, more than these 5: it is kept as run.20-steps",
        "run held a training of 20 steps, more than these 5: it is kept as run.20-steps-2"]


def test_an_interrupted_training_goes_when_another_has_come_as_far(tmp_path, capsys):
    save(tmp_path / "run", 300, 3000, "a")
    with checkpoints.reserve(tmp_path / "run", 0, "b"):
        save(tmp_path / "run", 100, 3000, "b")
    assert "an earlier training, 300 of 3000 steps, stays in" in capsys.readouterr().out
    found = find_checkpoints(tmp_path / "run")
    assert [(c.facts["run"], c.steps) for c in found] == [("b", 100), ("a", 300)]
    save(tmp_path / "run", 200, 3000, "b")
    assert [c.steps for c in find_checkpoints(tmp_path / "run")] == [200, 300]
    save(tmp_path / "run", 300, 3000, "b")
    assert [c.facts["run"] for c in find_checkpoints(tmp_path / "run")] == ["b"]


def test_an_older_program_that_goes_on_with_the_same_run_takes_nothing_from_a_newer_one(tmp_path):
    """A notebook still holds the run as it was after 5 steps; another one has brought it to 290."""
    save(tmp_path / "run", 5, 300)
    save(tmp_path / "run", 290, 300)
    save(tmp_path / "run", 50, 300)
    assert [c.steps for c in find_checkpoints(tmp_path / "run")] == [50, 290]


def test_an_interrupted_training_does_not_touch_a_finished_one(sealed):
    before = (sealed / MARKER).read_bytes()
    save(sealed, 100, 3000, "b")
    assert (sealed / MARKER).read_bytes() == before
    assert find_finished(sealed).steps == 12
    assert checkpoints.find_interrupted(sealed).steps == 100
