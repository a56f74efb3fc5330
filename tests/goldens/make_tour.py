"""Runs docs/tour.ipynb in an empty folder and stores its outputs.  Command: python -m tests.goldens.make_tour"""

import os
import pathlib
import sys
import tempfile

import nbclient
import nbformat

from tests.folders import ROOT

PATH = ROOT / 'docs/tour.ipynb'


def main() -> None:
  notebook = nbformat.read(PATH, as_version=4)
  with tempfile.TemporaryDirectory() as folder:
    work, bin = pathlib.Path(folder, 'work'), pathlib.Path(folder, 'bin')
    work.mkdir()
    bin.mkdir()
    (bin / 'recjax').write_text(f'#!/bin/sh\nexec {sys.executable} -m recjax.main "$@"\n')
    (bin / 'recjax').chmod(0o755)
    path = f'{bin}:{os.environ["PATH"]}'
    client = nbclient.NotebookClient(
      notebook,
      timeout=600,
      kernel_name='python3',
      coalesce_streams=True,
      resources={'metadata': {'path': str(work)}},
    )
    client.execute(env=os.environ | {'PATH': path, 'PYTHONPATH': str(ROOT)})
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)  # times
  notebook.metadata = {name: notebook.metadata[name] for name in ('kernelspec', 'language_info')}
  nbformat.write(notebook, PATH)


if __name__ == '__main__':
  main()
