"""What a workdir belongs to: the config of its run, in config.json."""

from collections.abc import Iterable
import dataclasses
import json
from typing import Any

from etils import epath

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.runtime import distributed
from recjax.schema.optim import Optim
from recjax.workdir.checkpoints import Meta

FILE = 'config.json'

# A run with other values here is another run. (What the stream is made of is checked against the
# checkpoints, by fingerprint.)
_IDENTITY = ('data', 'sids', 'model')
_LOCATIONS = ('raw_dir', 'prepared_dir', 'download', 'download_url', 'table', 'extend')
_FOLDERS = ('pretrained', 'sid_keywords')  # may have moved, but are there or not
_HOW_TO_COMPUTE = ('compute_dtype', 'remat', 'scan_unroll', 'attention')
_PROMPT = ('show', 'title_tokens', 'prompts', 'gaps', 'events')  # of the next_item component


def config_of(workdir: epath.Path) -> config_lib.Config | None:
  """The config that the run in a workdir was last started with; None where none was.

  Raises:
    ValueError: config.json is of another version of the program.
  """
  path = workdir / FILE
  if not path.exists():
    return None
  try:
    return config_lib.from_dict(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f'{path} must be a config of this version: {error}') from error


def _differences(
  section: str, old: dict[str, Any], new: dict[str, Any], names: Iterable[str]
) -> list[str]:
  return [
    f'{section}.{name} ({old.get(name)!r} there, {new[name]!r} here)'
    for name in names
    if old.get(name) != new[name]
    and not (name in _FOLDERS and None not in (old.get(name), new[name]))
  ]


def _of_sections(
  old: dict[str, Any], config: config_lib.Config, sections: Iterable[str]
) -> list[str]:
  new = json.loads(json.dumps(config.to_dict()))
  found = []
  for section in sections:
    names = [n for n in new[section] if n not in _LOCATIONS + _HOW_TO_COMPUTE]
    found += _differences(section, old.get(section, {}), new[section], names)
  return found


def check_run(config: config_lib.Config, workdir: epath.Path) -> None:
  """Raises a ValueError that names what differs, where a workdir belongs to another run."""
  path = workdir / FILE
  if not path.exists():
    return
  old = json.loads(path.read_text())
  different = _of_sections(old, config, _IDENTITY)
  was, now = list(old.get('stages', {})), list(config.stages)
  if was != now:
    different.append(f'stages ({was} there, {now} here)')
  if different:
    raise ValueError(
      f'workdir {workdir} belongs to another config; different are {", ".join(different)}. '
      'Give a new --workdir, or set the old values'
    )


def check_use(config: config_lib.Config, workdir: epath.Path) -> None:
  """Raises a ValueError where the model in a workdir would be used otherwise than it was trained.

  That is with another model section, another prompt, or, in the same prepared folder, with other data. Data
  of another folder may be used with it: `recjax.workdir.checkpoints.check_tokens` says whether they fit.
  """
  path = workdir / FILE
  if not path.exists():
    return
  old = json.loads(path.read_text())
  trained = config_of(workdir)
  same_folder = trained.prepared_folder == config.prepared_folder
  different = _of_sections(old, config, _IDENTITY if same_folder else ('model',))
  was, now = config_lib.next_item_component(trained), config_lib.next_item_component(config)
  here = {name: getattr(now, name) for name in _PROMPT}
  different += _differences('the next_item component', vars(was), here, _PROMPT)
  if different:
    raise ValueError(
      f'the model in {workdir} must be used as it was trained; different are {", ".join(different)}. '
      'Set the old values, or give the --workdir of another run'
    )


def claim(config: config_lib.Config, workdir: epath.Path) -> None:
  """Writes the config into the workdir; from now on it belongs to this config."""
  check_run(config, workdir)
  if distributed.is_host0():
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f'{FILE}.partial'
    partial.write_text(json.dumps(config.to_dict(), indent=2))
    partial.replace(workdir / FILE)


def check_tokens(meta: Meta, dataset: Dataset, folder: epath.Path) -> None:
  """Raises a ValueError where a checkpoint's model speaks other codes or pieces than the data set."""
  where = (
    'Set --config.data.prepared_dir to the data that it was trained on, or to data that were prepared '
    'with --config.sids.extend=<that folder>'
  )
  code_space = dataset.sids.code_space_hash
  if meta.code_space != code_space:
    raise ValueError(
      f'the model in {folder} must be used with SIDs of its own code space {meta.code_space}; the '
      f'prepared data in {dataset.folder} have {code_space}. {where}'
    )
  if meta.stream['tokenizer'] != dataset.files_digest('tokenizer'):
    raise ValueError(
      f'the model in {folder} must be used with its own tokenizer; the prepared data in '
      f'{dataset.folder} have another. {where}'
    )


def check_stream(
  meta: Meta, stream: dict[str, str], folder: epath.Path, allow_new_stream: bool
) -> bool:
  """Whether a resume continues the same stream; False: it was told to begin a new one.

  Raises:
    ValueError: the stream changed and `checkpoint.allow_new_stream` is not set.
  """
  changed = sorted(part for part in stream if stream[part] != meta.stream.get(part))
  if changed and not allow_new_stream:
    raise ValueError(
      f'a resume must continue the stream of examples that the checkpoints in {folder} were trained '
      f'on; changed since: {", ".join(changed)}. Undo the change, give a new --workdir (with '
      '--config.checkpoint.init_from to keep the parameters), or set '
      '--config.checkpoint.allow_new_stream=True to begin a new stream deliberately'
    )
  return not changed


def check_optimizer(meta: Meta, optim: Optim, folder: epath.Path) -> None:
  """Raises a ValueError where the state of a checkpoint's optimizer would not fit today's."""
  now = dataclasses.asdict(optim)
  for name in ('optimizer', 'ema_decay', 'groups'):
    old = meta.config['optim'].get(name)
    if old != now[name]:
      raise ValueError(
        f'a resume must keep optim.{name} of the checkpoints in {folder}: {old!r}; got {now[name]!r}. '
        f'Set --config.optim.{name}, or give a new --workdir with --config.checkpoint.init_from'
      )
