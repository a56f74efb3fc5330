"""Errors that are messages to the user, and their line."""

import traceback

from etils import epath


def line(error: Exception) -> str:
  """Returns the kind and the text of an error."""
  return f'{type(error).__name__}: {error}'.rstrip(': ')


def is_message(error: Exception) -> bool:
  """Returns whether an error is a message to the user, raised by our own code; it is shown without a traceback."""
  if not isinstance(error, ValueError | OSError | FloatingPointError):
    return False
  last = traceback.extract_tb(error.__traceback__)[-1].filename
  root = epath.Path(__file__).parent.parent.parent
  ours = ('recjax', 'data_prep', 'configs', 'launch')
  return any(epath.Path(last).is_relative_to(root / name) for name in ours)


def remedy(error: Exception) -> str:
  """Returns what to do about an error of a save: a lost process or device fails in a collective, not on the disk."""
  is_of_device = type(error).__name__ in ('JaxRuntimeError', 'XlaRuntimeError')
  return 'find the process or device that failed' if is_of_device else 'free or repair the disk'
