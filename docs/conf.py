# SPDX-License-Identifier: Apache-2.0
"""Sphinx's settings: `sphinx-build -W docs site`."""

from lightning_rwc import __version__

project = "lightning-rwc"
author = "The lightning-rwc developers"
copyright = author  # noqa: A001
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = "lightning-rwc"
