"""A few of TinyEarth's places, most of them with 16 frames, as a table of their own."""

from vlm_utils.datasets import ImageTable, Truth, load_series_table


def few_places(split: str = "test", long: int = 6, singles: int = 40) -> ImageTable:
    """So many single tiles, places with 16 frames, and as many short series."""
    table = load_series_table(split)
    truth = table.truth
    chosen = [rows for rows in truth.sites if len(rows) == 16][:long]
    chosen += [rows for rows in truth.sites if len(rows) == 8][:long]
    rows = [*range(singles), *(row for site in chosen for row in site)]
    new = {row: number for number, row in enumerate(rows)}
    return ImageTable(f"TinyEarth {split}, few places", table.dataset.select(rows), Truth(
        [truth.scenes[row] for row in rows], [truth.captions[row] for row in rows],
        [tuple(new[row] for row in site) for site in chosen], [truth.dates[row] for row in rows],
        [truth.conditions[row] for row in rows]))
