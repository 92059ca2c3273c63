"""TOML -> checked objects, every problem at once with file and line.

    manifest = load("edge.toml")         # ManifestError holds all problems
    manifest, problems = check("edge.toml")

The way: read.py (text -> dict) -> schema.py over tables.py (dict -> values) -> sources.py, functions.py, triggers.py
(values -> model.py) -> whole.py (what only shows over the whole manifest). lines.py is asked for a line only when there
is a problem to report. Nothing here runs a line of the user's code.
"""

from nuclio_edge.manifest.model import Manifest
from nuclio_edge.manifest.problems import Problem
from nuclio_edge.manifest.validate import check, load

__all__ = ["Manifest", "Problem", "check", "load"]
