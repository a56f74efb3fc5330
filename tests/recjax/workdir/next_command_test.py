"""The commands that the last line of a run names."""

import sys

from etils import epath
import pytest

from recjax.workdir import next_command
from recjax.workdir.request import Request


def after(**fields):
  return next_command.after(Request(config=None, workdir=epath.Path('runs/my shop'), **fields))


@pytest.mark.parametrize(
  ('started', 'program'),
  [
    ('/x/recjax/main.py', 'python -m recjax.main'),
    ('/b/recjax', 'recjax'),
  ],
)
def test_the_next_command_has_the_form_of_this_one(monkeypatch, started, program):
  flags = ['--config=c.py:cpu', '--mode', 'prepare', '--prune', '--config.data.name=a b']
  monkeypatch.setattr(sys, 'argv', [started, *flags])
  assert next_command.same() == (
    f"{program} --config=c.py:cpu --mode prepare --prune '--config.data.name=a b'"
  )
  line = next_command.interrupted('prepare')
  assert line.startswith('interrupted: finished stages are kept')
  assert line.endswith(next_command.same())
  assert after(mode='prepare') == f"{program} --config=c.py:cpu '--config.data.name=a b'"
  monkeypatch.setattr(sys, 'argv', [started, *flags, '--out', 'facts.json'])
  assert next_command.training() == f"{program} --config=c.py:cpu '--config.data.name=a b'"
  assert after(mode='evaluate') == 'open runs/my shop/report.html'
  assert after(mode='recommend', out='ranked.jsonl') == (
    "read ranked.jsonl, or in Python recjax.load('runs/my shop')"
  )
  files = '--histories=histories.jsonl --out=ranked.jsonl'
  vectors = after(mode='export', format='vectors', out='v w.npz')
  assert vectors.startswith("train with '--config.sids.item_vectors=v w.npz' and")
  bundle = after(mode='export', format='bundle', out='b')
  assert bundle == 'python b/rank.py histories.jsonl ranked.jsonl (needs jax)'
  assert after(mode='export', out='my export/').startswith(
    f"python 'my export/recommend.py' {files} (needs"
  )
  assert after(mode='train').endswith(
    f"{program} '--workdir=runs/my shop' --mode=recommend --histories=histories.jsonl --out=ranked.jsonl"
  )
