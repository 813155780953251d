"""Executes positivity.ipynb: python execute.py [RESULT.ipynb], by default in place.

It is what a test does with a fresh run's output; Jupyter itself is not needed.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SECONDS_A_CELL = 120

folder = Path(__file__).resolve().parent
source = folder / "positivity.ipynb"
result = Path(sys.argv[1]) if len(sys.argv) > 1 else source

notebook = nbformat.read(source, as_version=4)
# Paths in it are relative to where it lies. No times are recorded: the same run makes the same file.
client = NotebookClient(
    notebook,
    timeout=SECONDS_A_CELL,
    record_timing=False,
    resources={"metadata": {"path": str(folder)}},
)
client.execute()
# Which patch of Python it was says nothing of the result.
notebook.metadata["language_info"] = {"name": "python"}
nbformat.write(notebook, result)
