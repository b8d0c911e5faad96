"""Lesson 07: images as frames in time, of a place or of a video: dates, boxes, what changed."""

from vlm_utils.sources.frames import read_frames
from vlm_utils.sources.sampling import choose_frames, frame_times, moments_every
from vlm_utils.time_series.boxes import box_iou, box_scores, guess_boxes, parse_box, pixel_f1
from vlm_utils.time_series.budget import budget_frames
from vlm_utils.time_series.changes import change_map, cut_windows, join_windows
from vlm_utils.time_series.prompts import as_teochat, dated, teochat_prompt
from vlm_utils.time_series.weather import WEATHER, weather_pairs

__all__ = ["WEATHER", "as_teochat", "box_iou", "box_scores", "budget_frames", "change_map",
           "choose_frames", "cut_windows", "dated", "frame_times", "guess_boxes", "join_windows",
           "moments_every", "parse_box", "pixel_f1", "read_frames", "teochat_prompt",
           "weather_pairs"]
