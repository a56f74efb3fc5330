"""Tables of ablations and searches of settings that are killed: the same command goes on, with the same figures."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.folders import ROOT

SETTINGS = (
  *(
    '--config.num_train_steps=400',
    '--config.checkpoint_every_steps=5',
    '--config.log_every_steps=1',
  ),
  '--config.eval_every_steps=400',
)
# Signal, whether the training is killed or the command around it, and the step that is awaited.
KILLS = (
  (signal.SIGKILL, False, 5),
  (signal.SIGTERM, False, 40),
  (signal.SIGKILL, True, 80),
  (signal.SIGTERM, True, 120),
)


def children(pid):
  return [
    int(each) for each in pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
  ]


def last_step(folder, pattern):
  """Returns the last step in metrics.jsonl of a workdir, whose last line may be incomplete."""
  text = ''.join(path.read_text() for path in folder.glob(f'{pattern}/metrics.jsonl'))
  return max(map(int, re.findall(r'^\{"step": (\d+),', text, re.M)), default=0)


def until_the_end(command, folder, pattern):
  """Gives a command again and again, kills it as in `KILLS`, and returns its last output."""
  kills, outputs = list(KILLS), []
  while True:
    process = subprocess.Popen(
      command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None and kills:
      number, is_training, step = kills[0]
      if last_step(folder, pattern) >= step and (found := children(process.pid)):
        os.kill(found[0] if is_training else process.pid, number)
        kills.pop(0)
        if not is_training:
          break
      time.sleep(0.02)
    outputs.append(process.communicate()[0])
    if process.returncode == 0:
      assert not kills and len(outputs) == 3, outputs
      return outputs[-1]
    assert process.returncode in (-signal.SIGKILL, 143), outputs


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_table_that_was_killed_ends_like_another(tmp_path):
  def command(name):
    return [
      *(sys.executable, '-m', 'bench.ablations', '--table=iirg', '--data=demo', *SETTINGS),
      *('--base=configs/demo.py:tiny', '--rows=next item alone', '--config.packing.row_length=96'),
      *(f'--workdirs={tmp_path}/{name}', f'--out={tmp_path}/{name}.json'),
    ]

  subprocess.run(command('straight'), cwd=ROOT, check=True)
  out = until_the_end(command('killed'), tmp_path / 'killed', 'demo/next_item_alone-*/0')
  assert 'was killed (SIGKILL), is started again' in out
  assert 'was preempted, is started again' in out
  found = {}
  for name in ('straight', 'killed'):
    found[name] = json.loads((tmp_path / f'{name}.json').read_text())['data']['demo']
    [run] = found[name]['runs']['next item alone']
    del run['seconds']
  assert found['killed'] == found['straight']


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_search_that_was_killed_ends_like_another(tmp_path):
  pytest.importorskip('optuna')

  def command(name):
    return [
      *(sys.executable, '-m', 'bench.tune', '--config=configs/demo.py:tiny', *SETTINGS),
      *('--budget=1', '--users=200', f'--config.data.prepared_dir={tmp_path}/data'),
      f'--scratch={tmp_path}/{name}',
    ]

  subprocess.run(command('straight'), cwd=ROOT, check=True)
  until_the_end(command('killed'), tmp_path / 'killed', 'trials/000')
  trials = {}
  for name in ('straight', 'killed'):
    [trials[name]] = json.loads((tmp_path / name / 'tune.json').read_text())['trials']
    del trials[name]['seconds']
  assert trials['killed'] == trials['straight']
