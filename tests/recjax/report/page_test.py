"""The page: its figures, its structure, and escaped texts."""

import html
import html.parser
import json
import re

import pytest

from data_prep.log import item_text
from recjax.report import examples, sid_map
from recjax.report.page import render
from tests.recjax.report import reports
from tests.recjax.report.reports import HOSTILE, NASTY

VOID = {'meta', 'link', 'br', 'img', 'hr', 'input'}


class Checker(html.parser.HTMLParser):
  """Collects tags, texts, scripts and the specifications of plots; fails on tags that are not closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.texts, self.scripts, self.plots = [], [], [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['script']:
      self.texts.append(data)
    elif self.tags[-1][1].get('type') == 'application/json':
      self.plots.append(json.loads(data))
    else:
      self.scripts.append(data)

  @property
  def hovers(self) -> list[str]:
    """The hover texts of all plots."""
    layers = [layer for plot in self.plots for layer in (plot, *plot['layer']) if 'data' in layer]
    return [row['hover'] for layer in layers for row in layer['data']['values'] if 'hover' in row]


def checked(page: str) -> Checker:
  checker = Checker()
  checker.feed(page)
  checker.close()
  assert not checker.open
  return checker


def text_of(report: dict) -> str:
  """Returns the visible text of a report's page, with the hover texts of its plots."""
  found = checked(render(report))
  return ' '.join(' '.join([*found.texts, *found.hovers]).split())


def test_page_shows_metrics_baselines_and_statistics():
  report = reports.report()
  report['commit'] = '0123abcd'
  text = text_of(report)
  for figure in ('0.0812', '0.0016', '0.0707', '0.0135', '0.0900', '22,363', '12,101', '198,502'):
    assert figure in text
  for figure in ('1.15', '75.00 %', '54,321', '0123abcd', '1,234', '200.1', '1,234,567'):
    assert figure in text
  assert 'generated' not in text
  assert 'optim' not in text.lower()
  assert 'step 500: ndcg@10 0.05 ± 0.002' in text  # on hovering


QUALITY = {
  'reconstruction_error': [0.5369],
  'neighbours_kept': {
    'k': 10,
    'items': 99,
    'recall': 0.1638,
    'chance': 0.0008,
    'share_prefix': [0.552],
    'share_prefix_chance': [0.005],
  },
  'purity': {
    'category_level': 2,
    'categories': 6,
    'items': 99,
    'purity': 0.7544,
    'chance': 0.3486,
  },
}


def test_page_shows_the_quality_of_sids_if_it_is_known():
  report = reports.report()
  text = text_of(report)
  assert 'variance left' not in text and 'by chance' not in text
  report['sids']['quality'] = QUALITY | {'purity': None}
  text = text_of(report)
  for figure in ('variance left', '53.7 %', '55.2 %', '16.4 %', 'by chance 0.08 %'):
    assert figure in text
  assert 'category' not in text
  report['sids']['quality'] = QUALITY | {'reconstruction_error': None, 'neighbours_kept': None}
  report['sids']['quality']['reassigned_items'] = 4567
  text = text_of(report)
  assert 'reassigned items 4,567' in text
  assert '75.4 % of the items' in text and '6 categories at level 2' in text
  assert 'variance left' not in text


def test_metrics_that_equal_recall_at_one_item_are_not_repeated():
  report = reports.report()
  assert 'ndcg@1' in report['metrics']['test']
  page = render(report)
  assert '<th scope="row">recall@1</th>' in page and '<th scope="row">ndcg@10</th>' in page
  assert '<th scope="row">ndcg@1</th>' not in page and '<th scope="row">mrr@1</th>' not in page
  assert 'At one item, ndcg@1 and mrr@1 equal recall@1.' in text_of(report)


