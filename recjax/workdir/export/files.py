"""The files of an export beside the model: the prompt, the catalogue and the script that recommends.

prompt.json holds everything that the search needs to make a prompt and to score items. items.jsonl holds the
catalogue with raw ids, titles, SID tokens and popularity; table.json maps raw ids to SID tokens, in the format of
`recjax.sids.published`. All token ids are those of the exported tokenizer. recommend.py is
`recjax/workdir/export/standalone.py`; generate.py gives the same items by `generate` of transformers.
"""

from collections.abc import Iterable, Mapping
import json
from typing import Any

from etils import epath
import numpy as np

from recjax import models
from recjax.config import Config, next_item_component
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.tasks.next_item import GAPS, NextItem
from recjax.models.pretrained import IdMap, tokenizer_files
from recjax.schema.blend import NONE
from recjax.sids import published

PROMPT, ITEMS, SCRIPT = 'prompt.json', 'items.jsonl', 'recommend.py'
BUNDLE = 'bundle.json'  # of a bundle alone
ROWS = 'history_rows.py'  # of both kinds of folders
# Of a folder of transformers.
SCRIPTS = {SCRIPT: 'standalone.py', 'generate.py': 'generate.py', ROWS: ROWS}
NOTE = (
  'scores are normalised over the codes of each level (model.sid_softmax=level): recommend.py does that; a plain '
  '`generate` of transformers does not, and ranks as recjax does only for a model that was trained with '
  '--config.model.sid_softmax=full'
)


class _Exported:
  """Converts our token ids to those of the exported folder, and names them.

  Args:
    folder: holds the exported tokenizer, if there is one.
    ids: map of our token ids to the exported ones. None: the folder has our ids.
    size: number of token ids.
  """

  def __init__(self, folder: epath.Path, ids: IdMap | None, size: int):
    self._ids = np.arange(size) if ids is None else ids.exported()
    self._tokens = tokenizer_files.tokens(folder)

  def ids(self, ours: Iterable[int]) -> list[int]:
    return self._ids[np.asarray(list(ours), np.int64)].tolist()

  def part(self, ours: Iterable[int], text: str | None = None) -> dict[str, Any]:
    """Returns a part of a prompt: its text (None: control tokens), its tokens and their ids."""
    ids = self.ids(ours)
    tokens = None if self._tokens is None else [self._tokens.token_of(i) for i in ids]
    return {'text': text, 'tokens': tokens, 'ids': ids}


def other_scores(config: Config) -> list[str]:
  """Returns in words the scores of a run that a model of `transformers` does not have."""
  settings = config.eval
  scores = {
    'the item head': config.model.item_head,
    'the counts of the training (memory)': settings.memory.counts != NONE,
    'the similarity of texts': settings.text.vectors != NONE,
  }
  return [name for name, is_used in scores.items() if is_used]


Parts = list[tuple[str | None, Iterable[int]]]


def prompt_parts(corpus: Corpus, task: NextItem) -> tuple[Parts, Parts]:
  """Returns the parts of the prompt before and after the history: a text (None: control tokens) and our token ids."""
  prompter, wording = corpus.prompter, task.used_prompts[0]
  words = wording.removesuffix('{history}')
  text = [(words, prompter.text(words))] if words else []
  before, between = (
    [(None, ids)] if ids else [] for ids in (prompter.form.before, prompter.form.between)
  )
  is_split = corpus.is_encoder_decoder  # a decoder's history is the beginning of its answer
  return [*before, *text, *([] if is_split else between)], between if is_split else []


def _prompt(corpus: Corpus, task: NextItem, exported: _Exported) -> dict[str, Any]:
  """Returns the wording, and the parts of the prompt before and after the history."""
  before, after = (
    [exported.part(ids, text) for text, ids in parts] for parts in prompt_parts(corpus, task)
  )
  return {
    'wording': task.used_prompts[0],
    'wordings': list(task.used_prompts),
    'prompt_format': 'plain' if corpus.dataset.vocabulary.chat is None else 'chat',
    'before_history': before,
    'after_history': after,
  }


