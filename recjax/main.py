"""The command line: `python -m recjax.main --config=configs/sports.py [--mode=…] [--workdir=…]`."""

import contextlib
import logging
import sys
import traceback

from absl import app, flags
from absl import logging as absl_logging
from etils import epath
import jax
from ml_collections import config_flags
from tqdm import tqdm

from recjax import config as config_lib
from recjax import models
from recjax.data import vocabulary
from recjax.data.dataset import Dataset
from recjax.evaluate import evaluate_best
from recjax.models import lora, pretrained
from recjax.recommend import Recommender, recommend_file
from recjax.report.build import report_run
from recjax.runtime import (
  device,
  distributed,
  exit_status,
  goodput,
  preemption,
  watchdog,
)
from recjax.schema.checks import check
from recjax.sharding import mesh as mesh_lib
from recjax.train import record_mixtures, train_stages
from recjax.training import state as state_lib
from recjax.workdir import checkpoints as checkpoints_lib
from recjax.workdir import claim, identity, resume

log = logging.getLogger('recjax')

MODES = ('train', 'evaluate', 'recommend', 'export', 'prepare', 'report')

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The experiment: configs/NAME.py or configs/NAME.py:VARIANT.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the run; default: runs/NAME.')
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  MODES,
  'train (to the report), evaluate (the best checkpoint of the workdir), recommend, export (for '
  'transformers), prepare (the data alone), report (from what the workdir holds).',
)
_HISTORIES = flags.DEFINE_string(
  'histories', None, 'recommend: JSON lines with "history", raw item ids, oldest first.'
)
_OUT = flags.DEFINE_string(
  'out', None, 'recommend: where to write JSON lines. export: the folder to make.'
)
_SKIP = flags.DEFINE_boolean(
  'skip_unknown', False, 'recommend: leave out items of a history that the catalogue lacks.'
)
_K = flags.DEFINE_integer('k', 20, 'recommend: items a history.')


class _AboveProgressBars(logging.Handler):
  """Writes to standard error without breaking a progress bar that is there."""

  def emit(self, record: logging.LogRecord) -> None:
    tqdm.write(self.format(record), file=sys.stderr)


def _is_news(record: logging.LogRecord) -> bool:
  """Not the traceback that Orbax logs of a disk that is full: the run ends with a message of its own."""
  error = record.exc_info[1] if record.exc_info else None
  return 'os_error_code' not in str(error)


