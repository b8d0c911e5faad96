"""Figures of the lessons: each is shown with alternative text, in colours all can tell apart."""

from vlm_utils.plots.architecture import draw_architecture
from vlm_utils.plots.boxes import draw_boxes
from vlm_utils.plots.changes import draw_changes
from vlm_utils.plots.figures import (
    draw_accuracy,
    draw_attention,
    draw_bars,
    draw_ladder,
    draw_loss,
    draw_mask,
    draw_timeline,
)
from vlm_utils.plots.live import LiveLoss, progress
from vlm_utils.plots.picture import (
    BLUE,
    GREEN,
    GREY,
    IMAGE_COLOURS,
    ORANGE,
    PURPLE,
    Picture,
    as_picture,
    contrast,
    new_figure,
    show,
    to_png,
)
from vlm_utils.plots.samples import draw_images, draw_layout, draw_samples

__all__ = [
    "BLUE", "GREEN", "GREY", "IMAGE_COLOURS", "LiveLoss", "ORANGE", "PURPLE", "Picture",
    "as_picture", "contrast", "draw_accuracy", "draw_architecture", "draw_attention",
    "draw_bars", "draw_boxes", "draw_changes", "draw_images", "draw_ladder", "draw_layout",
    "draw_loss", "draw_mask", "draw_samples", "draw_timeline", "new_figure", "progress", "show",
    "to_png"]
