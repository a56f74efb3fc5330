"""The section of the report about the data."""

import html
import re

from recjax.report.data.facts import facts
from recjax.report.data.section import section
from recjax.report.page import render
from tests.recjax.report import page_test, reports
from tests.recjax.report.data import logs
from tests.recjax.report.reports import NASTY


def described(tmp_path, split='global_time', **changes):
  rows = logs.random_rows(0, least=8)
  log, data = logs.prepared(tmp_path, rows, split)
  return facts(log, data) | {'warnings': []} | changes


def test_the_page_shows_facts_tables_and_charts(tmp_path):
  description = described(tmp_path, warnings=['Look at the times.'])
  report = reports.report(description=description)
  assert report['description'] == description
  text = page_test.text_of(report)
  assert 'Data source table, split global_time' in text
  assert 'Look at the times.' in text
  size = description['log']
  assert f'{size["interactions"]} interactions of {size["users"]} users with' in text
  assert '\u00a0% of all pairs' in render(report)
  share = description['splits']['test']['successors']['of_any_share']
  assert f'{100 * share:.1f} %' in text
  assert text.count('validation →') == text.count('test →') == 1  # marks in the chart of time
  page = render(report)
  assert page.count('<svg') == 2 + 3
  assert 'Semantic IDs and run' in page and 'Data, semantic IDs' not in page


def test_a_report_without_a_description_shows_the_statistics():
  page = render(reports.report())
  assert 'Data, semantic IDs and run' in page
  assert '22,363' in page


def test_names_in_the_log_are_escaped(tmp_path):
  description = described(tmp_path)
  description |= {'name': NASTY, 'source': NASTY, 'warnings': [NASTY], 'ignored_columns': {NASTY: [NASTY]}}  # fmt: skip
  description['events'][NASTY] = {'interactions': 1, 'share': 0.1, 'is_target': True}
  description['popularity']['top_item'] |= {'id': NASTY, 'title': '<b>'}
  page = render(reports.report(description=description))
  checker = page_test.checked(page)
  assert '<script' not in page and '<b>)' not in page
  assert ''.join(checker.texts).count(NASTY) >= 5
  assert NASTY in html.unescape(page)


def test_the_bars_of_time_hold_all_interactions_and_marks_where_held_out_parts_begin(tmp_path):
  description = described(tmp_path)
  charts = dict(section(description)['charts'])
  heights = re.findall(r'<title>[\dT:-]+: ([\d,]+)</title>', charts['Interactions over time'])
  assert [int(h.replace(',', '')) for h in heights] == description['dates']['timeline']
  assert 'reference' in charts['Interactions over time']
  leave_one_out = section(described(tmp_path / 'other', 'leave_one_out'))
  assert 'reference' not in dict(leave_one_out['charts'])['Interactions over time']


def test_a_log_without_dates_has_no_chart_of_time(tmp_path):
  found = section(described(tmp_path, dates=None, gaps=None))
  assert next(title for title, _ in found['charts']) == 'Interactions a user'
  assert len(found['charts']) == 2
