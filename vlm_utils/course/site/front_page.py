"""build/index.html: what a double click opens."""

from __future__ import annotations

from pathlib import Path

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>The course</title>
<meta http-equiv="refresh" content="0; url={target}"></head>
<body><p><a href="{target}">Open the course's site</a></p></body></html>
"""


def write_front_page(site: Path) -> Path:
    """Write index.html beside a site's folder, which leads to the site; returns its path."""
    page = site.parent / "index.html"
    page.write_text(_PAGE.format(target=f"{site.name}/index.html"), encoding="utf-8")
    return page
