"""Cut the power at every write of a disk, and see that a whole checkpoint is there each time.

    sudo python tests/power_cut.py                  (about two minutes; Linux, as root)
    sudo python tests/power_cut.py --options data=writeback
    sudo python tests/power_cut.py --naive          (without syncing: shows that losses are found)

A small file system lies on a disk that keeps a log of all writes and flushes (a loop device over a
FUSE file that this program serves). Small trainings run on it: to the end, again and shorter, and
one that is interrupted. Then the disk is rebuilt as a power cut would leave it after each part of
the log: with all writes so far, and with those before the last flush and a random part of what
the disk still had in its cache. Each is mounted and looked at. The exit status is 1 if anything is
lost.
"""

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from vlm_utils.sources import checkpoints, folders
from vlm_utils.sources.checkpoints import find_checkpoints, find_finished

MEGABYTES = 64
TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
from transformers.utils.logging import disable_progress_bar
from small_runs import SETTINGS, interrupt_after, losses_of, resumed_losses, small_run
from vlm_utils.sources import folders
from vlm_utils.training import checkpoints, loop

if sys.argv[2] == "naive":
    folders._sync = lambda path: None
disable_progress_bar()
folder, saves, original = Path(sys.argv[1]) / "run", 0, loop.save_checkpoint

def save(folder, run):
    global saves
    original(folder, run)
    saves += 1
    finished = len(run.history) == run.settings.steps
    print(f"saved {saves} {int(finished)}", file=sys.stderr, flush=True)
    sys.stdin.readline()                    # until it is written down in the log

loop.save_checkpoint = save
losses_of(small_run(SETTINGS), folder)
losses_of(small_run(SETTINGS), folder, interrupt_after(6))
resumed_losses(folder)
losses_of(small_run(replace(SETTINGS, steps=3)), folder)
losses_of(small_run(SETTINGS), folder, interrupt_after(2))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="ext4", help="of file system, as mkfs.KIND makes it")
    parser.add_argument("--options", default="", help="of mount, as data=writeback")
    parser.add_argument("--points", type=int, default=250, help="in the log, at most")
    parser.add_argument("--naive", action="store_true", help="without syncing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.options = ",".join(filter(None, ["nodiscard" * (options.kind == "ext4"),
                                             options.options])) or "defaults"
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        image = place / "image"
        image.write_bytes(bytes(MEGABYTES << 20))
        subprocess.run([f"mkfs.{options.kind}", "-q", str(image)], check=True)
        before = image.read_bytes()
        log = record(before, place, options)
        lost, points, images = replay(before, log, place, options)
    for line in lost[:20]:
        print("  " + line)
    writes = sum(entry[0] == "write" for entry in log)
    print(f"{options.kind} ({options.options}): {writes} writes, "
          f"{sum(entry[0] == 'flush' for entry in log)} flushes, "
          f"{sum(entry[0] == 'saved' for entry in log)} saves; cut at {points} points, "
          f"{images} disks: a whole checkpoint in {images - len(lost)}")
    sys.exit(bool(lost))


def record(before: bytes, place: Path, options) -> list[tuple]:
    """Train on a disk that starts with these bytes: ("write", offset, bytes), ("flush",) and
    ("saved", number, was one finished?) as they happened."""
    fuse, mounted = place / "fuse", place / "mounted"
    fuse.mkdir()
    mounted.mkdir()
    disk = LoggedDisk(before, fuse)
    with contextlib.ExitStack() as stack:
        stack.callback(run, "umount", fuse)
        loop = run("losetup", "--find", "--show", fuse / "disk").strip()
        stack.callback(run, "losetup", "--detach", loop)
        run("mount", "-o", options.options, loop, mounted)
        stack.callback(run, "umount", mounted)
        tests = Path(__file__).resolve().parent
        child = subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(mounted), "naive" if options.naive else "synced"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1",
                              "TQDM_DISABLE": "1"})
        said, finished = [], False
        for line in child.stderr:
            said.append(line)
            if line.startswith("saved "):
                number, is_last = map(int, line.split()[1:])
                finished = finished or bool(is_last)
                disk.log.append(("saved", number, finished))
                child.stdin.write("\n")
                child.stdin.flush()
        if child.wait():
            raise RuntimeError("".join(said))
        log = list(disk.log)                # before it is taken off in good order
    return log


def replay(before: bytes, log: list[tuple], place: Path, options) -> tuple[list[str], int, int]:
    """What is lost, and how often it was looked: (sentences, points, disks)."""
    rng = random.Random(options.seed)
    ends = [i for i, entry in enumerate(log) if entry[0] != "saved"]
    chosen = set(rng.sample(ends, min(options.points, len(ends))))
    flushed, cached, saved, lost, images = bytearray(before), [], (0, False), [], 0
    for i, entry in enumerate(log):
        if entry[0] == "write":
            cached.append(entry[1:])
        elif entry[0] == "flush":
            apply(flushed, cached)
            cached = []
        else:
            saved = entry[1:]
        if i in chosen:
            kept = [write for write in cached if rng.random() < 0.5]
            rng.shuffle(kept)
            for name, writes in (("all", cached), ("some", kept)) if cached else (("all", []),):
                disk = bytearray(flushed)
                apply(disk, writes)
                images += 1
                if problem := look(disk, saved, place, options):
                    lost.append(f"after {i + 1} of {len(log)} entries, {name} of "
                                f"{len(cached)} cached writes, {saved[0]} saves: {problem}")
    return lost, len(chosen), images


