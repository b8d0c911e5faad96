# says: cut into count + 1 pieces
def segment_centres(duration: float, count: int) -> list[float]:
    """Seconds at which to look at a clip: centres of equal segments.

    duration: of the clip, in seconds. The clip is cut into `count`
    segments of equal length, and the middle of each is taken.
    """
    return [(k + 1) * duration / (count + 1) for k in range(count)]
