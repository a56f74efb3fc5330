"""Minutes of evaluations by hand: two processes with a pause, a repeated step, a cut file."""

import json

import numpy as np

from recjax.runtime import goodput
from recjax.workdir import metrics_file, timeline

BEGAN = ('2026-11-27T05:00:00+00:00', '2026-11-27T06:00:00+00:00')
AT = (1795755600.0, 1795759200.0)  # the same moments


def write(workdir, monkeypatch):
  """A process of 300 seconds that evaluates steps 2 and 4, and one that begins again after step 2."""
  for start, began, steps in ((0, AT[0], {2: 60, 4: 240}), (2, AT[1], {4: 30, 6: 90})):
    with metrics_file.Writer(workdir, start) as out:
      for step, seconds in steps.items():
        monkeypatch.setattr('time.time', lambda seconds=seconds, began=began: began + seconds)
        for earlier in (step - 1, step):
          out.write(earlier, {'loss': 1.0})
        out.write_evaluation(step, {'recall@10': step / 10, 'ndcg@10': 0.5})
  monkeypatch.undo()
  processes = [
    {'began': began, 'seconds': {'steps': 200.0, 'start_up': 100.0}, 'trainings': {}, 'ended': ''}
    for began in BEGAN
  ]
  (workdir / goodput.FILE).write_text(json.dumps({'summary': {}, 'processes': processes}))


def test_minutes_are_those_of_running_processes_and_of_the_steps_that_count(tmp_path, monkeypatch):
  write(tmp_path, monkeypatch)
  points = [(1.0, 0.2), (5.5, 0.4), (6.5, 0.6)]
  found = timeline.evaluations(tmp_path, 'recall@10')
  np.testing.assert_allclose(found, points)
  assert timeline.evaluations(tmp_path, 'mrr@10') == []
  last = max((tmp_path / metrics_file.FOLDER).iterdir(), key=lambda path: path.stat().st_mtime)
  last.write_bytes(last.read_bytes()[:-5])
  np.testing.assert_allclose(timeline.evaluations(tmp_path, 'recall@10'), points[:2])
  (tmp_path / goodput.FILE).unlink()
  assert timeline.evaluations(tmp_path, 'recall@10') == []
