"""Runs that start from a pretrained model and end in an export: which parameters changed, bit for bit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from etils import epath
from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
import tokenizers

from configs import demo
from data_prep import prepare
from recjax import config as config_lib
from recjax import models
from recjax import train as train_lib
from recjax.config import group, ordered, stage
from recjax.data import vocabulary
from recjax.data.dataset import Dataset
from recjax.evaluate import make_context
from recjax.models import lora, pretrained
from recjax.recommend import Recommender
from recjax.sharding import mesh as mesh_lib
from recjax.training import state
from recjax.workdir.checkpoints import Checkpoints
from tests.folders import ROOT
from tests.goldens.make_decoders import GOLDENS, TOKENIZER_SIZE
from tests.live import needs_transformers

CONFIG = """
from tests.recjax import pretrained_runs_test

def get_config():
  return pretrained_runs_test.two_stages({source!r}, {data!r})
"""


def checkpoint(folder: pathlib.Path, kind: str) -> pathlib.Path:
  """Makes a tiny pretrained folder with a word tokenizer, smaller than the embedding table."""
  shutil.copytree(GOLDENS / kind, folder / kind)
  size = 80 if 't5' in kind else TOKENIZER_SIZE
  words = ['<pad>', '<eos>', '<bos>', *(f'w{i}' for i in range(size - 3))]
  vocab = {word: i for i, word in enumerate(words)}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token='<pad>'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.save(str(folder / kind / 'tokenizer.json'))
  return folder / kind


def tiny(source, data):
  config = demo.get_config('tiny')
  config.data.prepared_dir = str(data)
  config.model.pretrained = str(source)
  config.model.family = 't5' if 't5' in str(source) else 'gemma'
  config.packing.row_length = 64
  config.optim.warmup_steps = 1
  config.eval.eval_users = 16
  return config


def sid_rows(steps):
  groups = ordered(sid=group('tables/sid'), rest=group('', frozen=True))
  return stage(steps, groups=groups)


def two_stages(source, data):
  """SID rows, then adapters and SID rows. The groups of the run freeze everything; each stage thaws some."""
  config = tiny(source, data)
  config.model.lora_rank = 2
  config.optim.groups = ordered(rest=group('', frozen=True))
  sids = stage(2, groups=ordered(sid=group('tables/sid')))
  adapters = stage(3, groups=ordered(sid=group('tables/sid'), lora=group('lora')))
  config.stages = ordered(sid_rows=sids, adapters=adapters)
  return config


def newest_params(folder, config, space):
  """Returns the parameters of the newest checkpoint of a workdir."""
  with Checkpoints(folder, read_only=True) as checkpoints:
    return checkpoints.restore_params(checkpoints.latest_step(), abstract_params(config, space))


def changed(before, after):
  """Returns the paths of the arrays that differ in any bit."""
  before, after = (traverse_util.flatten_dict(tree, sep='/') for tree in (before, after))
  assert before.keys() == after.keys()
  return {
    path
    for path in before
    if np.asarray(before[path]).tobytes() != np.asarray(after[path]).tobytes()
  }


def abstract_params(config, space):
  return state.abstract_params(config.model, space, mesh_lib.make_mesh(config.mesh))


@pytest.mark.parametrize('kind', ['gemma3', 't5_v1_1'])
def test_a_stage_that_trains_sid_rows_changes_no_other_parameter(tmp_path, kind):
  source = checkpoint(tmp_path, kind)
  config_dict = tiny(source, tmp_path / 'data')
  config_dict.stages = ordered(sid_rows=sid_rows(2))
  config = config_lib.from_config_dict(config_dict)
  prepare.prepare(config)
  dataset = Dataset.load(tmp_path / 'data')
  mesh, space = mesh_lib.make_mesh(config.mesh), dataset.vocabulary.space
  context = make_context(config, dataset, mesh)
  workdir = epath.Path(tmp_path / 'run')
  params, step = train_lib.train_stages(config, workdir, context)
  assert step == 2
  loaded = pretrained.load(source, abstract_params(config, space), space)
  tables = (
    {'tables/sid'} if kind == 'gemma3' else {'tables/sid', 'tables/sid_out'}
  )  # T5's is untied
  assert changed(loaded, params) == tables

  pretrained.export(tmp_path / 'out', params, space, source, vocabulary.SPECIALS)
  before, after = (load_file(f / 'model.safetensors') for f in (source, tmp_path / 'out'))
  known, sids = dataset.vocabulary.num_pieces, space.sid_size
  tables = {'gemma3': {'model.embed_tokens.weight'}, 't5_v1_1': {'shared.weight', 'lm_head.weight'}}
  for name, new in after.items():
    if name not in tables[kind]:
      assert new.tobytes() == before[name].tobytes(), name
      continue
    old = before[name][:known]
    assert len(new) == space.size
    np.testing.assert_array_equal(new[:known], old)
    assert np.abs(new[known : known + sids] - old.mean(axis=0, keepdims=True)).max() > 1e-4


def main(*arguments):
  """The command line, on one device."""
  env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  command = [sys.executable, '-m', 'recjax.main', *arguments]
  return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('config.json', 'FileNotFoundError: {} must be a checkpoint folder of transformers'),
    ('tokenizer.json', 'ValueError: {} must hold one of tokenizer.json'),
  ],
)
def test_a_missing_file_is_refused_before_the_data_are_prepared(tmp_path, name, message):
  source = checkpoint(tmp_path, 'gemma3')
  (source / name).unlink()
  done = main(
    '--config=configs/demo.py:tiny',
    f'--config.data.prepared_dir={tmp_path / "data"}',
    f'--config.model.pretrained={source}',
    f'--workdir={tmp_path / "run"}',
  )
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].startswith(message.format(source))
  assert 'Traceback' not in done.stderr
  assert {path.name for path in tmp_path.iterdir()} == {'gemma3'}


@pytest.fixture(scope='module')
def adapted_run(tmp_path_factory):
  """A run of two stages by the command line, then its evaluation and its export by further commands."""
  folder = tmp_path_factory.mktemp('adapted')
  source = checkpoint(folder, 'gemma3')
  file = folder / 'two_stages.py'
  file.write_text(CONFIG.format(source=str(source), data=str(folder / 'data')))
  env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  for more in ([], ['--mode=evaluate'], ['--mode=export', f'--out={folder / "out"}']):
    command = [
      sys.executable,
      '-m',
      'recjax.main',
      f'--config={file}',
      f'--workdir={folder / "run"}',
    ]
    done = subprocess.run(
      [*command, *more], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if not more:
      shutil.copy(folder / 'run/evaluation.json', folder / 'trained.json')
  config = config_lib.from_config_dict(two_stages(source, folder / 'data'))
  space = Dataset.load(folder / 'data').vocabulary.space
  return folder, config, space, newest_params(folder / 'run', config, space)


def logits_of(model, tokens):
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  tokens = jnp.asarray(tokens, jnp.int32)
  batch = {'tokens': tokens, 'segments': jnp.ones_like(tokens), 'positions': positions}
  return np.asarray(model.tables.all_logits(model.hidden(batch)))


def test_each_stage_changes_only_the_parameters_of_its_groups(adapted_run):
  folder, config, space, last = adapted_run
  shapes = lora.base(abstract_params(config, space))
  loaded = pretrained.load(folder / 'gemma3', shapes, space)
  first = newest_params(folder / 'run' / 'stages' / 'sid_rows', config, space)
  assert changed(loaded, lora.base(first)) == {'tables/sid'}
  assert not any(np.asarray(b).any() for b in jax.tree.leaves(first['lora']) if b.shape[1] == 2)
  moved = changed(first, last)
  assert {path for path in moved if not path.startswith('lora/')} == {'tables/sid'}
  assert moved - {'tables/sid'} == {
    path for path in traverse_util.flatten_dict(last, sep='/') if path.startswith('lora/')
  }


def test_an_evaluation_of_its_own_repeats_the_metrics(adapted_run):
  # The groups of the run freeze every parameter; only those of the stages train.
  folder, *_ = adapted_run
  during, after = (
    json.loads(path.read_text())
    for path in (folder / 'trained.json', folder / 'run/evaluation.json')
  )
  assert during['metrics'] == after['metrics']
  assert during['step'] == after['step'] == 3


def test_a_merged_export_equals_the_model_with_adapters(adapted_run):
  folder, config, space, last = adapted_run
  graph = models.graph(config.model, space)
  tokens = np.random.default_rng(0).integers(3, space.size, (2, 12))
  ours = logits_of(lora.adapted(graph, last, config.model.lora_alpha), tokens)
  exported = pretrained.load(folder / 'out', lora.base(abstract_params(config, space)), space)
  merged = logits_of(nnx.merge(graph, exported), tokens)
  base = logits_of(nnx.merge(graph, lora.base(last)), tokens)
  largest = np.abs(ours).max()
  assert np.abs(merged - ours).max() <= 1e-4 * largest
  assert np.abs(base - ours).max() > 1e-3 * largest  # the adapters have an effect


@pytest.mark.soak
def test_a_trained_model_is_used_after_its_checkpoint_is_gone(adapted_run):
  folder, *_ = adapted_run
  run = folder / 'run'
  before = Recommender.from_workdir(run).recommend(['item003', 'item004'], k=10)
  (folder / 'gemma3').rename(folder / 'gone')
  try:
    assert Recommender.from_workdir(run).recommend(['item003', 'item004'], k=10) == before
    (run / 'evaluation.json').unlink()
    done = main(f'--workdir={run}', '--mode=evaluate')
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = [json.loads(path.read_text())['metrics']
               for path in (run / 'evaluation.json', folder / 'trained.json')]  # fmt: skip
    assert metrics[0] == metrics[1]
    (run / 'shape.json').rename(folder / 'shape.json')  # as in a workdir of an earlier version
    with pytest.raises(FileNotFoundError, match=r'gemma3 must exist.* Set model\.pretrained in '):
      Recommender.from_workdir(run)
    (folder / 'shape.json').rename(run / 'shape.json')
  finally:
    (folder / 'gone').rename(folder / 'gemma3')


@needs_transformers
def test_transformers_loads_the_merged_export(adapted_run):
  import torch
  import transformers

  folder, config, space, last = adapted_run
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder / 'out', attn_implementation='eager'
  )
  ids = pretrained.IdMap(space, TOKENIZER_SIZE).exported()
  tokens = np.random.default_rng(1).integers(3, space.size, (2, 12))
  with torch.no_grad():
    theirs = model.eval()(input_ids=torch.from_numpy(ids[tokens])).logits.numpy()[..., ids]
  ours = logits_of(
    lora.adapted(models.graph(config.model, space), last, config.model.lora_alpha), tokens
  )
  assert np.abs(theirs - ours).max() <= 1e-4 * np.abs(ours).max()