def prompt_fields(config: Config, dataset: Dataset, exported: _Exported) -> dict[str, Any]:
  """Returns the content of prompt.json; see the module."""
  task, vocabulary = next_item_component(config), dataset.vocabulary
  corpus = Corpus.of(dataset, models.family(config.model))
  text, space = corpus.prompter.text, vocabulary.space
  bos, eos, separator = exported.ids(
    [vocabulary.bos_id, vocabulary.eos_id, vocabulary.special_id('<separator>')]
  )
  gaps = [
    {'up_to': None if np.isinf(limit) else limit} | exported.part(text(words), words)
    for limit, words in GAPS
  ]
  events = {name: exported.part(text(f'({name})'), f'({name})') for name in dataset.event_names}
  is_target, names = dataset.target_events, dataset.event_names
  return {
    'version': 1,
    'is_encoder_decoder': corpus.is_encoder_decoder,
    **_prompt(corpus, task, exported),
    'show': task.shown_as(corpus.is_encoder_decoder),
    'title_tokens': task.title_tokens,
    'max_history': task.max_items - 1,
    'separator': {'token': '<separator>', 'id': separator},
    'gaps': gaps if task.gaps else None,
    'events': events if task.events else None,
    'bos_id': bos,
    'eos_id': eos,
    'start_id': models.start_id(config.model),
    'first_sid_id': exported.ids([space.sid_start])[0],
    'level_sizes': list(space.level_sizes),
    'sid_softmax': config.model.sid_softmax,
    'exclude_seen': config.eval.exclude_seen,
    'shared_sids': config.eval.shared_sids,
    'event_names': names,
    'target_events': None if is_target is None else np.array(names)[is_target].tolist(),
    'beams': config.eval.beams,
    'left_out': other_scores(config),
  }


def _items(config: Config, dataset: Dataset, exported: _Exported) -> Iterable[dict[str, Any]]:
  """Yields the lines of items.jsonl."""
  task, space = next_item_component(config), dataset.vocabulary.space
  corpus = Corpus.of(dataset, models.family(config.model))
  shown_as = task.shown_as(corpus.is_encoder_decoder)
  counts = dataset.train.counts(dataset.num_items).tolist()
  for i, item in enumerate(dataset.items):
    ours = corpus.sid_tokens_IL[i]
    line = {'item': item['id'], 'title': item.get('title')}
    line['tokens'] = [space.sid_names[token - space.sid_start] for token in ours]
    line['token_ids'] = exported.ids(ours)
    if shown_as != 'sid':
      shown, _ = corpus.items(np.array([i]), shown_as, task.title_tokens)
      line['prompt_ids'] = exported.ids(shown)
    yield line | {'popularity': counts[i]}


def write(folder: epath.Path, ids: IdMap | None, config: Config, dataset: Dataset) -> None:
  """Writes prompt.json, items.jsonl and table.json.

  Args:
    folder: holds the exported tokenizer, if there is one.
    ids: map of our token ids to the exported ones. None: the files have our ids.
    config: config of the run.
    dataset: the prepared data.
  """
  exported = _Exported(folder, ids, dataset.vocabulary.space.size)
  fields = prompt_fields(config, dataset, exported)
  text = json.dumps(fields, indent=2, ensure_ascii=False) + '\n'
  (folder / PROMPT).write_text(text, encoding='utf-8')
  with (folder / ITEMS).open('w', encoding='utf-8') as f:
    for line in _items(config, dataset, exported):
      f.write(json.dumps(line, ensure_ascii=False) + '\n')
  names = [item['id'] for item in dataset.items]
  published.write(folder / published.FILE, names, dataset.sids.codes_IL)


def write_scripts(folder: epath.Path, scripts: Mapping[str, str]) -> None:
  """Writes scripts: name in the folder → module of this package."""
  package = epath.resource_path('recjax') / 'workdir' / 'export'
  for name, module in scripts.items():
    (folder / name).write_text((package / module).read_text(encoding='utf-8'), encoding='utf-8')
