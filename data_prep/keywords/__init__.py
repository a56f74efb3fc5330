"""The stage of keywords: what the items of every SID token share, said by one of three teachers."""

from collections.abc import Sequence
import functools
import os
import pathlib
import shutil
from typing import Any

from etils import epath

from data_prep import files
from data_prep import stage as stage_lib
from data_prep.keywords import ctfidf, http_teacher, published
from data_prep.keywords.groups import Group, groups
from data_prep.texts import tokenizer
from recjax import config as config_lib
from recjax.sids import keywords as keywords_lib
from recjax.sids.table import SidTable

NAME, FILE = keywords_lib.FILE.split('/')
JOURNAL = '.keywords.answers.jsonl'  # in the prepared folder; what was paid for outlives the stage


def check_ready(config: config_lib.Config, root: epath.Path, raw_dir: epath.Path) -> None:
  """Ends a first preparation before it begins if the teacher cannot be asked at its end.

  Args:
    config: of the run.
    root: the prepared folder; once it holds keywords, neither file nor key need be there.
    raw_dir: where raw files lie.

  Raises:
    FileNotFoundError: the file to import is missing.
    ValueError: there is no key for the endpoint, or no place for its answers.
  """
  if not config.needs('keywords') or (root / NAME).exists():
    return
  section = config.keywords
  if section.teacher == 'import' and not files.found(section.file, raw_dir).exists():
    raise FileNotFoundError(
      f'{section.file} is missing, also in {raw_dir}. Set --config.keywords.file'
    )
  if section.teacher == 'http':
    _journal(root)
    http_teacher.api_key(section)


def stage(config: config_lib.Config, root: epath.Path, raw_dir: epath.Path) -> stage_lib.Stage:
  """Reads items and SIDs and writes keywords.json: one entry for every used token.

  Tokens are those of quantized levels; the codes of a de-duplication level mean nothing.

  Args:
    config: `keywords` says who the teacher is.
    root: the prepared folder.
    raw_dir: where a relative `keywords.file` is looked for if it is not there.
  """
  section = config.keywords
  inputs = stage_lib.outputs(root, files.ITEMS, 'sids/codes.npy', 'sids/sids.json')
  params: dict[str, Any] = {'teacher': section.teacher}
  if section.teacher == 'import':
    file = files.found(section.file, raw_dir)
    inputs['keywords_file'] = file
    teach = functools.partial(published.entries, file)
  elif section.teacher == 'http':
    # The same model under another address is the same teacher.
    params |= {name: getattr(section, name) for name in ('model', 'keywords', 'items')}
    teach = functools.partial(_ask, root, config)
  else:
    params['keywords'] = section.keywords
    teach = functools.partial(ctfidf.entries, top=section.keywords)

  def run(out: epath.Path) -> dict[str, Any]:
    sid_table = SidTable.load(root / 'sids')
    entries = teach(groups(sid_table), tokenizer.read_items(root / files.ITEMS))
    keywords_lib.write(out / FILE, entries)
    counts = [len(entry['keywords']) for entry in entries]
    return {
      'tokens': len(entries),
      'mean_keywords': round(sum(counts) / len(counts), 3),
      'tokens_without_keywords': counts.count(0),
    }

  return stage_lib.Stage(NAME, run, inputs, params)


def _ask(
  root: epath.Path,
  config: config_lib.Config,
  of_tokens: Sequence[Group],
  items: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
  journal = _journal(root)
  if config.sids.extend is not None:  # yesterday's answers are paid for, too
    earlier = pathlib.Path(config.sids.extend, JOURNAL).expanduser()
    if earlier.exists() and not journal.exists():
      partial = journal.with_name(f'{JOURNAL}.partial')
      shutil.copyfile(earlier, partial)
      partial.replace(journal)
  return http_teacher.entries(of_tokens, items, config.keywords, journal)


def _journal(root: epath.Path) -> pathlib.Path:
  """The file of paid answers: each is forced to the disk, which object storage cannot do."""
  if '://' in os.fspath(root):
    raise ValueError(
      "data.prepared_dir must be a local folder where keywords.teacher is 'http', to keep every answer "
      f'at once; got {os.fspath(root)}. Set --config.data.prepared_dir and copy the folder afterwards'
    )
  return pathlib.Path(root.expanduser(), JOURNAL)
