"""Reads an exported folder back, without the workdir and the prepared data that it came from.

The prompt and the items are those of prompt.json and items.jsonl (`recjax.workdir.export.files`), the parameters those
of the checkpoint. The folder has no training log: nothing is looked up, and items are ranked by the codes alone.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import logging
import types
from typing import Any

from etils import epath
import numpy as np

from recjax.data.sequences import Sequences
from recjax.models import pretrained
from recjax.models.pretrained import IdMap, json_file
from recjax.models.pretrained.ids import FILE as SIZES
from recjax.runtime import files
from recjax.schema.model import Model
from recjax.schema.run import Eval
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from recjax.workdir.export.files import BUNDLE, ITEMS, PROMPT

log = logging.getLogger(__name__)

_LINE = {'item': str, 'token_ids': list, 'popularity': int}
_FIELDS = {
  'level_sizes': list,
  'before_history': list,
  'after_history': list,
  'show': str,
  'max_history': int,
  'event_names': list,
  'sid_softmax': str,
  'shared_sids': str,
  'beams': int,
}


def is_export(folder: epath.PathLike) -> bool:
  """Returns whether a folder is an export of ours."""
  folder = epath.Path(folder)
  return (folder / PROMPT).exists() and (folder / ITEMS).exists()


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedData:
  """What a ranker reads of a data set (`recjax.data.dataset.Dataset`), and the tokens of an export.

  Attributes:
    folder: the exported folder.
    prompt: the content of prompt.json.
    items: the items in index order: `id` and `title`.
    sids: their semantic IDs.
    shown: int32, our tokens of every item in prompts.
    popularity_I: number of training interactions of every item.
    ids: map of our token ids to the exported ones.
  """

  folder: epath.Path
  prompt: dict[str, Any]
  items: list[dict[str, Any]]
  sids: SidTable
  shown: list[np.ndarray]
  popularity_I: np.ndarray
  ids: IdMap

  @property
  def num_items(self) -> int:
    return len(self.items)

  @property
  def vocabulary(self) -> Any:
    return types.SimpleNamespace(space=self.ids.space)

  @property
  def train(self) -> Sequences:
    """The items of the training interactions, of which only the numbers are known."""
    items = np.repeat(np.arange(self.num_items), self.popularity_I)
    return Sequences(items, np.array([0, len(items)]))

  @property
  def event_names(self) -> list[str]:
    return self.prompt['event_names']

  @property
  def target_events(self) -> np.ndarray | None:
    names = self.prompt['target_events']
    return None if names is None else np.array([name in names for name in self.event_names])

  def files_digest(self, stage: str, *names: str) -> str:
    """Returns a hash of the items; there is one file for all stages."""
    return files.sha256(self.folder / ITEMS)

  @functools.cached_property
  def ours(self) -> np.ndarray:
    """int32, our token id for every exported one."""
    exported = self.ids.exported()
    found = np.zeros(int(exported.max()) + 1, np.int32)
    found[exported] = np.arange(len(exported))
    return found

  def tokens(self, parts: Sequence[dict[str, Any]]) -> np.ndarray:
    """Returns our tokens of parts of a prompt, int32."""
    return self.ours[[id_ for part in parts for id_ in part['ids']]].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class ExportedPrompt:
  """The prompt of an export, in place of the component of the mixture that the run had.

  Attributes:
    needs: the columns that prompts show: `times`, `events`, both or none.
  """

  needs: frozenset[str]

  def corpus_of(self, data: ExportedData, family: Any) -> ExportedData:
    """Returns the data, whose tokens are known."""
    return data

  def inference_prompt(
    self,
    data: ExportedData,
    items: np.ndarray,
    times: np.ndarray | None = None,
    events: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns the prompt after a history of item indices, int32; see `NextItem.inference_prompt`."""
    prompt, items = data.prompt, np.asarray(items)
    parts = [data.tokens(prompt['before_history'])]
    first = max(len(items) - prompt['max_history'], 0)
    for n in range(first, len(items)):
      parts.append(data.shown[items[n]])
      if prompt['gaps'] and times is not None and n > first:
        gap = int(times[n]) - int(times[n - 1])
        notes = (note for note in prompt['gaps'] if note['up_to'] is None or gap <= note['up_to'])
        parts.append(data.tokens([next(notes)]))
      if prompt['events'] and events is not None:
        parts.append(data.tokens([prompt['events'][data.event_names[events[n]]]]))
    return np.concatenate([*parts, data.tokens(prompt['after_history'])])

  def max_prompt_length(self, data: ExportedData) -> int:
    """Returns the length of the longest prompt in tokens."""
    prompt = data.prompt
    ends = len(data.tokens([*prompt['before_history'], *prompt['after_history']]))
    notes = [prompt['gaps'] or [], list((prompt['events'] or {}).values())]
    longest = max(map(len, data.shown))
    longest += sum(max((len(note['ids']) for note in each), default=0) for each in notes)
    return ends + prompt['max_history'] * longest


