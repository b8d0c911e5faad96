"""How long reading 16 frames of a video takes, and how much memory, as the video grows.

    python benchmarks/video.py

Clips of 30 frames a second are made for it: ten seconds are encoded once and their packets are
written again and again, so that an hour is made in seconds. Each clip is read in a process of its
own, several times.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

from vlm_utils.course.peak import MEGABYTE, PeakMemory
from vlm_utils.sources.frames import read_frames

RATE, SECONDS = 30, 10                          # frames a second; of the part that is repeated
REPOSITORY = Path(__file__).resolve().parents[1]


def write_clip(path: Path, minutes: float, size: tuple[int, int], keyframes: int,
               codec: str = "libx264") -> None:
    """A clip of a landscape that passes by; keyframes: frames from one key frame to the next."""
    packets, template, held = encoded_part(size, keyframes, codec)
    with held, av.open(str(path), "w") as clip:
        stream = clip.add_stream_from_template(template)
        for turn in range(round(minutes * 60 / SECONDS)):
            for data, pts, dts, is_keyframe in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts = pts + turn * RATE * SECONDS, dts + turn * RATE * SECONDS
                packet.time_base, packet.duration = Fraction(1, RATE), 1
                packet.is_keyframe, packet.stream = is_keyframe, stream
                clip.mux(packet)


def encoded_part(size: tuple[int, int], keyframes: int, codec: str):
    """(packets, a stream to copy the settings of, the container that holds it)."""
    width, height = size
    ground = np.random.default_rng(0).integers(0, 256, (height // 16, width // 8, 3), np.uint8)
    ground = ground.repeat(16, axis=0).repeat(16, axis=1)           # twice as wide as a frame
    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as part:
        stream = part.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = keyframes
        stream.options = {"preset": "fast", "sc_threshold": "0"}
        for number in range(RATE * SECONDS):
            left = 2 * number
            part.mux(stream.encode(av.VideoFrame.from_ndarray(
                np.ascontiguousarray(ground[:height, left:left + width]), format="rgb24")))
        part.mux(stream.encode(None))
    held.seek(0)
    container = av.open(held)
    template = container.streams.video[0]
    scale = template.time_base * RATE
    packets = [(bytes(packet), round(packet.pts * scale), round(packet.dts * scale),
                packet.is_keyframe) for packet in container.demux(template) if packet.size]
    return packets, template, container


def read(path: str, rounds: int) -> dict:
    """Seconds of each reading, on the clock and of one core, and the most memory that this process
    had above its start, in MB."""
    before, seconds, of_core = psutil.Process().memory_info().rss / MEGABYTE, [], []
    for _ in range(rounds):
        start, worked = time.perf_counter(), time.process_time()
        frames, _ = read_frames(path, 16)
        seconds.append(round(time.perf_counter() - start, 3))
        of_core.append(round(time.process_time() - worked, 3))
        assert len(frames) == 16
    peak = PeakMemory()
    peak.sample()
    return {"seconds": seconds, "core_seconds": of_core, "memory_mb": round(peak.highest - before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720])
    parser.add_argument("--keyframes", type=int, default=60, help="frames from one to the next")
    parser.add_argument("--container", default="mp4", choices=("mp4", "mov", "mkv"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read, options.rounds)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            path = Path(folder) / f"{minutes:g}.{options.container}"
            write_clip(path, minutes, tuple(options.size), options.keyframes)
            done = subprocess.run(
                [sys.executable, __file__, "--read", str(path), "--rounds",
                 str(options.rounds)], capture_output=True, text=True, check=True,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
            found = {"minutes": minutes, "file_mb": round(path.stat().st_size / 1e6, 1),
                     **json.loads(done.stdout.splitlines()[-1])}
            print(f"{minutes:g} minutes ({found['file_mb']} MB): {min(found['seconds'])} to "
                  f"{max(found['seconds'])} s, {max(found['core_seconds'])} s of a core, "
                  f"{found['memory_mb']} MB", flush=True)
            results.append(found)
    print(json.dumps({"benchmark": "video", "frames": 16, "size": options.size,
                      "keyframes": options.keyframes, "container": options.container,
                      "results": results}))


if __name__ == "__main__":
    main()
