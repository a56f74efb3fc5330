"""The flags of the command line, and the request that they make; `recjax.main` defines --config."""

from collections.abc import Callable
import os
import sys

from absl import flags
from etils import epath

from recjax.config import Config
from recjax.runtime import files
from recjax.runtime.program import program
from recjax.schema import flag as config_flag
from recjax.workdir import identity, ignored, serving
from recjax.workdir.request import FORMATS, Request

MODES = {
  'train': 'prepare, train, evaluate and report; the same command continues a stopped run',
  'evaluate': "evaluate the workdir's best checkpoint on all held-out rows, and report",
  'recommend': 'rank items for --histories into --out',
  'serve': 'answer requests over HTTP on --port, with a page to try it',
  'export': "write the workdir's best checkpoint into --out, for transformers, as a bundle for jax or as item vectors (--format)",
  'prepare': 'prepare the data only',
  'describe': 'prepare only the log, and print dates, users, items, splits and what looks wrong; JSON into --out',
  'refresh': 'train the run --from on with the new log in --raw_dir, compare both models, and decide: go or no-go',
  'report': 'write the report again from the files in the workdir',
  'compare': 'compare the evaluated runs --workdirs with the first of them and its baselines, into the folder --out',
  'config': 'print every field of the config with its value, its allowed values and its meaning',
}

WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run. Default: runs/NAME, or runs/NAME-VARIANT. Without --config the config is that of the run.',
)
WORKDIRS = flags.DEFINE_list(
  'workdirs',
  None,
  'compare: workdirs of evaluated runs, as A,B or runs/sasrec_*; A:transitions is a baseline of the run A. Runs that differ in '
  'their seeds alone are one row.',
)
MODE = flags.DEFINE_enum(
  'mode', 'train', list(MODES), '; '.join(f'{name}: {text}' for name, text in MODES.items()) + '.'
)
HISTORIES = flags.DEFINE_string(
  'histories',
  None,
  'recommend: JSON lines (also .gz) or Parquet with "history", raw item ids, oldest first.',
)
OUT = flags.DEFINE_string(
  'out',
  None,
  'recommend: file to write, JSON lines, or Parquet by the name; a killed command continues. export: folder to write, new or empty; with --format=vectors a file .npz. describe: file to write, JSON. '
  'compare: folder to write.',
)
FORMAT = flags.DEFINE_enum(
  'format',
  Request.format,
  FORMATS,
  'export: a folder for transformers; a bundle: the whole search, which needs jax alone; or the vectors of the items, a file .npz.',
)
SKIP_UNKNOWN = flags.DEFINE_boolean(
  'skip_unknown', False, 'recommend: ignore items of a history that are not in the catalogue.'
)
MASKS = flags.DEFINE_string(
  'masks',
  None,
  'recommend: folder of sub-catalogues, NAME.txt with one item id a line. serve: the same.',
)
WITHIN = flags.DEFINE_string(
  'within',
  None,
  'recommend: the sub-catalogue to recommend from, a name of --masks or an expression such as "in_stock & ~adult".',
)
K = flags.DEFINE_integer('k', Request.k, 'recommend: items per history.')
FROM = flags.DEFINE_string('from', None, 'refresh: workdir of the earlier run.')
RAW_DIR = flags.DEFINE_string(
  'raw_dir', None, 'refresh: folder of the new log, which also holds the old interactions.'
)
BUDGET = flags.DEFINE_float(
  'budget',
  Request.budget,
  'refresh: steps to train, as a share of the steps of the first training.',
)
PRUNE = flags.DEFINE_boolean(
  'prune', False, 'prepare: remove prepared stage folders that this config does not use.'
)

flags.adopt_module_key_flags(serving)


def config_value() -> str:
  """Returns the value of --config: a file, recjax:NAME, or W/config.json."""
  return flags.FLAGS['config'].config_filename


