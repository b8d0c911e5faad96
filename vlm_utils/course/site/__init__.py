"""The site: every executed lesson, the glossary, the API and the pages for instructors, offline."""

from vlm_utils.course.site.build import build_site, stored_site, why_not
from vlm_utils.course.site.front_page import write_front_page

__all__ = ["build_site", "stored_site", "why_not", "write_front_page"]
