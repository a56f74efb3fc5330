"""Plots: Vega-Lite draws every specification with all its marks; texts cannot leave their element."""

import json
import re
import xml.etree.ElementTree

import pytest
import vl_convert

from recjax.report import plots

NASTY = '</script><script>alert("x")</script> & <b>5" \'b\'</b> \u2028 <!-- é'
GROUPS = [(row, group, 0.1, 0.01) for row in ('model', NASTY) for group in ('inside', NASTY)]
SPECS = {
  'curve': plots.curve([(s, 1 / s) for s in range(1, 100)], NASTY),
  'evaluations': plots.curve([(5, 2.0)], NASTY, NASTY, [0.1], {NASTY: 1.9, 'b': 2.5}),
  'histogram': plots.histogram([(NASTY, 3), ('2', 4)], NASTY, NASTY),
  'timeline': plots.timeline([3, 0, 5], 1_000_000_000, 1_300_000_000, NASTY, {NASTY: 1_200_000_000}),
  'grouped_bars': plots.grouped_bars(GROUPS, NASTY, [NASTY] * 4),
  'series': plots.series(GROUPS, NASTY, NASTY),
  'numbers': plots.series([(0.5, NASTY, 1.0, 0.0), (7.0, NASTY, 2.0, 0.1)], 'y', NASTY),
  'intervals': plots.intervals([(a, b, 0.1, -0.1, 0.3) for a, b, _, _ in GROUPS], NASTY),
  'scatter': plots.scatter([(0.1, 0.2), (1.5, -2.0)], ['#f00', 'red'], [NASTY, 'b'], NASTY),
}  # fmt: skip


@pytest.mark.parametrize('name', SPECS)
def test_vega_lite_draws_every_plot_with_its_texts(name):
  spec = SPECS[name] | {'width': 400}
  svg = vl_convert.vegalite_to_svg(spec)
  root = xml.etree.ElementTree.fromstring(svg)
  texts = [''.join(text.itertext()) for text in root.iter('{http://www.w3.org/2000/svg}text')]
  assert not list(root.iter('{http://www.w3.org/2000/svg}script'))
  assert name in ('scatter', 'curve') or any('</script>' in text for text in texts)
  assert not re.search('NaN|undefined|Infinity', svg)
  assert 'var(--' in svg or name == 'scatter'  # the colours of the page


def test_the_marks_are_those_of_the_data():
  svg = vl_convert.vegalite_to_svg(SPECS['grouped_bars'] | {'width': 400})
  bars = re.findall(r'aria-roledescription="bar"', svg)
  assert len(bars) == len(GROUPS)
  svg = vl_convert.vegalite_to_svg(
    plots.histogram([('a', 1), ('b', 2), ('c', 4)], 'y', 'x') | {'width': 90}
  )
  heights = [float(h) for h in re.findall(r'aria-roledescription="bar" d="M[^"]*?v([\d.]+)h', svg)]
  assert heights == pytest.approx([65, 130, 260])  # fmt: skip


def test_a_text_cannot_leave_the_element_of_its_plot():
  for spec in SPECS.values():
    element = str(plots.embed(spec))
    label, source = re.fullmatch(
      r'<div class="plot" role="img" aria-label="([^"<>]*)"><div><p class="none">[^<]*</p></div>'
      r'<script type="application/json">([^<>&\u2028]*)</script></div>',
      element,
    ).groups()
    assert json.loads(source) == spec and label


def test_a_figure_that_json_cannot_hold_is_refused():
  with pytest.raises(ValueError, match='JSON'):
    plots.embed({'description': 'a plot', 'width': float('nan')})


def test_the_runtime_is_kept_and_stays_inside_its_element(monkeypatch, tmp_path):
  text = str(plots.runtime())
  assert text.lower().count('</script') == text.count('<script>') == 2
  assert 'vegaEmbed' in text and '<!--' not in text

  def bundle():
    return 'window.vegaEmbed = 1;'

  monkeypatch.setattr(plots.vl_convert, 'javascript_bundle', bundle)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert plots._bundle() == bundle()
  (kept,) = tmp_path.rglob('*.js')
  assert plots.importlib.metadata.version('vl-convert-python') in kept.name
  kept.write_text('kept')
  assert plots._bundle() == 'kept'
  monkeypatch.setenv('XDG_CACHE_HOME', str(kept))  # a file: nothing can be kept
  assert plots._bundle() == bundle()
  monkeypatch.setattr(plots.vl_convert, 'javascript_bundle', lambda: 'x</SCRIPT >')
  with pytest.raises(AssertionError, match='must not end the script element'):
    plots._bundle()
