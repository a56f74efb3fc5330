"""The description of a log as a user meets it."""

import json
import logging

from recjax import describe


def test_the_text_is_printed_and_the_facts_are_written(tiny_world, tmp_path, capsys):
  config, dataset = tiny_world
  describe.print_all(dataset, config, tmp_path / 'facts.json')
  printed = capsys.readouterr().out
  assert printed.startswith('demo-tiny: source synthetic, split leave_one_out')
  facts = json.loads((tmp_path / 'facts.json').read_text())
  assert facts['log']['users'] == 300
  assert facts == json.loads(json.dumps(describe.describe(dataset, config)))
  assert len(facts['warnings']) == 1 and 'has 300 rows' in printed


def test_a_run_logs_the_short_form_and_the_warnings(tiny_world, caplog):
  config, dataset = tiny_world
  with caplog.at_level(logging.INFO, 'recjax'):
    describe.log_short(dataset, config)
  levels = [record.levelname for record in caplog.records]
  assert levels == ['INFO'] * 3 + ['WARNING']
  assert '2,127 interactions of 300 users with 120 items' in caplog.text


def test_a_run_does_not_hold_a_log_that_is_too_large_for_a_description(
  tiny_world, caplog, monkeypatch
):
  config, dataset = tiny_world
  monkeypatch.setattr(describe, 'MOST', 2000)
  with caplog.at_level(logging.INFO, 'recjax'):
    describe.log_short(dataset, config)
  [message] = caplog.messages
  assert message.startswith('data: 2,127 interactions of 300 users with 120 items, too many')
  assert describe.of_run(dataset, config) is None
