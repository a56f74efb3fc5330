"""config.json of a workdir: checks that a command belongs to the same run, or uses the model as trained."""

from collections.abc import Iterable, Mapping
import dataclasses
import json
from typing import Any

from etils import epath
import ml_collections

from recjax import config as config_lib
from recjax import models
from recjax.runtime.files import flat, is_local, write_whole
from recjax.workdir import paths, stages

FILE = 'config.json'

# A change in these sections makes another run. Changes of the stream of examples are found by its
# fingerprint, which every checkpoint holds.
_IDENTITY = ('data', 'sids', 'model')
_LOCATIONS = (
  *('raw_dir', 'prepared_dir', 'download', 'download_url', 'table', 'extend'),
  *('engine', 'beam_options'),  # every engine writes the same bytes
)
_FOLDERS = ('pretrained', 'sid_keywords')  # may change to another path, but not to or from None
_COMPUTATION = ('compute_dtype', 'remat', 'scan_unroll', 'attention')
_REMEDY = (
  'Restore it from a backup (the first line of starts.jsonl holds the config of the first start), or give a '
  'new --workdir'
)


def read_config(fields: dict[str, Any], source: str) -> config_lib.Config:
  """Converts a config that this or an earlier version saved. Fields added since have their defaults.

  Args:
    fields: the config as nested dicts.
    source: the file or checkpoint that holds it, for the message.

  Raises:
    ValueError: this version cannot read it.
  """
  try:
    return config_lib.from_dict(fields)
  except ValueError as error:
    raise ValueError(f'{source} must be a config of this version: {error}') from error


def config_of(workdir: epath.Path) -> config_lib.Config | None:
  """Returns the config of the latest start in a workdir; None if nothing was started there.

  Relative paths in it are valid in the current folder; see `recjax.workdir.paths`.

  Raises:
    ValueError: config.json is damaged or of another version of the program.
  """
  path = workdir / FILE
  if not path.exists():
    return None
  try:
    fields = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} must be a JSON object: {error}. {_REMEDY}') from error
  if not isinstance(fields, dict):
    raise ValueError(f'{path} must be a JSON object; got {type(fields).__name__}. {_REMEDY}')
  if 'model_type' in fields and 'data' not in fields:
    raise ValueError(
      f'{workdir} must be the workdir of a run; its config.json is that of a transformers folder, such as an '
      'export. Set --workdir to the run that was exported'
    )
  return paths.located(read_config(fields, str(path)), workdir)


def required_config(workdir: epath.Path) -> config_lib.Config:
  """Returns `config_of` of the workdir of a run.

  Raises:
    FileNotFoundError, NotADirectoryError: the folder does not exist, is a file, or holds no config.json.
    ValueError: see `config_of`.
  """
  if workdir.exists() and not workdir.is_dir():
    raise NotADirectoryError(f'the workdir of a run must be a folder; {workdir} is a file')
  config = config_of(workdir)
  if config is None:
    if not workdir.exists():
      state = 'does not exist'
    else:
      state = f'has no {FILE}' if any(workdir.iterdir()) else 'is empty'
    raise FileNotFoundError(
      f'without --config, --workdir (with --mode=refresh: --from) must be the workdir of a run; {workdir} {state}. '
      'Set --workdir to a run, or start one with --config, such as --config=recjax:table'
    )
  return config


def read_config_dict(path: str) -> ml_collections.ConfigDict:
  """Returns the config of --config=W/config.json, to be changed by the command line.

  Raises:
    OSError, ValueError: see `required_config`.
  """
  path = epath.Path(path).expanduser()
  if path.name != FILE:
    raise ValueError(
      f'--config must be FILE.py, recjax:NAME or the {FILE} of a workdir; got {path}'
    )
  return config_lib.to_config_dict(required_config(path.parent))


