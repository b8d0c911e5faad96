def segment_centres(duration: float, count: int) -> list[float]:
    """Seconds at which to look at a clip: centres of equal segments.

    duration: of the clip, in seconds. The clip is cut into `count`
    segments of equal length, and the middle of each is taken.
    """
    return [(k + 0.5) * duration / count for k in range(count)]
