"""What Sphinx is told. Nothing here may fetch anything: the site works without a network."""

project = "Multi-image vision-language models"
author = "the authors of this course"
copyright = author  # noqa: A001
extensions = ["myst_nb"]
root_doc = "index"
exclude_patterns = ["extra"]

# Outputs are those that the notebooks hold.
nb_execution_mode = "off"
nb_merge_streams = True
# Scripts for live widgets would come from another host; what widgets show is stored as HTML.
nb_ipywidgets_js: dict = {}
myst_heading_anchors = 4
myst_links_external_new_tab = False
myst_enable_extensions = ["attrs_inline"]
# A definition list of a whole glossary reads better without its entries in the page's contents.
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "search_bar_text": "Search the course",
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "navbar_persistent": [],    # the search is in the contents on the left already
    "navigation_with_keys": False,
    "footer_content_items": ["copyright"],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_source_button": False,
    # Both styles have the contrast that WCAG 2 asks for.
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
