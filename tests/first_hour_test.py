"""A new user's first hour: from a shop's log to recommendations, an export and the next day, by what recjax prints.

The user knows the names of the columns. Every other flag and command comes from a message: settings from the errors,
commands from the last lines. All processes run in the user's own folder.
"""

import collections
import csv
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

import pytest
import tokenizers

from bench import shop_log
from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.runtime import exit_status
from tests import live
from tests.folders import ROOT
from tests.recjax.workdir.export import files_test

K_CORE = 5  # of configs/table.py
K = 5
API = """
import json
import sys

import recjax

with open('histories.jsonl') as file:
  histories = [json.loads(line)['history'] for line in file]
model = recjax.load(sys.argv[1])
print(json.dumps([r.item for r in model.recommend(histories[0], k=5)]))
found = model.recommend(histories, k=5, unknown='skip')
print(json.dumps([[r.item for r in items] for items in found]))
"""


class Output(NamedTuple):
  status: int
  text: str  # standard output, then standard error

  @property
  def last(self) -> str:
    return self.text.splitlines()[-1]

  @property
  def next(self) -> list[str]:
    """The command that the last line names."""
    return shlex.split(re.search(r'Next: .*?(python .*?)(?: \(|$)', self.last)[1])


def run(folder: pathlib.Path, command: list[str], *more: str) -> Output:
  """Runs a command that begins with `python` in a folder, as a user who has installed recjax."""
  assert command[0] == 'python'
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  del env['XLA_FLAGS']  # of the suite: eight devices
  done = subprocess.run(
    [sys.executable, *command[1:], *more],
    cwd=folder, env=env, capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  text = done.stdout + done.stderr
  assert 'Traceback' not in text, text[-5000:]
  return Output(done.returncode, text)


def run_as_told(folder: pathlib.Path, command: list[str]) -> tuple[Output, list[str]]:
  """Repeats a command with the setting that its error names until it succeeds; returns these settings too."""
  settings = []
  while True:
    output = run(folder, command, *settings)
    if not output.status:
      return output, settings
    assert len(settings) < 3, output.text
    named = re.search(r'Set (--\S+)', output.last)
    assert named, output.text
    settings += shlex.split(named[1])


def table(path: pathlib.Path) -> list[dict[str, str]]:
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def cleaned(raw: pathlib.Path) -> list[dict[str, str]]:
  """The rows that remain of a log, in order of time: known items, the first of equal rows, users and items of K_CORE rows."""
  known = {row['sku'] for row in table(raw / 'items.csv')}
  keyed = {}
  for row in table(raw / 'interactions.csv'):
    if row['sku'] in known:
      keyed.setdefault((row['customer'], row['sku'], row['when']), row)
  rows = list(keyed.values())
  while True:
    counts = [collections.Counter(row[name] for row in rows) for name in ('customer', 'sku')]
    kept = [row for row in rows if counts[0][row['customer']] >= K_CORE <= counts[1][row['sku']]]
    if len(kept) == len(rows):
      return rows
    rows = kept


def check_description(facts: dict, counts: dict[str, int], rows: list[dict[str, str]]) -> None:
  """Compares the facts with the generator's counts and with the rows that remain."""
  left = {part['reason']: part['interactions'] for part in facts['left_out']}
  assert left['unknown_items'] == counts['unknown_items'] > 0
  assert left['duplicates'] == counts['equal_keys'] > 0
  assert facts['log']['interactions'] == len(rows)
  assert sum(left.values()) + len(rows) == counts['rows']
  assert facts['log']['users'] == len({row['customer'] for row in rows})
  assert facts['log']['items'] == len({row['sku'] for row in rows})
  events = collections.Counter(row['action'] for row in rows)
  assert {name: event['interactions'] for name, event in facts['events'].items()} == events
  assert facts['ratings']['interactions'] == sum(row['stars'] != '' for row in rows)
  assert 0 < facts['items']['without_text'] <= counts['no_text']
  assert facts['dates']['last'] == max(row['when'] for row in rows).replace(' ', 'T')
  assert facts['ignored_columns'] == {'interactions': ['channel']}
  pairs = len({(row['customer'], row['sku']) for row in rows})
  assert facts['log']['repeated_share'] == pytest.approx(1 - pairs / len(rows))


def check_training(output: Output, folder: pathlib.Path, facts: dict) -> pathlib.Path:
  """Compares the closing line with evaluation.json, and the model with popularity; returns the workdir."""
  workdir = folder / re.search(r'workdir (\S+)', output.text)[1]
  results = json.loads((workdir / 'evaluation.json').read_text())
  model, popularity = results['metrics']['test'], results['baselines']['popularity']
  transitions = results['baselines']['transitions']
  assert results['rows']['test'] == facts['splits']['test']['rows'] > 20
  for metric in ('recall@10', 'ndcg@10'):
    assert model[metric] > popularity[metric] + model[f'{metric}_stderr'], results
  line = next(line for line in output.text.splitlines() if ' best at epoch ' in line)
  shown = [float(n) for n in re.findall(r'(?:popularity|counting|model) (\d\.\d{4})', line)][:3]
  expected = [row['recall@10'] for row in (popularity, transitions, model)]
  assert shown == [round(value, 4) for value in expected]
  loses = model['recall@10'] < transitions['recall@10']
  assert ('loses to transition counting' in line) == loses
  assert 'stopped because' in line
  assert (workdir / 'report.html').exists() and f'{workdir.name}/report.html' in output.last
  return workdir


def write_histories(folder: pathlib.Path, raw: pathlib.Path) -> list[dict]:
  """Writes the histories of twelve customers as the shop has them, among them items that recjax does not know."""
  of = collections.defaultdict(list)
  for row in table(raw / 'interactions.csv'):
    of[row['customer']].append(row['sku'])
  lines = [{'customer': name, 'history': items} for name, items in of.items()]
  known = {row['sku'] for row in cleaned(raw)}
  whole = [line for line in lines if set(line['history']) <= known][:8]
  odd = [line for line in lines if not set(line['history']) <= known][:4]
  assert len(whole) == 8 and len(odd) == 4
  text = ''.join(json.dumps(line) + '\n' for line in whole + odd)
  (folder / 'histories.jsonl').write_text(text)
  return whole + odd


def ranked_items(path: pathlib.Path, histories: list[dict], catalogue: set[str]) -> list[list[str]]:
  """Checks a file of recommendations, and returns the items."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['customer'] for row in rows] == [line['customer'] for line in histories]
  for row, line in zip(rows, histories, strict=True):
    items = [each['item'] for each in row['recommendations']]
    scores = [each['score'] for each in row['recommendations']]
    assert len(items) == len(set(items)) == K
    assert set(items) <= catalogue - set(line['history'])
    assert scores == sorted(scores, reverse=True) and scores[0] < 0
    assert [i for i in line['history'] if i in catalogue] == row['history']
    assert set(row.get('unknown', ())) == set(line['history']) - catalogue
  return [[each['item'] for each in row['recommendations']] for row in rows]


def check_export(folder: pathlib.Path, output: Output, workdir: pathlib.Path, expected) -> None:
  """Runs the script of an export; without `transformers` compares the prompts that its files spell."""
  if not live.needs_transformers.args[0]:
    command = [re.sub(r'\branked\b', 'exported', word) for word in output.next]
    done = run(folder, command, '--skip_unknown', f'--k={K}')
    assert not done.status, done.text
    lines = (folder / 'exported.jsonl').read_text().splitlines()
    assert [
      [each['item'] for each in json.loads(line)['recommendations']] for line in lines
    ] == expected
    return
  assert output.next[1] == 'export/recommend.py' and (folder / output.next[1]).exists()
  prompt, items = files_test.read(folder / 'export')
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'export' / 'tokenizer.json'))
  config = config_lib.from_dict(json.loads((workdir / 'config.json').read_text()))
  dataset = Dataset.load(folder / config.prepared_folder)
  for history in ([3], [1, 4, 1, 2]):
    found = files_test.prompt_of(prompt, items, history, tokenizer)
    assert found == files_test.ours(config, dataset, history)


def play(folder: pathlib.Path, users: int, items: int, **log) -> None:
  """Plays the hour with a log of `shop_log`; `log` are its further arguments."""
  log |= {'users': users, 'items': items, 'oddities': shop_log.ODDITIES}
  monday, tuesday = folder / 'raw/monday', folder / 'raw/tuesday'
  counts = shop_log.write(monday, until='2026-04-24', **log)
  rows = cleaned(monday)
  command = ['python', '-m', 'recjax.main', '--config=recjax:table:cpu']
  command += ['--config.data.name=shop', '--config.data.raw_dir=raw/monday']
  command += [*shop_log.column_flags(), '--mode=describe', '--out=shop.json']

  described, settings = run_as_told(folder, command)
  assert settings == ['--config.data.unknown_items=drop', '--config.data.duplicates=drop']
  facts = json.loads((folder / 'shop.json').read_text())
  check_description(facts, counts, rows)
  assert not (folder / 'runs').exists()

  trained = run(folder, described.next)
  assert not trained.status, trained.text
  workdir = check_training(trained, folder, facts)

  histories, catalogue = write_histories(folder, monday), {row['sku'] for row in rows}
  recommended, settings = run_as_told(folder, [*trained.next, f'--k={K}'])
  assert settings == ['--skip_unknown']
  ranked = ranked_items(folder / 'ranked.jsonl', histories, catalogue)

  [loaded] = re.findall(r"recjax\.load\('(.*)'\)", recommended.last)
  assert folder / loaded == workdir
  first, found = run(folder, ['python', '-c', API, loaded]).text.splitlines()
  assert json.loads(first) == ranked[0] and json.loads(found) == ranked

  command = ['python', '-m', 'recjax.main', f'--workdir={loaded}']
  exported = run(folder, command, '--mode=export', '--out=export')
  assert not exported.status, exported.text
  check_export(folder, exported, workdir, ranked)

  shop_log.write(tuesday, until='2026-05-01', **log)
  command = ['python', '-m', 'recjax.main', '--mode=refresh', f'--from={loaded}']
  refreshed = run(folder, command, '--raw_dir=raw/tuesday')
  new = folder / f'{loaded}-2'
  verdict = json.loads((new / 'refresh.json').read_text())
  assert verdict['data']['interactions'] == [len(rows), len(cleaned(tuesday))]
  assert verdict['rows']['later_than_the_old_log'] > 0
  assert (new / 'refresh.txt').read_text().startswith(f'{verdict["verdict"].upper()}: ')
  if verdict['verdict'] == 'no-go':
    assert refreshed.status == exit_status.NO_GO and verdict['reasons']
    assert f'Next: keep {loaded}' in refreshed.last
    return
  assert not refreshed.status and not verdict['reasons'], refreshed.text
  recommended = run(folder, refreshed.next, *settings, f'--k={K}')
  assert not recommended.status, recommended.text
  ranked_items(folder / 'ranked.jsonl', histories, {row['sku'] for row in cleaned(tuesday)})


def test_the_first_hour_needs_only_what_recjax_prints(tmp_path):
  play(tmp_path, users=70, items=30, seed=5, order=0.9)


@pytest.mark.soak
def test_the_first_hour_with_a_larger_log(tmp_path):
  play(tmp_path, users=800, items=300)
