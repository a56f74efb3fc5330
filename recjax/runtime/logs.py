"""Log lines and progress bars on standard error."""

from collections.abc import Iterable
import logging
import sys
from typing import Any

from absl import logging as absl_logging
from tqdm import tqdm

SECONDS = 30.0  # between two lines of a progress that no terminal shows

log = logging.getLogger(__name__)


def progress(iterable: Iterable | None = None, desc: str = '', **options: Any) -> tqdm:
  """Returns a progress bar; without a terminal it logs a line every SECONDS seconds instead.

  A progress of less than SECONDS seconds logs nothing.

  Args:
    iterable: see `tqdm`.
    desc: label of the bar.
    **options: other options of `tqdm`: total, initial, unit, unit_scale, disable, leave.
  """
  if sys.stderr is not None and sys.stderr.isatty():
    return tqdm(iterable, desc, **options)
  total = options.get('total', getattr(iterable, '__len__', lambda: None)())
  share = ' of {total_fmt}{unit} ({percentage:.0f} %)' if total else '{unit}'
  return tqdm(
    iterable,
    desc,
    file=_LogLines(),
    mininterval=SECONDS,
    maxinterval=SECONDS,
    delay=SECONDS,
    bar_format='{desc}: {n_fmt}' + share + ', {rate_fmt}, {remaining} left',
    **options | {'unit': f' {options.get("unit", "rows").strip()}'},
  )


class _LogLines:
  """The text stream of a progress bar without a terminal."""

  def write(self, text: str) -> None:
    line = text.strip()
    if line:
      log.info('%s', line)

  def flush(self) -> None:
    pass


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
