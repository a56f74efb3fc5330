"""The configs of the three papers: `:tiny` from raw files to the report, and the facts that docs/papers.md states."""

import importlib
import json
import os
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from configs import common, iirg, rec_knowledge, ts_rec
from recjax import config as config_lib
from recjax.workdir.metrics_file import read_metrics
from tests.folders import ROOT
from tests.goldens import make_papers

# Paper → steps and components of every stage, and its evaluators.
RUNS = {
  'iirg': (
    {
      'rows': (2, ['title_to_sid']),
      'all': (3, ['next_item', 'collaborative_neighbours', 'semantic_neighbours']),
    },
    ['retrieval'],
  ),
  'rec_knowledge': ({'': (4, list(rec_knowledge.SHARES))}, ['retrieval', 'ranking', 'rating']),
  'ts_rec': (
    {
      'words': (2, ['mlm']),
      'sft': (3, ['next_item', *ts_rec.TASKS]),
      'rl': (2, ['next_item', 'title_to_sid', 'titles_to_sid']),
    },
    ['retrieval'],
  ),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return tmp_path_factory.mktemp('papers') / 'data'


@pytest.mark.parametrize('name', RUNS)
def test_the_tiny_variant_runs_from_raw_files_to_the_report(name, data):
  stages, evaluators = RUNS[name]
  workdir = data.parent / name
  # Programs this small compile for longer than they run, so the compiler does less.
  flags = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  command = [sys.executable, '-m', 'recjax.main', f'--config=configs/{name}.py:tiny']
  done = subprocess.run(
    [*command, f'--config.data.prepared_dir={data}', f'--workdir={workdir}'],
    cwd=ROOT, env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
    check=False, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  for number, (stage, (steps, components)) in enumerate(stages.items()):
    folder = workdir if number == len(stages) - 1 else workdir / 'stages' / stage
    assert [row['step'] for row in read_metrics(folder) if 'loss' in row] == list(
      range(1, steps + 1)
    )
    mixture = json.loads((folder / 'mixture.json').read_text())
    assert sorted(row['name'] for row in mixture) == sorted(components)
  evaluation = json.loads((workdir / 'evaluation.json').read_text())
  assert set(evaluation['metrics']['test']) >= {'recall@10', 'ndcg@10'}
  for evaluator in evaluators:
    assert (workdir / 'predictions' / 'test' / f'{evaluator}.parquet').exists()
  assert (workdir / 'report.html').exists()
  if name == 'iirg':  # one item a SID is ranked
    rows = pq.read_table(workdir / 'predictions' / 'test' / 'retrieval.parquet')[
      'items'
    ].to_pylist()
    found = json.loads((workdir / 'paths.json').read_text())
    sids = json.loads((data / found['stages']['sids'] / 'table.json').read_text())
    assert all(len({tuple(sids[item]) for item in row}) == len(row) for row in rows)
  if name == 'ts_rec':  # the rows of the second stage come from the text rows of the first
    assert 'SID rows: sa_init' in done.stderr


def values(module, variant):
  return config_lib.from_config_dict(module.get_config(variant))


@pytest.mark.parametrize('name', iirg.SETS)
def test_iirg_has_the_published_settings(name):
  config = values(iirg, name)
  rows, everything = config.stages['rows'], config.stages['all']
  assert (rows.learning_rate, rows.num_epochs, rows.mixture) == (1e-3, 10, ('title_to_sid',))
  assert [(g.pattern, g.frozen) for g in rows.groups.values()] == [
    ('tables/sid', False),
    ('', True),
  ]
  assert (everything.learning_rate, everything.num_epochs) == (1e-4, 3)
  assert everything.mixture == ('next_item', 'collaborative_neighbours', 'semantic_neighbours')
  groups = config.batch_size // config.packing.rows
  assert groups * config.packing.examples == 128
  # Warm-up: 5 % of ten epochs over the items, in steps of 128.
  assert rows.warmup_steps == round(0.05 * 10 * iirg.SETS[name][1] / 128)
  assert config.optim.warmup_steps is None  # a tenth of the steps
  assert (config.optim.b1, config.optim.b2, config.optim.schedule) == (0.9, 0.95, 'cosine')
  assert (config.relations.window, config.relations.top_k) == (5, 10)
  sids = config.sids
  assert (sids.codes, sids.collisions, sids.source) == ((1024, 512, 256), 'keep', 'text')
  assert (sids.rqvae.hidden, sids.rqvae.latent, sids.rqvae.contrastive_weight) == ((512,), 256, 0.1)
  assert config.eval.shared_sids == 'first'
  for task in everything.mixture:
    component = config.mixture[task]
    assert (component.show, component.learn, component.weight) == ('both', 'both', 1)
  assert config.mixture['next_item'].max_items == 20
  assert {config.mixture[f'{kind}_neighbours'].k for kind in ('collaborative', 'semantic')} == {5}


@pytest.mark.parametrize(
  ('variant', 'size'),
  [('toys', 'flan_t5_base'), ('flan_t5_xl', 'flan_t5_xl'), ('sports-flan_t5_xl', 'flan_t5_xl')],
)
def test_rec_knowledge_has_the_published_tasks(variant, size):
  config = values(rec_knowledge, variant)
  assert config.model.size == size
  assert set(config.mixture) == {'next_item', 'ranking', 'rating', 'mim', 'mlm', 'bpr'}
  assert all(component.show == 'both' for component in config.mixture.values())
  assert config.mixture['mim'].learn == 'both'
  assert set(config.evaluators) == {'retrieval', 'ranking', 'rating'}
  assert sum(rec_knowledge.SHARES.values()) == pytest.approx(1)
  unrated = values(rec_knowledge, f'{variant}-unrated')
  assert set(config.mixture) - set(unrated.mixture) == {'rating'}
  assert set(unrated.evaluators) == {'retrieval', 'ranking'}


@pytest.mark.parametrize('name', ts_rec.SETS)
def test_ts_rec_has_the_published_settings(name):
  config = values(ts_rec, name)
  assert (config.model.size, config.model.sid_rows) == ('qwen2_5_1_5b', 'sa_init')
  assert config.model.sid_softmax == 'full'
  optim = config.optim
  assert (optim.learning_rate, optim.schedule, optim.warmup_steps) == (3e-4, 'linear', 20)
  assert config.batch_size // config.packing.rows * config.packing.examples == 1024
  assert config.stages['sft'].num_epochs == 10
  rl = config.stages['rl']
  assert (rl.kind, rl.learning_rate, rl.num_epochs, rl.start_from_best) == ('grpo', 1e-5, 2, True)
  assert (rl.grpo.group, rl.grpo.kl, rl.clip_norm) == (16, 1e-3, 0.3)
  assert (rl.grpo.rewards.exact, rl.grpo.rewards.rank) == (1, 1)
  assert (config.eval.patience, config.eval.beams, config.eval.exclude_seen) == (3, 20, False)
  assert config.eval.ks == (1, 3, 5, 10, 20)
  assert config.mixture['next_item'].max_items == 11
  assert config.data.category == ts_rec.SETS[name]


@pytest.mark.parametrize('name', ['beauty', 'sports', 'toys'])
def test_the_default_mixture_interleaves_and_next_item_is_a_variant(name):
  module = importlib.import_module(f'configs.{name}')
  for variant in ('cpu', 'gpu', 'flat', 'flat-cpu', 'flan_t5_base'):
    mixed = values(module, variant)
    assert set(mixed.mixture) == {'next_item', *common.SHARES}
    assert sum(c.weight for c in mixed.mixture.values()) == pytest.approx(1)
    assert (mixed.model.family == 'item_decoder') == (variant in ('cpu', 'gpu'))
    alone = values(module, f'{variant}-next_item')
    assert set(alone.mixture) == {'next_item'}
    assert alone.mixture['next_item'].prompts == mixed.mixture['next_item'].prompts
    assert alone.batch_size == mixed.batch_size


def test_the_page_shows_the_golden_samples_and_the_configs_have_their_settings():
  samples = json.loads(make_papers.FILE.read_text())
  page = make_papers.PAGE.read_text()
  assert make_papers.with_tables(page, samples) == page
  modules = {'IIRG': iirg, 'Cao': rec_knowledge, 'TS-Rec': ts_rec}
  for sample in samples:
    if 'MiniOneRec alone' in sample['name']:
      continue
    mixture = values(modules[re.split('[, ]', sample['paper'])[0]], '').mixture
    for field, value in sample['settings'].items():
      if field not in ('max_items', 'candidates'):  # those are of a small world
        assert getattr(mixture[sample['task']], field) == value, sample['name']