def check_is_run(workdir: epath.Path) -> None:
  """Checks that a workdir is not the folder of a stage: a training there would not continue the run.

  Raises:
    ValueError: it is.
  """
  run = workdir.absolute().parent.parent if is_local(workdir) else workdir.parent.parent
  if workdir.absolute().parent.name != stages.FOLDER or not (run / FILE).exists():
    return
  config = config_of(run)
  if config is not None and workdir.name in config.stages:
    raise ValueError(
      f'{workdir} must be the workdir of a run; it is its stage {workdir.name}. Set --workdir={run}'
    )


def write_config(config: config_lib.Config, workdir: epath.Path) -> None:
  """Writes config.json; the workdir then belongs to this config."""
  write_whole(workdir / FILE, json.dumps(config.to_dict(), indent=2))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[str]:
  return [
    f'{prefix}{name} ({old.get(name)!r} in the workdir, {new.get(name)!r} now)'
    for name in {**new, **old}
    if old.get(name) != new.get(name)
    and not (name in _FOLDERS and _may_move(old.get(name), new.get(name)))
  ]


def _may_move(old: str | None, new: str | None) -> bool:
  """Returns whether two paths may hold the same files; two names of the hub (hf:…@commit) never do."""
  is_named = models.pretrained.is_name(old) and models.pretrained.is_name(new)
  return None not in (old, new) and not is_named


def _section_differences(
  old: config_lib.Config, new: config_lib.Config, sections: Iterable[str]
) -> list[str]:
  found = []
  for section in sections:
    fields = [dataclasses.asdict(getattr(config, section)) for config in (old, new)]
    if section == 'model':  # older versions saved another family name for Qwen
      fields = [models.upgraded(saved, new.model.pretrained) for saved in fields]
    was, now = (
      {
        name: value
        for name, value in flat(saved).items()
        if name.rpartition('.')[2] not in _LOCATIONS + _COMPUTATION
      }
      for saved in fields
    )
    found += _differences(was, now, f'{section}.')
  return found


def _with_sids_of(old: config_lib.Config, new: config_lib.Config) -> config_lib.Config:
  """Returns the new config; codes and encoder that it leaves to the data are those of the old one."""
  encoder = old.sids.encoder if new.sids.encoder == 'auto' else new.sids.encoder
  sids = dataclasses.replace(new.sids, codes=new.sids.codes or old.sids.codes, encoder=encoder)
  return dataclasses.replace(new, sids=sids)


def check_run(config: config_lib.Config, workdir: epath.Path) -> None:
  """Checks that a workdir is new or belongs to this run.

  Raises:
    ValueError: it belongs to a run with other data, SIDs, model or stages. The message names the fields.
  """
  old = config_of(workdir)
  if old is None:
    return
  config = _with_sids_of(old, config)
  different = _section_differences(old, config, _IDENTITY)
  was, now = list(old.stages), list(config.stages)
  if was != now:
    different.append(f'stages ({was} in the workdir, {now} now)')
  if different:
    raise ValueError(
      f'workdir {workdir} belongs to another config, which differs in {", ".join(different)}. '
      'Give a new --workdir, or set the old values'
    )


def check_use(config: config_lib.Config, workdir: epath.Path) -> None:
  """Checks that the model in a workdir is used as it was trained.

  The model section and the prompt must be the same. If the prepared data are the same, also after a move, the data
  and SID sections must be the same too. For other data, `recjax.workdir.resume.check_tokens` checks the tokens.

  Raises:
    ValueError: a field differs; the message names it.
  """
  old = config_of(workdir)
  if old is None:
    return
  config = _with_sids_of(old, config)
  same_folder = paths.absolute(old.prepared_folder) == paths.absolute(config.prepared_folder)
  is_same = same_folder or paths.trained_on(workdir, config.prepared_folder) is not None
  different = _section_differences(old, config, _IDENTITY if is_same else ('model',))
  was, now = config_lib.next_item_component(old), config_lib.next_item_component(config)
  was, now = (
    {name: getattr(component, name) for name in config_lib.PROMPT_FIELDS}
    for component in (was, now)
  )
  different += _differences(was, now, 'the next_item component.')
  if different:
    raise ValueError(
      f'the model in {workdir} must be used as it was trained; these fields differ: {", ".join(different)}. '
      'Set the old values, or give the --workdir of another run'
    )
