"""The section of the report about the data."""

import html

import numpy as np

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


def test_the_page_shows_facts_tables_and_plots(tmp_path):
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
  page = render(report)
  assert (
    page.count('"validation \\u2192"') == page.count('"test \\u2192"') == 2
  )  # marks in the plot of time
  assert len(page_test.checked(page).plots) == 2 + 3
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
  assert '<script>alert' not in page and '<b>)' not in page
  assert ''.join(checker.texts).count(NASTY) >= 5
  assert NASTY in html.unescape(page)


def test_the_bars_of_time_hold_all_interactions_and_marks_where_held_out_parts_begin(tmp_path):
  description = described(tmp_path)
  plot = dict(section(description)['plots'])['Interactions over time']
  heights = [row['y'] for row in plot['data']['values']]
  assert heights == description['dates']['timeline']
  _, rules, _ = plot['layer']
  begins = [row['x'] / 1000 for row in rules['data']['values']]
  splits = (description['splits'][name]['first'] for name in ('validation', 'test'))
  assert begins == [int(np.datetime64(first, 's').astype(int)) for first in splits]
  leave_one_out = section(described(tmp_path / 'other', 'leave_one_out'))
  assert len(dict(leave_one_out['plots'])['Interactions over time']['layer']) == 1


def test_a_log_without_dates_has_no_chart_of_time(tmp_path):
  found = section(described(tmp_path, dates=None, gaps=None))
  assert next(title for title, _ in found['plots']) == 'Interactions a user'
  assert len(found['plots']) == 2