def test_cells_that_a_narrow_page_stacks_name_their_columns():
  report = reports.report(processes=[reports.process({'.': (0, 300, 60.0)}, 'done')])
  tables = re.findall(r'<table class="stack">(.*?)</table>', render(report), re.S)
  assert len(tables) == 3  # mixture, processes, levels; there are no starts
  for table in tables:
    head, body = table.split('<tbody>')
    names = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', head)
    first_row = body[: body.index('</tr>')]
    cells = re.findall(r'<td[^>]*?data-label="(.*?)"', first_row)
    assert len(cells) == first_row.count('<td')
    assert names[-len(cells) :] == cells


def test_a_long_title_wraps_beside_its_semantic_id():
  report = reports.report()
  page = render(report)
  assert page.count('<td class="title">') == len(report['sids']['examples']) > 0
  assert re.search(r'\.title \{ overflow-wrap: anywhere; min-width', page)


def test_page_needs_no_other_files():
  page = render(reports.report())
  checker = checked(page)
  assert not [tag for tag, _ in checker.tags if tag in ('link', 'img', 'iframe')]
  assert not [a for _, a in checker.tags if {'src', 'href'} & set(a)]
  assert (
    sum(tag == 'script' for tag, _ in checker.tags) == len(checker.plots) + 2
  )  # and the runtime
  bundle, draw = checker.scripts
  without = page.replace(bundle, '')
  assert 'vegaEmbed' in draw and not re.search(r'url\(|@import|https?:', without)


def test_texts_are_escaped():
  changed = {'time': NASTY, 'step': 3, 'changed': {NASTY: [NASTY, None]}}
  training = reports.training(starts=[changed])
  page = render(reports.report(name=NASTY, trainings=[training], warnings=[NASTY]))
  checker = checked(page)
  assert '<script>alert' not in page
  assert '<b>5' not in page
  assert ''.join(checker.texts).count(NASTY) >= 8  # title, heading, warning, mixture, change, …
  assert '<a_17>' in checker.texts
  assert NASTY in html.unescape(page)


def test_titles_with_entities_are_escaped():
  row = item_text.item_row('x', {'title': '&lt;i&gt; &amp; &quot;5&quot;'})
  report = reports.report()
  report['sids']['examples'] = [{'title': '<script>' + row['text'], 'sid': [1, 2]}]
  page = render(report)
  assert '<script>&' not in page and '<td class="title"><' not in page
  assert '<td class="title">&lt;script&gt;' in page


def test_rows_are_counted_unless_they_are_users():
  report = reports.report()
  page = render(report)
  assert 'seen items removed, every user once; ± is one standard error over users' in page
  report['config']['eval'] = {'exclude_seen': False}
  report['data'] |= {'validation_rows': 17613, 'test_rows': 17614}
  page = render(report)
  assert 'seen items included, every held-out row once (17,613 for validation, 17,614 ' in page
  assert 'every user once' not in page


def test_page_shows_the_optimum_and_that_texts_are_generated():
  optimum = {'recall@10': 0.1015, 'ndcg@10': 0.09, 'validation': {'recall@10': 0.1}}
  report = reports.report(item_text='generated', optimum=optimum)
  assert report['optimum_share']['recall@10'] == pytest.approx(0.8)
  text = text_of(report)
  assert '80.0 %' in text
  assert '0.1015' in text
  assert 'item texts are generated' in text


def test_missing_files_of_an_old_workdir_are_stated():
  training = reports.training(rows=[], mixture=[])
  text = text_of(reports.report(trainings=[training]))
  assert 'Training loss was not recorded' in text
  assert 'The mixture was not recorded' in text
  assert 'The starts were not recorded' in text
  assert 'can exceed' not in text


