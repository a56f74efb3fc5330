"""The files of an export beside the model, read with json and `tokenizers` alone."""

import dataclasses
import json

from flax import traverse_util
import numpy as np
import pytest
import tokenizers

from recjax import config as config_lib
from recjax import models
from recjax.data.corpus import Corpus
from recjax.models import pretrained
from recjax.sids import published
from recjax.workdir.export import folder as export
from tests.recjax.workdir.export import exports


def read(folder):
  items = [json.loads(line) for line in (folder / 'items.jsonl').read_text().splitlines()]
  return json.loads((folder / 'prompt.json').read_text()), items


def ids_of(parts, tokenizer):
  """Encodes the parts of a prompt anew, and compares with the ids in the file."""
  ids = []
  for part in parts:
    named = [tokenizer.token_to_id(token) for token in part['tokens']]
    encoded = named
    if part['text'] is not None:
      encoded = tokenizer.encode(part['text'], add_special_tokens=False).ids
    assert encoded == named == part['ids']
    ids += encoded
  return ids


def prompt_of(prompt, items, history, tokenizer, gaps=(), events=()):
  """The ids of a prompt in the folder's vocabulary, by a plain reading of the files."""
  ids = ids_of(prompt['before_history'], tokenizer)
  first = max(0, len(history) - prompt['max_history'])
  for n in range(first, len(history)):
    item = items[history[n]]
    sid = tokenizer.encode(''.join(item['tokens']), add_special_tokens=False).ids
    assert sid == item['token_ids']
    if prompt['show'] != 'sid':
      title = tokenizer.encode(item['title'] or '', add_special_tokens=False).ids
      ids += (sid if prompt['show'] == 'both' else []) + title[: prompt['title_tokens']]
      ids.append(tokenizer.token_to_id('<separator>'))
    else:
      ids += sid
    notes = [gaps[n]] if len(gaps) and n > first else []
    for note in [*notes, *([f'({events[n]})'] if len(events) else [])]:
      ids += tokenizer.encode(note, add_special_tokens=False).ids
  return ids + ids_of(prompt['after_history'], tokenizer)


def ours(config, dataset, history, **known):
  """The ids of recjax's own prompt, in the vocabulary of the export."""
  corpus = Corpus.of(dataset, models.family(config.model))
  task = config_lib.next_item_component(config)
  ids = pretrained.IdMap(dataset.vocabulary.space, dataset.vocabulary.num_pieces).exported()
  return ids[task.inference_prompt(corpus, np.array(history, int), **known)].tolist()


@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_the_files_of_a_run_from_scratch_reproduce_its_prompts(tmp_path, family):
  config, dataset = exports.rated(family, gaps=True, events=True, show='both')
  exports.write(tmp_path / 'out', config, dataset)
  tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / 'out' / 'tokenizer.json'))
  prompt, items = read(tmp_path / 'out')
  assert (prompt['sid_softmax'], prompt['exclude_seen'], prompt['beams']) == ('level', True, 24)
  assert [item['item'] for item in items] == [f'i{i:02}' for i in range(24)]
  counts = np.bincount(np.concatenate([dataset.train[u] for u in range(40)]), minlength=24)
  assert [item['popularity'] for item in items] == counts.tolist()
  assert items[0]['tokens'] == items[1]['tokens'] == ['<a_0>', '<b_1>']

  history, times = [3, 9, 1, 1, 20, 7, 4], np.cumsum([0, 50, 90_000, 10**6, 0, 10**7, 10**9])
  names = [dataset.event_names[n] for n in (0, 1, 1, 0, 1, 0, 0)]
  words = {g['text']: g['up_to'] for g in prompt['gaps']}
  gaps = [''] + [
    next(text for text, limit in words.items() if limit is None or gap <= limit)
    for gap in np.diff(times)
  ]
  known = {'times': times, 'events': np.array([dataset.event_names.index(n) for n in names])}
  expected = ours(config, dataset, history, **known)
  assert prompt_of(prompt, items, history, tokenizer, gaps, names) == expected
  assert prompt_of(prompt, items, [], tokenizer) == ours(config, dataset, [])
  table = published.read(tmp_path / 'out' / 'table.json', [i['item'] for i in items], (4, 6))
  np.testing.assert_array_equal(table, dataset.sids.codes_IL)


def test_the_files_of_a_checkpoint_with_a_chat_template_reproduce_its_prompts(tmp_path):
  config, dataset = exports.pretrained(tmp_path, 'qwen3', chat=True)
  exports.write(tmp_path / 'out', config, dataset)
  tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / 'out' / 'tokenizer.json'))
  prompt, items = read(tmp_path / 'out')
  assert prompt['prompt_format'] == 'chat' and prompt['gaps'] is prompt['events'] is None
  assert prompt['wordings'] == ['w3 w4 unknown: {history}']
  for history in ([], [5], list(range(30))):
    assert prompt_of(prompt, items, history, tokenizer) == ours(config, dataset, history)
  names = {path.name for path in (tmp_path / 'out').iterdir()}
  assert names >= {'recommend.py', 'table.json', 'config.json', 'model.safetensors', 'recjax.json'}


def test_an_exported_run_from_scratch_is_read_back_as_the_same_model(tmp_path):
  config, dataset = exports.rated()
  params = exports.write(tmp_path / 'out', config, dataset)
  found, space = pretrained.read_config(tmp_path / 'out'), dataset.vocabulary.space
  assert found.vocab_rows == space.size
  loaded = pretrained.load(tmp_path / 'out', pretrained.abstract(found, space)[1], space)
  loaded, params = (traverse_util.flatten_dict(tree, sep='/') for tree in (loaded, params))
  assert loaded.keys() == params.keys()
  rows = {'tables/text': space.text_size, 'tables/sid': space.sid_size}  # the rest is padding
  for name, x in params.items():
    np.testing.assert_array_equal(loaded[name][: rows.get(name)], x[: rows.get(name)], name)


def test_a_failed_export_leaves_nothing_and_a_model_without_a_config_json_is_refused(
  tmp_path, monkeypatch
):
  config, dataset = exports.rated()
  params = exports.random_params(config, dataset)

  def fails(*_, **__):
    raise OSError('no space')

  with monkeypatch.context() as patched:
    patched.setattr(export.files, 'write', fails)
    with pytest.raises(OSError, match='no space'):
      export.write(str(tmp_path / 'made' / 'out'), config, dataset, params)
  assert list((tmp_path / 'made').iterdir()) == []
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').touch()
  with pytest.raises(FileExistsError, match='--out must be a new or an empty folder'):
    export.check(str(tmp_path / 'full'), config, dataset)
  shape = dataclasses.replace(models.shape_of(config.model), embedding_scale=False)
  with pytest.raises(ValueError, match=r'no config\.json describes') as caught:
    pretrained.described(models.family(config.model), shape, 100, 2, 1)
  assert '\n' not in str(caught.value)


def test_the_kinds_that_count_as_seen_are_written(tmp_path):
  for context, targets in (((), None), (('view',), ['buy'])):
    config, dataset = exports.rated(context=context)
    out = tmp_path / str(bool(context)) / 'out'
    exports.write(out, config, dataset)
    prompt, _ = read(out)
    assert (prompt['event_names'], prompt['target_events']) == (['buy', 'view'], targets)
    assert prompt['events'] is None
