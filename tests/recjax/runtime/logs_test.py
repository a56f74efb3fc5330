"""Warnings are marked; progress without a terminal becomes log lines, but not for short work."""

import logging

from recjax.runtime import logs


def test_a_progress_without_a_terminal_becomes_lines(monkeypatch, caplog):
  assert list(logs.progress(range(3), 'short', unit=' rows')) == [0, 1, 2]
  assert not caplog.records
  monkeypatch.setattr(logs, 'SECONDS', 0.0)
  monkeypatch.setattr(logging.getLogger('recjax'), 'propagate', True)
  with caplog.at_level(logging.INFO), logs.progress(total=4, desc='rank', unit=' rows') as bar:
    for _ in range(4):
      bar.update(1)
  lines = [record.message for record in caplog.records]
  assert any(line.startswith('rank: 2 of 4 rows (50 %), ') for line in lines)
  assert lines[-1].startswith('rank: 4 of 4 rows (100 %), ')
  assert not any('\r' in line for line in lines)
  caplog.clear()
  with caplog.at_level(logging.INFO), logs.progress(desc='lines', unit='B') as bar:
    bar.update(7)
  assert caplog.records[-1].message.startswith('lines: 7 B, ')


def test_warnings_are_marked(capsys):
  names = ('recjax', 'data_prep')
  before = [(logging.getLogger(n).handlers, logging.getLogger(n).propagate) for n in names]
  try:
    logs.set_up()
    logging.getLogger('recjax.train').info('step 3')
    logging.getLogger('data_prep.log').warning('few rows')
    logs.set_up(process=2)
    logging.getLogger('recjax.train').info('step 4')
    logging.getLogger('recjax.train').warning('slow')
  finally:
    for name, (handlers, propagate) in zip(names, before, strict=True):
      logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
      logging.getLogger(name).setLevel(logging.NOTSET)
  lines = [line.split(' ', 1)[1] for line in capsys.readouterr().err.splitlines()]
  assert lines == ['step 3', 'WARNING: few rows', 'process 2: WARNING: slow']
