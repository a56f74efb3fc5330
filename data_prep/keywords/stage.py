"""The `keywords` stage: describes the items of each SID token, with one of three teachers."""

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import Any

from etils import epath

from data_prep import files, refresh
from data_prep import stage as stage_lib
from data_prep.keywords import ctfidf, http_teacher, published
from data_prep.keywords.groups import Group, groups
from recjax import config as config_lib
from recjax.data.prepared import Prepared
from recjax.runtime.files import is_local, write_whole
from recjax.schema.items import Keywords
from recjax.sids import keywords as keywords_lib
from recjax.sids.table import SidTable

NAME, FILE = keywords_lib.FILE.split('/')
# In the prepared folder, not in the stage's: paid answers must outlive the stage.
JOURNAL = '.keywords.answers.jsonl'


def check_ready(config: config_lib.Config, root: epath.Path, raw_dir: epath.Path) -> None:
  """Checks the settings of the teacher before the first stage runs.

  Args:
    config: the config of the run.
    root: the prepared folder. If it holds keywords of this teacher, nothing is checked.
    raw_dir: the folder of raw files.

  Raises:
    FileNotFoundError: the file to import is missing.
    ValueError: the key of the endpoint is missing, or the answers cannot be stored.
  """
  if not config.needs('keywords'):
    return
  section = config.keywords
  params = _params(section)
  if any(stage_lib.has_params(made, params) for made in stage_lib.variants(root, NAME).values()):
    return
  if section.teacher == 'import' and not files.find_file(section.file, raw_dir).exists():
    raise FileNotFoundError(
      f'{section.file} must exist, also relative to {raw_dir}. Set --config.keywords.file'
    )
  if section.teacher == 'http':
    _journal(root)
    http_teacher.api_key(section)


def _params(section: Keywords) -> dict[str, Any]:
  # The URL is left out: the same model at another URL is the same teacher.
  names = {'import': (), 'http': ('model', 'keywords', 'items')}.get(section.teacher, ('keywords',))
  return {'teacher': section.teacher} | {name: getattr(section, name) for name in names}


def stage(config: config_lib.Config, prepared: Prepared, raw_dir: epath.Path) -> stage_lib.Stage:
  """Returns the stage that reads items and SIDs, and writes keywords.json: one entry per used token.

  The codes of a de-duplication level have no meaning, so they get no entry.

  Args:
    config: `config.keywords` names the teacher.
    prepared: the earlier stages.
    raw_dir: folder that a relative `keywords.file` refers to, if it is not in the working directory.
  """
  section = config.keywords
  inputs = stage_lib.outputs(prepared, files.ITEMS, 'sids/codes.npy', 'sids/sids.json')
  if section.teacher == 'import':
    file = files.find_file(section.file, raw_dir)
    inputs['keywords_file'] = file
    teach = functools.partial(published.entries, file)
  elif section.teacher == 'http':
    teach = functools.partial(_ask, prepared.root, config)
  else:
    teach = functools.partial(ctfidf.entries, top=section.keywords)

  def run(out: epath.Path) -> dict[str, Any]:
    sid_table = SidTable.load(prepared / 'sids')
    entries = teach(groups(sid_table), files.read_items(prepared / files.ITEMS))
    keywords_lib.write(out / FILE, entries)
    counts = [len(entry['keywords']) for entry in entries]
    return {
      'tokens': len(entries),
      'mean_keywords': round(sum(counts) / len(counts), 3),
      'tokens_without_keywords': counts.count(0),
    }

  return stage_lib.Stage(NAME, run, inputs, _params(section))


def _ask(
  root: epath.Path,
  config: config_lib.Config,
  token_groups: Sequence[Group],
  items: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
  journal = _journal(root)
  if config.sids.extend is not None:  # reuse the paid answers of the earlier preparation
    earlier = refresh.extended_root(config.sids).expanduser() / JOURNAL
    if earlier.exists() and not journal.exists():
      write_whole(journal, earlier.read_bytes())
  return http_teacher.entries(token_groups, items, config.keywords, journal)


def _journal(root: epath.Path) -> pathlib.Path:
  """The path of the journal. Each answer is synced to the disk, which object storage does not support."""
  if not is_local(root):
    raise ValueError(
      "data.prepared_dir must be a local folder if keywords.teacher is 'http', because every answer is synced "
      f'to the disk; got {os.fspath(root)}. Set --config.data.prepared_dir and copy the folder afterwards'
    )
  return pathlib.Path(root.expanduser(), JOURNAL)