def set_up_logging(process: int = 0) -> None:
  """Our own lines on standard error: of process 0 from INFO on, of others warnings with their number."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  absl_logging.get_absl_logger().addFilter(_is_news)
  handler = _AboveProgressBars()
  mark = f'process {process}: ' if process else ''
  handler.setFormatter(logging.Formatter(f'%(asctime)s {mark}%(message)s', '%H:%M:%S'))
  for name in ('recjax', 'data_prep'):
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING if process else logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False


def _default_workdir(config_flag: str) -> str:
  """runs/sports for configs/sports.py, runs/sports-cpu for configs/sports.py:cpu."""
  file, _, variant = config_flag.partition(':')
  return f'runs/{epath.Path(file).stem}' + (f'-{variant}' if variant else '')


def _prepared(config: config_lib.Config) -> Dataset:
  """The prepared data; a single process prepares them itself where they are missing."""
  # Imported here: preparation is the one thing below main that recjax uses of data_prep.
  from data_prep import prepare

  if jax.process_count() == 1:
    prepare.prepare(config)
  elif not prepare.is_prepared(config):
    raise ValueError(
      f'several processes must find the data prepared in {config.prepared_folder}; they are missing or '
      f'out of date. Run once: python -m recjax.main --config={flags.FLAGS["config"].config_filename} '
      '--mode=prepare'
    )
  return Dataset.load(config.prepared_folder)


def _best_params(config: config_lib.Config, workdir: epath.Path, dataset: Dataset, mesh):
  """The parameters of the workdir's best checkpoint, on today's mesh, and its step."""
  if not (workdir / 'checkpoints').exists():
    raise ValueError(f'{workdir} must hold the checkpoints of a run; it has none. Set --workdir')
  abstract = state_lib.abstract_params(config.model, dataset.vocabulary.space, mesh)

  def choose(checkpoints: checkpoints_lib.Checkpoints) -> int:
    step = checkpoints.best_step()
    if step is None:
      raise ValueError(f'{checkpoints.folder} must hold a whole checkpoint; it has none')
    return step

  def read(checkpoints: checkpoints_lib.Checkpoints, step: int):
    resume.check_tokens(checkpoints.meta(step), dataset, checkpoints.folder)
    return jax.block_until_ready(checkpoints.restore_params(step, abstract)), step

  return checkpoints_lib.read_run(workdir, choose, read)


def run(config: config_lib.Config, mode: str, workdir: epath.Path) -> None:
  """Dispatches on the mode."""
  if mode == 'recommend' and not (_HISTORIES.value and _OUT.value):
    raise ValueError('--mode=recommend must be told --histories=FILE and --out=FILE')
  if mode == 'export' and not (_OUT.value and config.model.pretrained):
    raise ValueError(
      '--mode=export must be told --out=FOLDER and --config.model.pretrained, the folder that training '
      'began with: its config.json and tokenizer files are copied'
    )
  if mode == 'recommend':
    check(
      1 <= _K.value <= config.eval.beams,
      f'--k must be from 1 to the {config.eval.beams} items that the search finds, eval.beams',
      _K.value,
      'eval.beams',
    )
  mesh = mesh_lib.make_mesh(config.mesh)
  log.info(
    'process %d of %d, %d devices (%s), mesh %s, workdir %s',
    *(jax.process_index(), jax.process_count(), jax.device_count()),
    *(jax.devices()[0].device_kind, dict(mesh.shape), workdir),
  )
  if mode == 'train':
    identity.check_run(config, workdir)
  elif mode != 'prepare':
    identity.check_use(config, workdir)
  if mode != 'prepare':
    device.keep_programs(config.compilation_cache, workdir)
  models.check_model(config.model)  # before the data are prepared
  with goodput.phase('preparation'), watchdog.expect('preparing or reading the data', 0):
    dataset = _prepared(config)
    distributed.barrier('data prepared')
  if mode == 'prepare':
    return
  if mode == 'export':
    params, _ = _best_params(config, workdir, dataset, mesh)
    params = lora.merge(params, config.model.lora_alpha)
    space = dataset.vocabulary.space
    pretrained.export(_OUT.value, params, space, config.model.pretrained, vocabulary.SPECIALS)
    log.info('exported to %s', _OUT.value)
    return
  if mode != 'report':
    recommender = Recommender(config, dataset, mesh)
    if mode == 'train':
      params, step = train_stages(config, workdir, dataset, recommender, mesh)
    else:
      params, step = _best_params(config, workdir, dataset, mesh)
    if mode == 'recommend':
      paths = (_HISTORIES.value, _OUT.value)
      recommend_file(recommender, params, dataset, *paths, _K.value, _SKIP.value)
    else:
      with watchdog.expect('the full evaluation', 0):
        evaluate_best(config, workdir, dataset, recommender, params, step)
  if mode != 'recommend' and distributed.is_host0():
    goodput.write()
    with goodput.phase('report'), watchdog.expect('the report', 0):
      trained = identity.config_of(workdir) or config
      num_params = state_lib.num_params(trained.model, dataset.vocabulary.space)
      record_mixtures(trained, workdir, dataset)
      report_run(trained, workdir, dataset, num_params)
  distributed.barrier('done')
  log.info('done')


def _is_ours(error: Exception) -> bool:
  """Whether a line of ours raised it: then it is a message to the user, and a traceback would hide it."""
  last = traceback.extract_tb(error.__traceback__)[-1].filename
  root = epath.Path(__file__).parent.parent
  ours = ('recjax', 'data_prep', 'configs', 'launch')
  return any(epath.Path(last).is_relative_to(root / name) for name in ours)


def _parse_flags(argv: list[str]) -> list[str]:
  """absl's parser, with one line for an unknown config field instead of a traceback."""
  try:
    return app.parse_flags_with_usage(argv)
  except (KeyError, AttributeError) as error:
    sys.exit(f'unknown config field: {error.args[0]}. The fields stand in recjax/config.py')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {argv[1:]}')
  if _CONFIG.value is None:
    raise app.UsageError('--config must be given, such as --config=configs/demo.py')
  set_up_logging()
  preemption.exit_on_sigterm()
  try:
    config = config_lib.from_config_dict(_CONFIG.value)
    distributed.initialize(config.hosts)
    if jax.process_count() == 1:
      preemption.exit_on_sigterm()  # anew: JAX may have put its own in place, which tells nobody
    set_up_logging(jax.process_index())
    workdir = epath.Path(_WORKDIR.value or _default_workdir(flags.FLAGS['config'].config_filename))
    started_as = {'mode': _MODE.value, 'workdir': str(workdir)}
    distributed.check_same('config', config.to_dict() | started_as)
    is_training = _MODE.value == 'train'
    claimed = claim.claimed(workdir) if is_training else contextlib.nullcontext()
    with claimed, goodput.recorded(workdir, is_training and distributed.is_host0()):
      run(config, _MODE.value, workdir)
  except (Exception, KeyboardInterrupt) as error:
    is_message = isinstance(error, (ValueError, OSError, FloatingPointError)) and _is_ours(error)
    text = f'{type(error).__name__}: {error}'.rstrip(': ')
    status = exit_status.HUNG if isinstance(error, TimeoutError) and is_message else 1
    watchdog.fail(text, '' if is_message else f'\n{traceback.format_exc()}', status)
    if not is_message:
      raise
    sys.exit(text)
  finally:
    watchdog.stop()


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
