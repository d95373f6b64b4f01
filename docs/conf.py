"""The documentation site: `make docs` builds it into build/site, without a network, warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from complex_system import __version__ as release  # noqa: E402, F401 - Sphinx reads it

project = "complex-system"
author = "The complex-system authors"
copyright = "2026, " + author  # noqa: A001
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "site_references"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["three-hosts"]
smartquotes = False  # options begin with two hyphens
html_theme = "furo"
html_title = "complex-system"
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
# Links in the pages are for readers of the repository too: they name files, not documents.
suppress_warnings = ["myst.header"]
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_mock_imports: list[str] = []
nitpicky = False