def requested(config: Config, next_workdir: Callable[[epath.Path], epath.Path]) -> Request:
  """Returns the request that the flags make.

  Args:
    config: value of --config.
    next_workdir: earlier workdir → default workdir of its refresh.

  Raises:
    ValueError: see `ignored.check_length`, `ignored.check_replaced` and `ignored.check_components`.
  """
  if MODE.value in ('train', 'prepare'):
    given = list(config_flag.overrides(sys.argv))
    ignored.check_length(given, config)
    ignored.check_replaced(given, config)
    ignored.check_components(given, config, config_flag.saved_in(config_value()) is not None)
  source = FROM.value and epath.Path(FROM.value.rstrip('/')).expanduser()
  workdir = WORKDIR.value or (
    str(next_workdir(source)) if source else default_workdir(config_value())
  )
  paths = (workdir, HISTORIES.value, OUT.value, RAW_DIR.value, MASKS.value)
  workdir, histories, out, raw_dir, masks = (path and os.path.expanduser(path) for path in paths)
  return Request(
    config=config,
    mode=MODE.value,
    workdir=epath.Path(workdir),
    source=source,
    raw_dir=raw_dir,
    budget=BUDGET.value,
    histories=histories,
    out=out,
    format=FORMAT.value,
    k=K.value,
    skip_unknown=SKIP_UNKNOWN.value,
    masks=masks,
    within=WITHIN.value,
    prune=PRUNE.value,
    beams=serving.beams() if MODE.value == 'export' else (),
    serving=serving.from_flags() if MODE.value == 'serve' else None,
  )


def default_workdir(value: str) -> str:
  """Returns the workdir of a value of --config.

  It is runs/sports for configs/sports.py, runs/sports-cpu for recjax:sports:cpu, and W for W/config.json.
  """
  if saved := config_flag.saved_in(value):
    return saved
  file, variant = config_flag.split(value)
  return f'runs/{epath.Path(file).stem}' + (f'-{variant}' if variant else '')


def check_flags() -> None:
  """Checks that the mode reads every flag of the command; see `ignored.check_flags`."""
  ignored.check_flags(MODE.value, [name for name in ignored.FLAGS if flags.FLAGS[name].present])


def compared() -> tuple[list[str], epath.Path]:
  """Returns the values of --workdirs and --out.

  Raises:
    ValueError: one is missing, or another flag is given that a comparison does not read.
    OSError: the folder of --out cannot be written.
  """
  if not (WORKDIRS.value and OUT.value):
    raise ValueError('--mode=compare needs --workdirs=A,B of evaluated runs and --out=FOLDER')
  # --workdir comes first: it also sets --config.
  for name in ('workdir', 'config'):
    if flags.FLAGS[name].present:
      raise ValueError(
        f'--mode=compare reads the runs of --workdirs alone; got --{name} too. Leave it out'
      )
  out = epath.Path(os.path.expanduser(OUT.value))
  files.check_folder(out, '--out')
  files.check_writable(out, '--out')
  return WORKDIRS.value, out


def check_overrides(request: Request) -> None:
  """Checks that the mode reads every override of the command; see `ignored.check_overrides`."""
  saved, given = identity.config_of(request.workdir), config_flag.overrides(sys.argv)
  is_program = config_flag.saved_in(config_value()) is None
  ignored.check_overrides(request.mode, given, request.config, saved, is_program)


def usage() -> str:
  """Returns the text for a command without --config and --workdir."""
  known = '\n'.join(f'  --mode={name:<10} {text}' for name, text in MODES.items())
  return (
    f'{program()} needs --config, or --workdir of a run:\n'
    f'  {program()} --config=recjax:demo                      the demo, from the raw log to the report\n'
    f'  {program()} --config=recjax:table --config.data.name=shop --config.data.raw_dir=FOLDER    your own log\n'
    f'  {program()} --workdir=runs/demo --mode=evaluate       a run knows its config\n'
    f'{known}\n'
    f'--config=recjax:NAME is a config of the package: {", ".join(config_flag.names())}'
  )
