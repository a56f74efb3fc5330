"""Runs that begin with a checkpoint's folder: tokenizer, weights, SID rows, and training on."""

import dataclasses
import json
import shutil

from etils import epath
import numpy as np
import pytest
from safetensors.numpy import load_file
import tokenizers

from configs import demo
from data_prep import prepare
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.evaluate import make_context
from recjax.schema.model import SID_ROWS
from recjax.sharding import mesh as mesh_lib
from recjax.train import train
from recjax.training import optim, start, state
from tests.goldens.make_decoders import GOLDENS, TOKENIZER_SIZE

WORDS = ['<pad>', '<eos>', '<bos>', 'rustic', 'kettle', 'copper']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A tiny Gemma 3 and a tiny T5 with a tokenizer of words."""
  root = tmp_path_factory.mktemp('pretrained')
  for kind in ('gemma3', 't5_v1_1'):
    shutil.copytree(GOLDENS / kind, root / kind)
    size = TOKENIZER_SIZE if kind == 'gemma3' else 80
    words = [*WORDS, *(f'w{i}' for i in range(size - len(WORDS)))]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token='<pad>'))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(root / kind / 'tokenizer.json'))
  return root


def world(folder, tmp_path, kind, fsdp=1, **model):
  d = demo.get_config('tiny')
  d.data.prepared_dir = str(tmp_path / 'data')
  d.model.pretrained = str(folder / kind)
  d.model.family = 't5' if kind.startswith('t5') else 'gemma'
  d.packing.row_length = 64
  d.num_train_steps = 2
  d.model.update(model)
  d.mesh.fsdp = fsdp
  config = config_lib.from_config_dict(d)
  prepare.prepare(config)
  dataset = Dataset.load(tmp_path / 'data')
  mesh = mesh_lib.make_mesh(config.mesh)
  tx = optim.optimizer(config.optim, 2)
  return (
    config,
    dataset,
    state.init_state(config.model, dataset.vocabulary.space, tx, mesh, config.seed).params,
  )


def test_tokenizer_and_prompts_come_from_the_checkpoint(folder, tmp_path):
  _, dataset, _ = world(folder, tmp_path, 'gemma3')
  vocabulary = dataset.vocabulary
  assert vocabulary.encode('rustic kettle') == [3, 4]
  assert (vocabulary.bos_id, vocabulary.eos_id) == (2, 1)
  assert vocabulary.num_pieces == TOKENIZER_SIZE
  assert vocabulary.space.text_size == TOKENIZER_SIZE + 34  # two specials and 32 sentinels of ours


@pytest.mark.parametrize('kind', ['gemma3', 't5_v1_1'])
def test_weights_are_loaded_and_train_on(folder, tmp_path, kind):
  config, dataset, fresh = world(folder, tmp_path, kind)
  params = start.pretrained_params(config.model, fresh, dataset)
  tensors = load_file(folder / kind / 'model.safetensors')
  name = 'model.embed_tokens.weight' if kind == 'gemma3' else 'shared.weight'
  size = dataset.vocabulary.num_pieces
  np.testing.assert_array_equal(params['tables']['text'][:size], tensors[name][:size])
  mean = tensors[name][:size].mean(axis=0)
  sids = np.asarray(params['tables']['sid'])[: dataset.vocabulary.space.sid_size]
  np.testing.assert_allclose(sids, np.tile(mean, (len(sids), 1)), atol=1e-6)
  mesh = mesh_lib.make_mesh(config.mesh)
  context = make_context(config, dataset, mesh)
  _, step = train(config, epath.Path(tmp_path / 'run'), context)
  assert step == 2


def test_sid_rows_can_be_random_or_from_keywords(folder, tmp_path):
  config, dataset, fresh = world(folder, tmp_path, 'gemma3', sid_rows='random')
  params = start.pretrained_params(config.model, fresh, dataset)
  np.testing.assert_array_equal(params['tables']['sid'], fresh['tables']['sid'])
  names = dataset.vocabulary.space.sid_names
  entries = [{'token': names[1], 'keywords': ['rustic', 'copper kettle'], 'description': ''}]
  (tmp_path / 'keywords.json').write_text(json.dumps(entries))
  model = dataclasses.replace(
    config.model, sid_rows='sa_init', sid_keywords=str(tmp_path / 'keywords.json')
  )
  params = start.pretrained_params(model, fresh, dataset)
  text = load_file(folder / 'gemma3' / 'model.safetensors')['model.embed_tokens.weight']
  text = text[:TOKENIZER_SIZE].astype(np.float64)
  expected = (text[3] + text[5] + text[4]) / 3
  expected *= np.linalg.norm(text, axis=1).mean() / np.linalg.norm(expected)
  np.testing.assert_allclose(params['tables']['sid'][1], expected, atol=1e-5)
  entries[0]['token'] = '<z_1>'
  (tmp_path / 'keywords.json').write_text(json.dumps(entries))
  with pytest.raises(
    ValueError, match=r"SID tokens such as '<a_0>'; the file has <z_1>.*sid_keywords"
  ):
    start.pretrained_params(model, fresh, dataset)
  (tmp_path / 'keywords.json').write_text('[{"token": "<a_1>", "keywords": "soap"}]')
  with pytest.raises(ValueError, match=r'keywords.json, entry 0, must be an object with a token'):
    start.pretrained_params(model, fresh, dataset)


@pytest.mark.parametrize(('kind', 'fsdp'), [('gemma3', 1), ('gemma3', 4), ('t5_v1_1', 1)])
def test_prepared_keywords_initialize_the_rows_of_every_table(folder, tmp_path, kind, fsdp):
  config, dataset, fresh = world(folder, tmp_path, kind, fsdp, sid_rows='sa_init')
  entries = {entry['token']: entry['keywords'] for entry in dataset.keywords}
  # The words of the goldens' tokenizers are not those of the catalogue: some are given to it.
  words = [*WORDS[3:], 'w7', 'w8']
  by_token = {token: [words[n % 5], words[n % 3]] for n, token in enumerate(entries)}
  dataset = dataclasses.replace(dataset)
  dataset.__dict__['keywords'] = [
    {'token': token, 'keywords': keywords, 'description': ''}
    for token, keywords in by_token.items()
  ]
  params = start.pretrained_params(config.model, fresh, dataset)
  tensors = load_file(folder / kind / 'model.safetensors')
  sources = {'sid': 'model.embed_tokens.weight' if kind == 'gemma3' else 'shared.weight'}
  if kind == 't5_v1_1':
    sources['sid_out'] = 'lm_head.weight'  # untied: the output's rows are its own
  assert {name for name in params['tables'] if name.startswith('sid')} == set(sources)
  names = dataset.vocabulary.space.sid_names
  assert len(by_token) < len(names)  # there are codes without keywords
  for table, source in sources.items():
    text = tensors[source][: dataset.vocabulary.num_pieces].astype(np.float64)
    expected = []
    for name in names:
      pieces = [dataset.vocabulary.encode(word)[0] for word in by_token.get(name, [])]
      row = text[pieces].mean(axis=0) if pieces else text.mean(axis=0)
      expected.append(row * np.linalg.norm(text, axis=1).mean() / np.linalg.norm(row))
    rows = np.asarray(params['tables'][table])
    np.testing.assert_allclose(rows[: len(names)], expected, atol=1e-5)
    assert not rows[len(names) :].any()
    assert params['tables'][table].sharding == fresh['tables'][table].sharding


@pytest.mark.parametrize('kind', SID_ROWS)
def test_a_start_without_a_pretrained_model_can_replace_the_sid_rows(tiny_world, kind):
  config, dataset = tiny_world
  space, pieces = dataset.vocabulary.space, dataset.vocabulary.num_pieces
  mesh, tx = mesh_lib.make_mesh(config.mesh), optim.optimizer(config.optim, 1)
  fresh = state.init_state(config.model, space, tx, mesh, seed=0).params
  abstract = state.abstract_params(config.model, space, mesh)
  names, words = space.sid_names, ['rustic', 'copper kettle', 'in']
  entries = {name: [words[n % 3], words[n % 2]] for n, name in enumerate(names) if n % 4}
  dataset = dataclasses.replace(dataset)
  dataset.__dict__['keywords'] = [
    {'token': name, 'keywords': keywords, 'description': ''} for name, keywords in entries.items()
  ]
  checkpoint = dataclasses.replace(config.checkpoint, init_sid_rows=kind)
  params = start.first_params(config.model, checkpoint, fresh, abstract, dataset)
  np.testing.assert_array_equal(params['tables']['text'], fresh['tables']['text'])
  text = np.asarray(fresh['tables']['text'], np.float64)[:pieces]
  mean, norm = text.mean(axis=0), np.linalg.norm(text, axis=1).mean()

  def row(name):
    ids = dataset.vocabulary.encode(' '.join(entries.get(name, [])))
    made = text[ids].mean(axis=0) if ids else mean
    return made * norm / np.linalg.norm(made)

  rows = np.asarray(params['tables']['sid'])[: len(names)]
  expected = {
    'mean': np.tile(mean, (len(names), 1)),
    'random': np.asarray(fresh['tables']['sid'])[: len(names)],
    'sa_init': np.array([row(name) for name in names]),
  }
  np.testing.assert_allclose(rows, expected[kind], atol=1e-5)


def test_keywords_that_were_not_prepared_are_named(folder, tmp_path):
  config, dataset, fresh = world(folder, tmp_path, 'gemma3')
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, sid_rows='sa_init'))
  with pytest.raises(ValueError, match=r'keywords/keywords\.json must exist.*--mode=prepare'):
    start.pretrained_params(config.model, fresh, dataset)


def test_a_folder_of_the_other_family_is_refused(folder, tmp_path):
  with pytest.raises(
    ValueError, match=r'model of family gemma.*got .t5.. Set --config.model.family'
  ):
    world(folder, tmp_path, 'gemma3', family='t5')


def test_published_sizes_are_built_by_name():
  d = demo.get_config('tiny')
  d.model.size = 'gemma3_270m'
  config = config_lib.from_config_dict(d)
  from recjax.sids.token_space import TokenSpace

  count = state.num_params(config.model, TokenSpace(262_144, ()))
  assert count == 268_098_176  # of google/gemma-3-270m
  d.model.size = 'gemma9'
  with pytest.raises(ValueError, match=r'model.size must be one of gemma1_2b'):
    state.num_params(config_lib.from_config_dict(d).model, TokenSpace(512, ()))
