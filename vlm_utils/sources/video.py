"""Video files by PyAV: the frames that appear at given times, reached by seeking.

Only presentation times are believed. Headers are wrong about the number of frames, the rate and
the duration as soon as the rate varies, and a cut file keeps the header of the whole one. So the
packets say when frames appear: reading them decodes nothing, and of a long video only a few around
each wanted moment are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from vlm_utils.sources.images import MAX_BYTES, UnreadableImage
from vlm_utils.sources.sampling import frame_times

SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}
MAX_PIXELS = 36_000_000             # of a frame: 8K. A decoder keeps up to 16 frames
# Nothing else is tried: a playlist that calls itself clip.mp4 would open other files, and pages.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
_SHORT = 2000                       # packets: a clip of fewer is listed, a longer one is probed
_SKIP = {"h264", "hevc"}            # codes in which many frames serve no other one
_LONE = 0.1                         # seconds that a frame stays if nothing says how long
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180,
          270: Image.Transpose.ROTATE_270}


class MissingPyAV(UnreadableImage, ImportError):
    """A video cannot be read as PyAV is not installed; the message says how to install it."""


class Video:
    """One video file, opened: `with Video(path, name) as video`.

    damage: what is wrong with the file, as far as reading has met it; "" if nothing is.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name, self.damage = path, name, ""
        self._open = ExitStack()
        self._decoder: Iterator | None = None
        self._now = self._next = None           # the frame on the screen, and the one after it
        self._times: list[int] = []             # of all frames, in ticks, for `_in_order`
        self._until = 0                         # ticks; what appears before is not wanted
        self._gap = 0                           # ticks within which no further key frame is known

    def __enter__(self) -> Video:
        try:
            import av
        except ImportError as error:
            raise MissingPyAV(f"{self.name}: a video is read with PyAV, which is not installed: "
                              "python -m pip install av") from error
        self._error, self._logging = av.error.FFmpegError, av.logging
        try:
            self._reopen()
        except BaseException:
            self._open.close()
            raise
        self._tick = float(self._stream.time_base)
        # An AVI says when frames are decoded. If they are shown in another order, the first one
        # shown has the earliest of these times, and so on: such a file is decoded from its start.
        self._in_order = (self._container.format.name == "avi"
                          and self._stream.codec_context.has_b_frames)
        self._may_skip = self._stream.codec_context.name in _SKIP and not self._in_order
        return self

    def _reopen(self) -> None:
        import av
        self._open.close()
        try:
            file = self._open.enter_context(open(self.path, "rb"))
            self._container = self._open.enter_context(av.open(
                file, container_options={"format_whitelist": _CONTAINERS},
                metadata_errors="replace"))
        except (self._error, OSError) as error:
            raise UnreadableImage(f"{self.name}: is not a video that can be read (mp4, mov, mkv, "
                                  f"webm or avi), or is damaged ({error.strerror})") from error
        self._stream = self._video_stream()
        with open(self.path, "rb") as file:     # an AVI that is cut is read without a complaint
            start = file.read(8)
            if start[:4] == b"RIFF" and file.seek(0, 2) < int.from_bytes(start[4:], "little") + 8:
                self.damage = "its end is missing"

    def __exit__(self, *error) -> None:
        self._decoder = self._now = self._next = None
        self._open.close()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame as it is stored, in pixels."""
        return self._stream.codec_context.width, self._stream.codec_context.height

    # --- when frames appear ----------------------------------------------------------------------

    def probe(self, count: int) -> list[float] | None:
        """When `count` frames at the centres of equal segments appear, without reading the rest.

        None if that is not to be had: the clip is short, frames repeat, or seeking fails.
        """
        try:
            first = self._first_of_a_long_one()
            end = None if first is None else self._end_by_seeking()
            if end is None or end <= first:
                return None
            centres = frame_times((end - first) * self._tick, count, first * self._tick)
            found = [self._start_of(math.floor(centre / self._tick)) for centre in centres]
        except self._error:
            return None                         # listing meets it again, and says so
        if None in found or len(set(found)) < count:
            return None
        return [start * self._tick for start in found]

    def all_starts(self) -> tuple[list[float], float]:
        """When each frame appears, and when the last disappears, in seconds."""
        found = self._listed()
        if not found:
            raise UnreadableImage(f"{self.name}: holds no frame that can be read"
                                  + (f" ({self.damage})" if self.damage else ""))
        return [start * self._tick for start in sorted(found)], self._end_of(found) * self._tick

    def _end_of(self, found: dict[int, int]) -> int:
        """When the last of these frames disappears, in ticks; without a note, it stays as long as
        the one before it."""
        *_, last = starts = sorted(found)
        before = last - starts[-2] if len(starts) > 1 else round(_LONE / self._tick)
        end = last + (found[last] or before)
        self._compare_with_header(end * self._tick)
        return end

    def _listed(self) -> dict[int, int]:
        """Ticks at which frames appear, and for how many they stay (0: not known)."""
        self._seek(None)
        found = self._read_times()
        if self._in_order:
            self._times = sorted(found)
        return found

    def _read_times(self) -> dict[int, int]:
        """As `_listed`, from here on. What the reader of the container complains of is damage."""
        log, found = self._logging, {}
        level, skips = log.get_level(), log.get_skip_repeated()
        log.set_level(log.ERROR)
        log.set_skip_repeated(False)
        try:
            with log.Capture() as said:
                for packet in self._packets():
                    time = packet.dts if self._in_order else packet.pts
                    if time is not None and packet.size:
                        found[time] = packet.duration or 0
        finally:
            log.set_level(level)
            log.set_skip_repeated(skips)
        for _, name, text in said:
            if name == self._container.format.name:         # and not of a decoder
                self.damage = self.damage or text.strip()
        return found

    def _first_of_a_long_one(self) -> int | None:
        """When the first frame appears, in ticks; None if the clip is short, or has no times."""
        if self._in_order:
            return None
        first, number = None, 0
        self._seek(None)
        for number, packet in enumerate(self._packets(), start=1):
            if packet.pts is not None and packet.size:
                first = packet.pts if first is None else min(first, packet.pts)
            if number >= _SHORT:
                return first
        return None

    def _end_by_seeking(self) -> int | None:
        """When the last frame disappears, in ticks: from the last key frame on, packets are read.

        The header's duration is where to begin to look, no more: a file that goes on is read on.
        """
        hint = self._header_end()
        if hint is None:
            return None
        self._seek(round(hint / self._tick))
        found = self._read_times()
        return self._end_of(found) if found else None

    def _start_of(self, moment: int) -> int | None:
        """When the frame that is on the screen at a moment appeared, in ticks."""
        back = 0
        while True:
            self._seek(moment - back)
            start = None
            for packet in self._packets():
                if packet.pts is not None and packet.size and packet.pts <= moment:
                    start = packet.pts if start is None else max(start, packet.pts)
                # A packet is never shown before it is decoded, so none that follows is earlier.
                if packet.dts is not None and packet.dts > moment:
                    break
            if start is not None or back > moment:
                return start
            back = 2 * back + round(1 / self._tick)

    # --- what they show --------------------------------------------------------------------------

    def frames(self, starts: Sequence[float]) -> Iterator[tuple[Image.Image, float]]:
        """The frames that appear at these times, increasing, upright and RGB, with their times."""
        last = None
        self._seek(None)
        for start in starts:
            moment = round(start / self._tick)
            frame = self._shown_at(moment)
            if frame is None or (self.damage and frame.pts < moment):
                return
            if frame.pts != last:
                yield self._picture(frame), frame.pts * self._tick
            last = frame.pts

    def _shown_at(self, moment: int):
        """The frame that is on the screen at a moment: decode on, or seek if that is far."""
        here, self._until = None if self._next is None else self._next.pts, moment
        if here is None or (moment - here > self._gap and not self._in_order):
            self._seek_to_show(moment)
            if here is not None and self._next is not None and self._next.pts <= here:
                self._gap = max(self._gap, 2 * (moment - here))     # no key frame on the way
        while self._next is not None and self._next.pts <= moment:
            self._now, self._next = self._next, self._decode()
        return self._now

    def _seek_to_show(self, moment: int) -> None:
        """Decode one frame that appears at the moment or before; the start of the clip at worst."""
        back = 0
        while True:
            self._seek(moment - back if back <= moment else None)
            self._now, self._next = None, self._decode()
            if back > moment or (self._next is not None and self._next.pts <= moment):
                return
            back = 2 * back + round(1 / self._tick)

    def _decode(self):
        """The next frame, or None at the end or the damage."""
        if self._decoder is None:
            self._decoder, self._number = self._decoded(), 0
        frame = next(self._decoder, None)
        if self._in_order and frame is not None:
            if self._number >= len(self._times):
                return None
            frame.pts, self._number = self._times[self._number], self._number + 1
        return frame

    def _decoded(self) -> Iterator:
        """Frames from here on. Before `_until`, those are left out on which no other is built."""
        try:
            for packet in self._packets():
                leave_out = self._may_skip and packet.pts is not None and packet.pts < self._until
                self._stream.codec_context.skip_frame = "NONREF" if leave_out else "DEFAULT"
                for frame in packet.decode():
                    if frame.is_corrupt:
                        self.damage = self.damage or f"after {frame.pts * self._tick:.1f} s"
                        return
                    self._refuse_size(frame.width, frame.height)
                    yield frame
            if self.damage:                     # what the decoder still holds is whole
                yield from self._stream.decode(None)
        except self._error as error:
            self.damage = self.damage or error.strerror

    def _picture(self, frame) -> Image.Image:
        picture = frame.to_image()              # RGB
        turn = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
        return picture if turn is None else picture.transpose(turn)

    # --- details ---------------------------------------------------------------------------------

    def _video_stream(self):
        """The first stream of moving pictures; a cover picture is none."""
        import av
        found = [stream for stream in self._container.streams.video
                 if not stream.disposition & av.stream.Disposition.attached_pic]
        if not found:
            raise UnreadableImage(f"{self.name}: holds no frame: it has no video in it")
        stream = found[0]
        if stream.codec_context is None:
            raise UnreadableImage(f"{self.name}: is in a code that this PyAV cannot decode: save "
                                  "it as H.264 in an mp4")
        self._refuse_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream

    def _refuse_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS or 3 * width * height > MAX_BYTES:
            raise UnreadableImage(f"{self.name}: its frames are {width} x {height} pixels, more "
                                  f"than the {MAX_PIXELS // 1_000_000} million that are read: "
                                  "save it smaller")

    def _seek(self, moment: int | None) -> None:
        """To the key frame before a moment, in ticks; None: to the start."""
        self._decoder = None
        start = self._stream.start_time
        target = min(0, start or 0) if moment is None or self._in_order else max(moment, start or 0)
        try:
            self._container.seek(target, stream=self._stream, backward=True)
        except self._error:
            if moment is not None:
                raise
            self._reopen()                      # a cut file without an index

    def _packets(self) -> Iterator:
        """What follows, up to the end or the damage."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    self.damage = self.damage or "a part of its data is missing"
                    return
                if not packet.is_discard:
                    yield packet
        except self._error as error:
            self.damage = self.damage or error.strerror

    def _header_end(self) -> float | None:
        """When the video ends, as its header says, in seconds."""
        if self._stream.duration:
            return ((self._stream.start_time or 0) + self._stream.duration) * self._tick
        if self._container.duration:
            return self._container.duration / 1e6
        return None

    def _compare_with_header(self, end: float) -> None:
        """A file whose frames end long before its header says has lost the rest."""
        said = self._header_end()
        alone = self._stream.duration or len(self._container.streams) == 1
        if said is not None and alone and said - end > max(0.5, 0.02 * said):
            self.damage = self.damage or (f"its header says {said:.1f} s, and its frames end at "
                                          f"{end:.1f} s")