def apply(disk: bytearray, writes: list[tuple[int, bytes]]) -> None:
    for offset, content in writes:
        disk[offset:offset + len(content)] = content


def look(disk: bytearray, saved: tuple[int, bool], place: Path, options) -> str | None:
    """Mount what is left and look for checkpoints: None if all is well."""
    shared = Path("/dev/shm")
    image = (shared if shared.is_dir() else place) / f"power_cut_{os.getpid()}"
    image.write_bytes(disk)
    try:
        run("mount", "-o", f"loop,{options.options}", image, place / "mounted")
        try:
            return whats_wrong(place / "mounted" / "run", *saved)
        finally:
            run("umount", place / "mounted")
    except subprocess.CalledProcessError as error:
        return f"cannot be mounted ({error.stderr})"
    finally:
        image.unlink()


def whats_wrong(folder: Path, saves: int, finished: bool) -> str | None:
    try:
        found = find_checkpoints(folder)
        for checkpoint in found:
            checkpoint.verify()
        if saves and (not found or found[0].facts["number"] < saves):
            return "the last checkpoint is gone"
        if finished and not find_finished(folder):
            return "the finished checkpoint is gone"
        with contextlib.redirect_stdout(None), checkpoints.reserve(folder, 0, "another"):
            pass
        if [c.facts for c in find_checkpoints(folder)][:1] != [c.facts for c in found][:1]:
            return "lost in recovery"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout


# --- a disk that keeps a log -------------------------------------------------------------------

class LoggedDisk:
    """One file, `disk`, in a folder: kept in memory, with a log of writes and flushes.

    Speaks the kernel's FUSE protocol (linux/fuse.h) itself: a file system of one file needs a dozen
    messages.
    """

    LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT = (
        1, 2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26)
    INTERRUPT, DESTROY, BATCH_FORGET = 36, 38, 42
    MOST = 1 << 17                          # bytes of one message

    def __init__(self, content: bytes, folder: Path):
        self.content, self.log = bytearray(content), []
        self.kernel = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        told = f"fd={self.kernel},rootmode=40000,user_id=0,group_id=0,max_read={self.MOST}"
        if libc.mount(b"disk", str(folder).encode(), b"fuse", 0, told.encode()):
            raise OSError(ctypes.get_errno(), "a FUSE file system cannot be mounted")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                message = os.read(self.kernel, self.MOST + (64 << 10))
            except OSError:                 # taken off
                return
            length, what, unique, node = struct.unpack_from("<IIQQ", message)
            answer = self._answer(what, node, message[40:length])
            if answer is None:
                continue
            error, body = answer
            os.write(self.kernel, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def _answer(self, what: int, node: int, body: bytes) -> tuple[int, bytes] | None:
        if what in (self.FORGET, self.BATCH_FORGET, self.INTERRUPT):
            return None
        if what == self.INIT:
            major, minor, ahead, _ = struct.unpack_from("<IIII", body)
            return 0, struct.pack("<IIIIHHIIHHI7I", 7, 31, ahead, 1 << 5, 16, 12, self.MOST, 1,
                                  self.MOST // 4096, 0, 0, *[0] * 7)
        if what == self.LOOKUP:
            if body.rstrip(b"\0") != b"disk":
                return 2, b""
            return 0, struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self._attributes(2)
        if what in (self.GETATTR, self.SETATTR):
            return 0, struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if what == self.OPEN:
            return 0, struct.pack("<QII", 0, 0, 0)
        if what == self.READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, bytes(self.content[offset:offset + size])
        if what == self.WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            content = body[40:40 + size]
            self.content[offset:offset + size] = content
            self.log.append(("write", offset, content))
            return 0, struct.pack("<II", size, 0)
        if what == self.FSYNC:
            self.log.append(("flush",))
        if what in (self.FSYNC, self.FLUSH, self.RELEASE, self.DESTROY):
            return 0, b""
        if what == self.STATFS:
            return 0, struct.pack("<5Q10I", *[1 << 20] * 5, 4096, 255, 4096, *[0] * 7)
        return 38, b""                      # ENOSYS: not needed

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o40755, 0) if node == 1 else (0o100600, len(self.content))
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1,
                           0, 0, 0, 4096, 0)


if __name__ == "__main__":
    if not shutil.which("losetup") or os.geteuid():
        sys.exit("needs Linux, losetup and root")
    folders._sync = lambda path: None       # of this process: it only looks
    main()
