"""Lesson 07: images as frames in time, of a place or of a video."""

from vlm_utils.sources.frames import read_frames
from vlm_utils.sources.sampling import choose_frames, frame_times, moments_every
from vlm_utils.time_series.budget import budget_frames
from vlm_utils.time_series.changes import change_map, cut_windows, join_windows

__all__ = ["budget_frames", "change_map", "choose_frames", "cut_windows", "frame_times",
           "join_windows", "moments_every", "read_frames"]