def read(folder: epath.PathLike) -> tuple[ExportedData, ExportedPrompt, Model, Eval]:
  """Reads an exported folder but for its parameters.

  Returns:
    The data, the prompt, and the sections of the config that a ranker needs.

  Raises:
    ValueError: a file is damaged or lacks a field.
  """
  folder = epath.Path(folder)
  is_bundle = _check_bundle(folder)
  file = folder / PROMPT
  prompt = json_file.read_json(file)
  for name, kind in _FIELDS.items():
    json_file.field(file, prompt, name, kind, None)
  sizes_file = folder / SIZES
  sizes = json_file.read_json(sizes_file)
  text_size, pieces = (
    json_file.field(sizes_file, sizes, name, int, None) for name in ('text_size', 'tokenizer_size')
  )
  if missing := sorted(
    {*_FIELDS, 'exclude_seen', 'gaps', 'events', 'target_events'} - prompt.keys()
  ):
    raise ValueError(f'{file} must have the fields that --mode=export writes; it lacks {missing}')
  others = json_file.field(file, prompt, 'left_out', list, [])  # absent in older folders
  if others and not is_bundle:
    log.warning(
      '%s ranks by the codes alone: it has not %s of its run, so its lists differ from those of the run. Load the '
      'workdir, or use a bundle (--format=bundle)',
      folder,
      ' and '.join(map(str, others)),
    )
  ids = IdMap(TokenSpace(text_size, tuple(prompt['level_sizes'])), pieces)
  lines = list(_lines(folder / ITEMS))
  empty = ExportedData(folder, prompt, [], None, [], None, ids)
  tokens_IL = empty.ours[np.array([line['token_ids'] for line in lines])]
  starts_L = np.asarray(ids.space.level_starts) + ids.space.sid_start
  codes_IL = (tokens_IL - starts_L).astype(np.int32)
  table = SidTable(codes_IL, ids.space.level_sizes, 'exported', 'keep')
  space = dataclasses.replace(ids.space, catalogue=table.catalogue)
  if prompt['show'] == 'sid':
    shown = list(tokens_IL.astype(np.int32))
  else:
    shown = [empty.ours[line['prompt_ids']].astype(np.int32) for line in lines]
  data = dataclasses.replace(
    empty,
    items=[{'id': line['item'], 'title': line.get('title')} for line in lines],
    sids=table,
    shown=shown,
    popularity_I=np.array([line['popularity'] for line in lines]),
    ids=IdMap(space, pieces),
  )
  columns = {'times': prompt['gaps'], 'events': prompt['events']}
  needs = frozenset(name for name, shown in columns.items() if shown)
  model = Model(
    family=pretrained.family_of(folder).name, pretrained=str(folder), sid_softmax=prompt['sid_softmax']
  )  # fmt: skip
  settings = Eval(
    beams=prompt['beams'],
    ks=(10,),
    exclude_seen=prompt['exclude_seen'],
    shared_sids=prompt['shared_sids'],
  )
  return data, ExportedPrompt(needs), model, settings


def _check_bundle(folder: epath.Path) -> bool:
  """Returns whether the folder is a bundle.

  Raises:
    ValueError: it ranks by more than the codes, or holds no model of transformers.
  """
  if not (folder / BUNDLE).exists():
    return False
  info = json_file.read_json(folder / BUNDLE)
  others = [name for name, weight in (info.get('weights') or {}).items() if weight]
  if others or not info.get('prepare'):
    reason = (
      f'scores of {", ".join(others)}' if others else 'a model that transformers does not know'
    )
    raise ValueError(
      f'a bundle must rank by the codes of a model of transformers to be read back; {folder} has {reason}. Run its '
      'rank.py, or set workdir to the run'
    )
  return True


def _lines(file: epath.Path) -> Iterator[dict[str, Any]]:
  """Yields the lines of items.jsonl."""
  with file.open('rb') as f:
    for number, text in enumerate(f, 1):
      try:
        line = json.loads(text)
      except ValueError as error:
        raise ValueError(f'{file}:{number} must be a JSON object; {error}. Export again') from error
      if not isinstance(line, dict) or not all(
        isinstance(line.get(k), t) for k, t in _LINE.items()
      ):
        raise ValueError(f'{file}:{number} must have {", ".join(_LINE)}; it has not. Export again')
      yield line
