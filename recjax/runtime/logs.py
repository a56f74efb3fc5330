"""Sets up the log lines on standard error."""

import logging
import sys

from absl import logging as absl_logging
from tqdm import tqdm


class _AboveProgressBars(logging.Handler):
  """Writes lines without breaking a progress bar."""

  def emit(self, record: logging.LogRecord) -> None:
    tqdm.write(self.format(record), file=sys.stderr)


class _Marked(logging.Formatter):
  """Sets `mark` of a record to 'WARNING: ' or 'ERROR: '; to nothing for lines of information."""

  def format(self, record: logging.LogRecord) -> str:
    record.mark = '' if record.levelno < logging.WARNING else f'{record.levelname}: '
    return super().format(record)


def _is_no_disk_error(record: logging.LogRecord) -> bool:
  """Drops Orbax's traceback of a full disk: the run ends with its own message about the disk."""
  error = record.exc_info[1] if record.exc_info else None
  return 'os_error_code' not in str(error)


def set_up(process: int = 0) -> None:
  """Writes log lines of recjax and data_prep to standard error; warnings are marked.

  Process 0 logs from level INFO on. Other processes log warnings, with their process number.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)
  absl_logging.get_absl_logger().addFilter(_is_no_disk_error)
  handler = _AboveProgressBars()
  prefix = f'process {process}: ' if process else ''
  handler.setFormatter(_Marked(f'%(asctime)s {prefix}%(mark)s%(message)s', '%H:%M:%S'))
  for name in ('recjax', 'data_prep'):
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING if process else logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False
