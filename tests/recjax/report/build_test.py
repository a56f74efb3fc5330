import dataclasses
import html
import html.parser
import json
import re
import types
import xml.etree.ElementTree

import numpy as np
import pytest

from data_prep.log import item_text
from recjax import config as config_lib
from recjax.report import build
from recjax.report import charts as report_charts
from recjax.schema.optim import Stage

NASTY = '</title><script>alert("x")</script> & <b>5" \'bolts\''
VOID = {'meta', 'link', 'br', 'img', 'hr', 'input'}


class _Checker(html.parser.HTMLParser):
  """Collects tags and texts; fails on tags that are not closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.texts = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def _metrics(recall: float) -> dict[str, float]:
  return {
    f'{name}@{k}{suffix}': recall * k / 10 / (1 if suffix == '' else 50)
    for name in ('recall', 'ndcg', 'mrr')
    for k in (1, 10)
    for suffix in ('', '_stderr')
  }


def mixture_row(name: str, **changes) -> dict:
  return {
    'name': name,
    'task': 'next_item',
    'from_example': 0,
    'examples': 10_000,
    'units': 7,
    'share': 1.0,
    'token_share': 1.0,
    'target_share': 1.0,
    'loss_weight': 1.0,
  } | changes


def _report(
  item_text: str = 'original', optimum=None, name: str = 'beauty', rows=None, **more
) -> dict:
  baselines = {
    'popularity': _metrics(0.0135) | {'validation': _metrics(0.014)},
    'transitions': _metrics(0.0707) | {'validation': _metrics(0.08)},
  }
  if rows is None:
    rows = [
      {'step': s, 'loss': 5 / s, 'steps_per_sec': 2.0, 'tokens_per_sec': 4e3} for s in range(1, 501)
    ]
    for s in (100, 200, 500):
      rows[s - 1] |= {'validation/ndcg@10': s / 1e4, 'validation/ndcg@10_stderr': 0.002}
  return build.build_report(
    config={
      'seed': 0,
      'data': {'name': name, 'item_text': item_text, 'raw_dir': None},
      'mixture': {NASTY: {'task': 'next_item', 'weight': 1.0}},
    },
    commit='0123abcd',
    versions={'python': '3.12.1', 'jax': '9.8.7'},
    data={'users': 22363, 'items': 12101, 'interactions': 198502},
    sids={
      'levels': 2,
      'codes_per_level': [256, 4],
      'statistics': {
        'colliding_items': 1234,
        'levels': [
          {'codes': 256, 'used': 250, 'perplexity': 200.125},
          {'codes': 4, 'used': 3, 'perplexity': 1.5},
        ],
      },
      'examples': [{'title': NASTY, 'sid': [17, 3]}],
      'keywords': [{'token': '<a_17>', 'description': NASTY, 'keywords': ['soap', NASTY]}],
    },
    metrics={'validation': _metrics(0.09), 'test': _metrics(0.0812)},
    baselines=baselines,
    rows=rows,
    mixture_rows=[mixture_row(NASTY, share=0.75, units=54321)],
    optimum=optimum,
    run={'best_step': 400, 'parameters': 1_234_567},
    **more,
  )


def _checked(page: str) -> _Checker:
  checker = _Checker()
  checker.feed(page)
  checker.close()
  assert not checker.open
  return checker


def test_json_has_what_programs_read(tmp_path):
  build.write_report(tmp_path, _report())
  assert sorted(path.name for path in tmp_path.iterdir()) == ['report.html', 'report.json']
  report = json.loads((tmp_path / 'report.json').read_text())
  for split in ('validation', 'test'):
    assert {'recall@10', 'recall@10_stderr', 'ndcg@10'} <= set(report['metrics'][split])
  assert report['baselines']['transitions']['recall@10'] == 0.0707
  assert report['baselines']['transitions']['validation']['recall@10'] == 0.08
  assert report['data']['users'] == 22363
  assert report['sids']['statistics']['colliding_items'] == 1234
  assert report['throughput'] == {'steps_per_sec': 2.0, 'tokens_per_sec': 4e3}
  assert report['curves']['validation/ndcg@10'][-1] == [500, 0.05, 0.002]
  assert len(report['curves']['loss']) == report_charts.MAX_POINTS
  assert 'optimum' not in report


def test_page_shows_the_figures():
  page = build.render(_report())
  checker = _checked(page)
  text = ' '.join(' '.join(checker.texts).split())
  for figure in ('0.0812', '0.0016', '0.0707', '0.0135', '0.0900', '22,363', '12,101', '198,502'):
    assert figure in text
  for figure in ('1.15', '75.00 %', '54,321', '0123abcd', '9.8.7', '1,234', '200.1', '1,234,567'):
    assert figure in text
  assert 'generated' not in text
  assert 'optim' not in text.lower()
  assert 'step 500: ndcg@10 0.05 ± 0.002' in text  # shown on hovering


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


def test_quality_of_sids_is_shown_where_it_is_known():
  report = _report()
  text = ' '.join(_checked(build.render(report)).texts)
  assert 'variance left' not in text and 'by chance' not in text
  report['sids']['quality'] = QUALITY | {'purity': None}
  text = ' '.join(_checked(build.render(report)).texts)
  for figure in ('variance left', '53.7 %', '55.2 %', '16.4 %', 'by chance 0.08 %'):
    assert figure in text
  assert 'category' not in text
  report['sids']['quality'] = QUALITY | {'reconstruction_error': None, 'neighbours_kept': None}
  report['sids']['quality']['reassigned_items'] = 4567
  text = ' '.join(_checked(build.render(report)).texts)
  assert 'reassigned_items 4,567' in ' '.join(text.split())
  assert '75.4 % of the items' in text and 'the 6 categories of level 2' in text
  assert 'variance left' not in text


def test_page_needs_nothing_from_outside():
  page = build.render(_report())
  checker = _checked(page)
  assert not [tag for tag, _ in checker.tags if tag in ('script', 'link', 'img', 'iframe')]
  assert not [a for _, a in checker.tags if {'src', 'href'} & set(a)]
  assert 'url(' not in page
  assert '@import' not in page


def test_no_text_can_break_the_page():
  page = build.render(_report(name=NASTY))
  checker = _checked(page)
  assert '<script' not in page
  assert '<b>5' not in page
  assert ''.join(checker.texts).count(NASTY) >= 6  # title, heading, mixture, example, keywords
  assert '<a_17>' in checker.texts
  assert NASTY in html.unescape(page)


def test_titles_that_entities_turn_into_html_are_escaped():
  row = item_text.item_row('x', {'title': '&lt;script&gt;alert(1)&lt;/script&gt;'})
  assert row['text'] == '<script>alert(1)</script>'
  report = _report()
  report['sids']['examples'] = [{'title': row['text'], 'sid': [1, 2]}]
  page = build.render(report)
  assert '<script' not in page
  assert '<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>' in page


def test_rows_are_counted_where_they_are_not_users():
  report = _report()
  page = build.render(report)
  assert 'seen items removed, every user once; ± is one standard error over users' in page
  report['config']['eval'] = {'exclude_seen': False}
  report['data'] |= {'validation_rows': 17613, 'test_rows': 17614}
  page = build.render(report)
  assert 'seen items included, every held-out row once (17,613 for validation, 17,614 ' in page
  assert 'every user once' not in page


def test_optimum_and_generated_texts():
  optimum = {'recall@10': 0.1015, 'ndcg@10': 0.09, 'validation': {'recall@10': 0.1}}
  report = _report(item_text='generated', optimum=optimum)
  assert report['optimum_share']['recall@10'] == pytest.approx(0.8)
  text = ' '.join(_checked(build.render(report)).texts)
  assert '80.0 %' in text
  assert '0.1015' in text
  assert 'item texts are generated' in text


def test_run_without_curves():
  page = build.render(_report(rows=[]))
  assert 'loss was not recorded' in ' '.join(_checked(page).texts)


def test_every_stage_has_its_curves_and_its_mixture():
  rows = [{'step': s, 'loss': 7.125 / s, 'host_peak_bytes': 3_210_000_000} for s in (1, 2)]
  earlier = {
    'name': NASTY,
    'rows': rows,
    'mixture_rows': [mixture_row('rows', token_share=0.123, loss_weight=0.25, from_example=50_000)],
  }
  page = build.render(_report(stage='all', earlier=[earlier]))
  text = ' '.join(' '.join(_checked(page).texts).split())
  assert f'Training: stage {" ".join(NASTY.split())} 1 of 2' in text
  assert 'Training: stage all 2 of 2' in text
  for figure in ('step 1: loss 7.125', '12.30 %', '0.25', '50,000', 'host_peak_GB 3.21'):
    assert figure in text
  assert page.count('<svg') == 2 + 1  # the first stage was not evaluated
  assert 'stage' not in _one_stage_heading(build.render(_report()))


def _one_stage_heading(page: str) -> str:
  return re.search(r'<h2>Training.*?</h2>', page).group()


def goodput_process(trainings: dict, ended=None) -> dict:
  """Six tenths of its time are steps, three compile, one start-up."""
  total = sum(seconds for *_, seconds in trainings.values()) / 6
  return {
    'began': '2030-01-02T03:04:05+00:00',
    'ended': ended,
    'first_step_after': 12.5,
    'seconds': {'steps': 6 * total, 'compile': 3 * total, 'start_up': total},
    'trainings': {
      name: {'from': first, 'to': last, 'seconds': seconds}
      for name, (first, last, seconds) in trainings.items()
    },
  }


def test_wall_time_is_shown_as_a_table_and_a_bar():
  assert 'goodput' not in build.render(_report())
  process = goodput_process({'.': (0, 300, 60.0)})
  last = goodput_process({'.': (200, 500, 60.0)}, ended='done')
  report = _report(processes=[process, last])
  assert report['goodput']['goodput'] == pytest.approx(0.5)  # 60 - 20 + 60 of 200
  page = build.render(report)
  text = ' '.join(' '.join(_checked(page).texts).split())
  for figure in ('goodput 50.0 %', 'compile 60.0 s 30.0 %', 'lost 20.0 s 10.0 %', '200 to 500'):
    assert figure in text
  assert 'killed' in text and 'running' not in text
  widths = re.findall(r'<span class="(\w+)" style="width: ([\d.]+)%"', page)
  assert dict(widths) == {
    'steps': '50.000', 'compile': '30.000', 'start_up': '10.000', 'lost': '10.000'
  }  # fmt: skip


def test_missing_split_and_nan(tmp_path):
  report = _report()
  with pytest.raises(ValueError, match='recall@10 of the test split'):
    build.build_report(
      **{name: {} for name in ('config', 'versions', 'data', 'sids', 'baselines')},
      commit=None,
      metrics={'validation': _metrics(0.1)},
      rows=[],
    )
  report['metrics']['test']['recall@10'] = float('nan')
  with pytest.raises(ValueError, match='nan'):
    build.write_report(tmp_path, report)
  assert list(tmp_path.iterdir()) == []


def test_chart_is_well_formed_and_inside_its_axes():
  points = [(s, (s % 7) / 3 - 1) for s in range(10, 200)]
  svg = report_charts.line_chart(points, NASTY, references={NASTY: 1.7})
  root = xml.etree.ElementTree.fromstring(str(svg))
  circles = root.findall('circle')
  assert len(circles) == 190
  assert NASTY in circles[0].find('title').text
  low, high = report_charts.TOP, report_charts.HEIGHT - report_charts.BOTTOM
  assert all(low <= float(c.get('cy')) <= high for c in circles)
  xs = [float(c.get('cx')) for c in circles]
  assert xs == sorted(xs)
  # Higher values lie higher up: smaller y.
  ys = {round(y, 6): float(c.get('cy')) for (_, y), c in zip(points, circles, strict=True)}
  assert [ys[y] for y in sorted(ys)] == sorted(ys.values(), reverse=True)
  assert report_charts.line_chart([(5, 2.0)], 'loss').count('<circle') == 1


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0, 10, [0, 2, 4, 6, 8, 10]),
    (0.013, 0.084, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
    (3, 3, [3, 4, 5, 6]),
    (-1, 1, [-1, -0.5, 0, 0.5, 1]),
  ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
  assert report_charts.ticks(low, high) == expected


def test_thinned_curve_keeps_the_mean():
  points = [(i, float(i % 10)) for i in range(1000)]
  thin = report_charts.thin(points, 100)
  assert len(thin) == 100
  assert all(y == 4.5 for _, y in thin)
  assert report_charts.thin(points[:5], 100) == points[:5]


def test_report_of_a_run(tmp_path, monkeypatch):
  folder = tmp_path / 'data'
  for name, content in {
    'sids/sids.json': {'levels': 2, 'statistics': {'colliding_items': 3}},
    'sids/quality.json': QUALITY,
    'interactions/statistics.json': {'users': 7, 'items': 20, 'interactions': 77},
    'optimum/optimum.json': {'test': {'recall@10': 0.5}, 'validation': {'recall@10': 0.4}},
  }.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
  dataset = types.SimpleNamespace(
    folder=folder,
    num_items=20,
    items=[{'id': str(i), 'text': f'text of {i}'} for i in range(20)],
    sids=types.SimpleNamespace(codes_IL=np.arange(40, dtype=np.int32).reshape(20, 2)),
  )
  by_split = {'validation': _metrics(0.3), 'test': _metrics(0.4)}
  baselines = {'popularity': _metrics(0.1) | {'validation': _metrics(0.2)}}
  mix = types.SimpleNamespace(table=lambda: [mixture_row('next_item')])
  results = {'step': 12, 'metrics': by_split, 'baselines': baselines, 'rows_per_sec': 31.5}
  monkeypatch.setattr(build.mixture, 'build', lambda *args: mix)
  config = config_lib.from_config_dict(config_lib.defaults(source='synthetic', name='tiny'))
  workdir = tmp_path / 'run'
  workdir.mkdir()
  with pytest.raises(ValueError, match=r'evaluation.json must exist.*--mode=evaluate'):
    build.report_run(config, workdir, dataset, 17)
  (workdir / 'evaluation.json').write_text(json.dumps(results))
  build.report_run(config, workdir, dataset, 17)
  report = json.loads((workdir / 'report.json').read_text())
  assert report['metrics'] == by_split
  assert report['baselines'] == baselines
  assert report['optimum'] == {'recall@10': 0.5, 'validation': {'recall@10': 0.4}}
  assert report['optimum_share'] == {'recall@10': 0.8}
  assert report['run']['parameters'] == 17
  assert report['run']['best_step'] == 12
  assert report['sids']['quality'] == QUALITY
  assert report['sids']['examples'][1] == {'title': 'text of 2', 'sid': [4, 5]}
  assert report['config'] == json.loads(json.dumps(config.to_dict()))
  assert report['earlier_stages'] == [] and report['goodput'] is None
  stages = {name: Stage(num_train_steps=2, warmup_steps=0) for name in ('first', 'last')}
  for folder, loss in ((workdir / 'stages' / 'first', 8.0), (workdir, 4.0)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'metrics.jsonl').write_text(json.dumps({'step': 1, 'loss': loss}) + '\n')
  process = goodput_process({'stages/first': (0, 1, 2.5), '.': (0, 1, 1.5)})
  (workdir / 'goodput.json').write_text(json.dumps({'processes': [process]}))
  build.report_run(dataclasses.replace(config, stages=stages), workdir, dataset, 17)
  report = json.loads((workdir / 'report.json').read_text())
  assert (report['stage'], report['curves']['loss']) == ('last', [[1, 4.0]])
  (earlier,) = report['earlier_stages']
  assert (earlier['name'], earlier['curves']['loss']) == ('first', [[1, 8.0]])
  assert earlier['mixture'] == report['mixture'] == [mixture_row('next_item')]
  assert (report['goodput']['steps'], report['goodput']['goodput']) == (2, 0.6)


def test_commit_and_versions():
  assert re.fullmatch(r'[0-9a-f]{40}(-dirty)?', build.code_commit() or '0' * 40)
  assert {'python', 'jax', 'flax'} <= set(build.code_versions())
