"""Sphinx: ``nox -s docs``."""

from hyps import __version__

project = "Hyps for Python"
copyright = "The Hyps for Python authors"  # noqa: A001 - the name that Sphinx reads
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["llms.txt"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

nitpicky = True
# Of other projects, whose pages a build must not download; and of types that have no public name.
nitpick_ignore_regex = [
    ("py:.*", r"(abc|anyio|enum|os|socket|ssl)\..*|ByteStream|Callable\[.*"),
    ("py:.*", r"hyps\.[\w.]*\b_\w+(\.\w+)*"),
    ("py:class", "Channel|Data|Overflow|Memberships|Session|Subscriber|WhenDisconnected"),
    ("py:class", "Any|BackgroundTask|Mapping.*|Lifespan|ASGIApp|Encode|Encoded|EncodeFrame"),
    ("py:class", "AnySubscription|AsyncClient|AsyncSubscription|Loop|WebSocket|Awaitable.*"),
    ("py:class", "Authenticate|Connection|Metric|Runs|TaskStatus|Token"),
]
# "Client" stands in annotations for hyps.Client, and hyps.sync has another one.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = project
html_extra_path = ["llms.txt"]
# What the page shows is what stands in the repository.
html_copy_source = False
html_show_sphinx = False