def test_every_stage_has_its_curves_and_its_mixture():
  rows = [{'step': s, 'loss': 7.125 / s, 'host_peak_bytes': 3_210_000_000} for s in (1, 2)]
  row = reports.mixture_row('rows', token_share=0.123, loss_weight=0.25, from_example=50_000)
  earlier = reports.training(NASTY, rows=rows, mixture=[row])
  report = reports.report(trainings=[earlier, reports.training('all')])
  text = text_of(report)
  assert f'Training: stage {" ".join(NASTY.split())} 1 of 2' in text
  assert 'Training: stage all 2 of 2' in text
  for figure in ('step 1: loss 7.125', '12.30 %', '0.25', '50,000', 'host peak memory 3.21 GB'):
    assert figure in text
  assert len(checked(render(report)).plots) == 2 + 1  # the first stage was not evaluated
  heading = re.search(r'<h2>Training.*?</h2>', render(reports.report())).group()
  assert 'stage' not in heading


def test_every_start_shows_its_changes():
  starts = [
    {'time': '2030-01-02T03:04:05+00:00', 'step': 0, 'changed': {}, 'config': {'seed': 0}},
    {
      'time': '2030-01-02T05:04:05+00:00',
      'step': 8,
      'changed': {'num_train_steps': [8, 80], 'optim.schedule': ['cosine', 'constant']},
      'learning_rate': {'step': 9, 'previous': 0.00067, 'old': 0.0, 'new': 0.00986},
    },
    {'time': '2030-01-02T06:04:05+00:00', 'step': 80, 'changed': {}},
  ]
  report = reports.report(trainings=[reports.training(starts=starts)])
  assert report['starts'] == starts
  text = text_of(report)
  assert '2030-01-02 03:04:05 0 first start 2030-01-02 05:04:05 8 num_train_steps: 8 → 80' in text
  assert 'optim.schedule: cosine → constant' in text
  assert '0.00067 at step 8, 0.00986 at step 9 (0 with the old settings)' in text
  assert '2030-01-02 06:04:05 80 none' in text


def test_unreachable_targets_are_shown_with_the_highest_recall():
  results = reports.results() | {
    'rows': {'validation': 2000, 'test': 1000},
    'unreachable_targets': {'validation': 0, 'test': 250},
  }
  report = reports.report(results=results)
  limits = {'rows': 1000, 'unreachable_targets': 250, 'highest_recall': 0.75}
  assert report['evaluation']['test'] == limits
  text = text_of(report)
  assert 'No test metric can exceed 0.7500: 250 of 1,000 targets are in their own history' in text
  assert 'No validation metric' not in text


def test_warnings_are_at_the_top():
  text = text_of(reports.report(warnings=['The loss was not finite at 3 steps.']))
  assert text.index('The loss was not finite') < text.index('Test recall@10')


def test_wall_time_is_shown_as_a_table_and_a_bar():
  assert 'goodput' not in render(reports.report())
  process = reports.process({'.': (0, 300, 60.0)}, ended='killed')
  last = reports.process({'.': (200, 500, 60.0)}, ended='done')
  report = reports.report(processes=[process, last])
  assert report['goodput']['goodput'] == pytest.approx(0.5)  # 60 - 20 + 60 of 200
  page, text = render(report), text_of(report)
  for figure in ('goodput 50.0 %', 'compile 60.0 s 30.0 %', 'lost 20.0 s 10.0 %', '200 to 500'):
    assert figure in text
  assert 'killed' in text and 'running' not in text
  widths = re.findall(r'<span class="(\w+)" style="width: ([\d.]+)%"', page)
  assert dict(widths) == {
    'steps': '50.000', 'compile': '30.000', 'start_up': '10.000', 'lost': '10.000'
  }  # fmt: skip


REFRESH = {
  'verdict': 'no-go',
  'reasons': ['ndcg@10 is worse than that of the old model'],
  'warnings': ['interactions a day changed from 10 to 90'],
  'rule': 'go if nothing speaks against it',
  'from': NASTY,
  'rows': {'compared': 4321, 'users': 99},
  'metrics': {'new': {'ndcg@10': 0.1234, 'recall@10': 0.2}, 'old': {'ndcg@10': 0.15, 'recall@10': 0.3}},
  'differences': {'old': {'ndcg@10': {'mean': -0.0266, 'stderr': 0.0031, 'low': -0.03, 'high': -0.02}}},
}  # fmt: skip


