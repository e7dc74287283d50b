"""How Sphinx builds these pages: ``make docs``, with warnings as errors."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

import django
from django.conf import settings

sys.path.insert(0, str(Path(__file__).parents[1]))
settings.configure(INSTALLED_APPS=["machine_memory"], DATABASES={})
django.setup()

project = "machine_memory"
author = "the machine_memory maintainers"
version = release = version_of("machine-memory")
html_title = "machine_memory"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
copybutton_prompt_text = "$ "  # Of a console, what is typed is copied, without its output.
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_external"]

nitpicky = True
# What is not ours is not built here, and there may be no network to ask where it is; nor is what nobody has to name.
nitpick_ignore_regex = [("py:.*", r"(?!machine_memory(\.|$)).*|machine_memory\.(core|backends)\..*")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "class"
