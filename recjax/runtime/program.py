"""The name of the running program, for messages that give a command."""

import os
import sys


def program() -> str:
  """Returns the words that started recjax: `recjax`, or `python -m recjax.main`."""
  return 'recjax' if os.path.basename(sys.argv[0]) == 'recjax' else 'python -m recjax.main'
