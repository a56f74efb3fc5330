"""What the report reads of a workdir: how its processes ended."""

import json

import pytest

from recjax.report import facts
from recjax.runtime import goodput, lock
from tests.recjax.report import reports


@pytest.fixture
def workdir(tmp_path):
  """A workdir with an ended process, a killed one and one that wrote no end."""
  processes = [reports.process({'.': (n, n + 1, 6.0)}, end) for n, end in enumerate(('done', None, None))]  # fmt: skip
  (tmp_path / 'goodput.json').write_text(json.dumps({'processes': processes}))
  return tmp_path


def ends(workdir):
  return [process['ended'] for process in facts.processes(workdir)]


def test_a_process_without_an_end_was_killed(workdir):
  assert ends(workdir) == ['done', 'killed', 'killed']


def test_a_process_that_holds_the_workdir_is_running(workdir):
  with lock.hold(workdir, 'training', wait=False, field='--workdir'):
    assert ends(workdir) == ['done', 'killed', 'running']


def test_the_process_that_writes_the_report_at_its_end_is_done(workdir):
  with lock.hold(workdir, 'training', wait=False, field='--workdir'), goodput.recorded(workdir):
    goodput.training(workdir, 3)
    assert ends(workdir) == ['done', 'killed', 'killed', 'done']


def test_a_workdir_without_a_record_has_no_processes(tmp_path):
  assert facts.processes(tmp_path) == []