def test_a_refresh_shows_its_verdict_and_the_comparison():
  report = reports.report(refresh=REFRESH)
  assert report['refresh'] == REFRESH
  page, text = render(report), text_of(report)
  assert '<script>alert' not in page
  for figure in ('no go', 'is worse than that of the old', '4,321 compared rows', '0.1234', '-0.0266 ± 0.0031'):  # fmt: skip
    assert figure in text
  assert text.index('no go') < text.index('Test recall@10')


def test_a_refresh_that_trained_nothing_shows_its_reasons():
  result = {'verdict': 'no-go', 'reasons': ['nothing is new'], 'from': 'runs/shop'}
  text = text_of(reports.report(refresh=result))
  assert 'Refresh of runs/shop: no go nothing is new' in text
  assert 'Refresh' not in text_of(reports.report())


def test_texts_of_every_part_are_escaped_also_in_plots():
  report = reports.whole(HOSTILE)
  page = render(report)
  checker = checked(page)
  without = page.replace(checker.scripts[0], '')
  assert '<script>alert' not in page and '<b>5' not in page and '<!--' not in without
  assert '\u2028' not in ''.join(re.findall(r'<script.*?</script>', without, re.S))
  assert page.lower().count('</script') == page.count('<script') == len(checker.plots) + 2
  texts = ''.join(checker.texts)
  assert texts.count(HOSTILE) >= 7  # evaluator, user, history, target, recommendations
  assert sum(HOSTILE in hover for hover in checker.hovers) == 3  # the map


def test_every_part_shows_its_figures():
  report = reports.whole('soap')
  page, text = render(report), text_of(report)
  for figure in ('0.2436', '20.00 %', '25.00 %', '0.4567 ± 0.0123'):  # memorization
    assert figure in text
  for figure in ('By hops from the history', 'Smallest number of transitions.', '30 rows'):
    assert figure in text
  for figure in ('Failure user soap; the target is not in the list', 'one-hop: outside', '-1.234'):
    assert figure in text
  assert re.search(r'<ol class="items" start="24">', page)
  for figure in ('soap validation test', '0.9877 ± 0.0123', 'item mean: rmse 1.0987'):
    assert figure in text
  assert 'retrieval' not in text  # its metrics are those of the first table
  for figure in ('TIGER', '0.0648 +0.0164', 'Published figures beauty, test', 'arXiv 2305.05065'):
    assert figure in text
  for figure in (
    '0.0812 by hits of items, 0.0899 by hits',
    '97 (97.00 %); 3 are',
    '31 (0.26 %)',
    'model 12.3 ms',
  ):
    assert figure in text
  assert 'bpr_mf (about 120 s). --mode=evaluate --config.eval.baselines' in text
  assert '3 items of 12,101; the first two principal components of their item vectors' in text
  plots = len(checked(page).plots)
  assert plots == 2 + 2 + 3 + 1


def test_an_evaluation_of_an_earlier_version_shows_only_its_parts():
  text = text_of(reports.report())
  for title in (
    'memorization',
    'Groups',
    'examples test',
    'evaluators',
    'Published',
    'Protocol',
    'Map of',
    'Time per',
  ):
    assert title not in text


def test_a_sample_of_the_rows_is_stated():
  sample = {'test': {'rows': 50, 'of': 100}}
  text = text_of(reports.report(parts={'sample': sample}))
  assert 'a fixed sample of 50 of 100 test rows' in text and 'every user once' not in text


def test_a_page_with_every_part_is_below_5_mb():
  report = reports.whole('漢' * 90)
  report['sid_map']['points'] = report['sid_map']['points'][:1] * sid_map.MOST
  report['examples']['rows'] *= examples.EXAMPLES
  assert len(render(report).encode()) < 4_500_000
