"""Two days of a shop on the command line: the model of day 1 with the catalogue of day 2."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from data_prep.texts import tokenizer
from recjax.data.dataset import Dataset
from tests.data_prep import refresh_test
from tests.folders import ROOT


def run(folder, day, workdir, *args, expect=0):
  """Runs `recjax.main` on the log of a day; day 2 extends the SIDs of day 1."""
  env = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTEST_CURRENT_TEST')}
  sids = {'source': 'both', 'codes': '(8,4)', 'tfidf_width': 6, 'cooccurrence_width': 5}
  data = {
    'source': 'amazon2014', 'category': 'X', 'k_core': 0, 'text_pieces': 320,
    'raw_dir': folder / f'raw{day}', 'prepared_dir': folder / f'day{day}',
  }  # fmt: skip
  flags = [f'--config.data.{k}={v}' for k, v in data.items()]
  flags += [f'--config.sids.{k}={v}' for k, v in sids.items()]
  if day == 2:
    flags.append(f'--config.sids.extend={folder / "day1"}')
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'recjax.main', '--config=configs/demo.py:tiny', *flags),
      *('--config.num_train_steps=4', f'--workdir={folder / workdir}', *args),
    ],
    cwd=ROOT, env=env | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  output = done.stdout + done.stderr
  assert done.returncode == expect, output[-3000:]
  return output


def sids_by_id(data):
  return dict(
    zip([i['id'] for i in data.items], map(tuple, data.sids.codes_IL.tolist()), strict=True)
  )


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
  """The folder of both days; the workdir `monday` holds a model of day 1."""
  folder = tmp_path_factory.mktemp('shop')
  for day, items in ((1, refresh_test.DAY_1), (2, refresh_test.DAY_2)):
    refresh_test.write_day(folder / f'raw{day}', items, seed=day)
  run(folder, 1, 'monday')
  run(folder, 2, 'none', '--mode=prepare')
  return folder


def recommend(folder, day, histories):
  """Returns Monday's recommendations from the catalogue of a day: {item: score} for each history."""
  lines = [json.dumps({'history': history}) for history in histories]
  (folder / 'histories.jsonl').write_text('\n'.join(lines))
  files = (f'--histories={folder / "histories.jsonl"}', f'--out={folder / "ranked.jsonl"}')
  run(folder, day, 'monday', '--mode=recommend', '--k=20', *files)
  rows = [json.loads(line) for line in (folder / 'ranked.jsonl').read_text().splitlines()]
  return [{entry['item']: entry['score'] for entry in row['recommendations']} for row in rows]


def test_the_old_model_recommends_from_the_new_catalogue(shop):
  old = Dataset.load(shop / 'day1')
  before = sids_by_id(old)
  known, fresh = refresh_test.name(1), refresh_test.name(refresh_test.DAY_2 - 1)
  histories = [[known, refresh_test.name(2)], [fresh, known]]
  today = recommend(shop, 2, histories)
  new = Dataset.load(shop / 'day2')
  after = sids_by_id(new)
  assert known in before and fresh in after.keys() - before.keys()
  stays = before.keys() & after.keys()
  assert {item: after[item] for item in stays} == {item: before[item] for item in stays}
  assert old.sids.code_space_hash == new.sids.code_space_hash
  for history, ranked in zip(histories, today, strict=True):
    assert len(ranked) == 20
    assert ranked.keys() <= after.keys() - set(history)
    assert ranked.keys() - before.keys()  # new items, too
  # A score depends only on the model and the SID: items of both days keep theirs.
  [yesterday] = recommend(shop, 1, histories[:1])
  both = sorted(yesterday.keys() & today[0].keys())
  assert len(both) > 3
  np.testing.assert_allclose(
    [yesterday[item] for item in both], [today[0][item] for item in both], atol=1e-5
  )


def test_the_old_model_is_evaluated_and_continued_on_the_new_log(shop):
  run(shop, 2, 'tuesday', f'--config.checkpoint.init_from={shop / "monday"}')
  report = json.loads((shop / 'tuesday/report.json').read_text())
  assert report['data']['items'] == Dataset.load(shop / 'day2').num_items
  run(shop, 2, 'monday', '--mode=evaluate')
  metrics = json.loads((shop / 'monday/evaluation.json').read_text())['metrics']
  assert metrics.keys() == {'validation', 'test'}
  output = run(shop, 2, 'monday', expect=1)  # continued training in the old workdir
  assert 'changed since: ' in output and '--config.checkpoint.init_from' in output


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('sids.seed=1', 'must be used with SIDs of its own code space'),
    ('data.sentencepiece=other.model', 'must be used with its own tokenizer'),
  ],
)
def test_rebuilt_data_are_refused(shop, flag, message):
  (shop / 'other.model').write_bytes(tokenizer.train_model(['other words'] * 9, 280))
  flag = flag.replace('other.model', str(shop / 'other.model'))
  folder = f'--config.data.prepared_dir={shop / message}'
  output = run(shop, 1, 'monday', '--mode=evaluate', folder, f'--config.{flag}', expect=1)
  assert 'must hold data that were prepared' in output or 'does not exist' in output
  run(shop, 1, 'none', '--mode=prepare', folder, f'--config.{flag}')
  output = run(shop, 1, 'monday', '--mode=evaluate', folder, f'--config.{flag}', expect=1)
  assert message in output
  assert '--config.sids.extend=<that folder>' in output
  assert 'Traceback' not in output
