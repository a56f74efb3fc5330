"""Progress without a terminal: log lines, but not for short work."""

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
