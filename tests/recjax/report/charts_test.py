"""Charts: well-formed SVG inside its axes, round ticks, thinned curves."""

import re
import xml.etree.ElementTree

import pytest

from recjax.report import charts
from tests.recjax.report.reports import NASTY


def test_chart_is_well_formed_and_inside_its_axes():
  points = [(s, (s % 7) / 3 - 1) for s in range(10, 200)]
  svg = charts.line_chart(points, NASTY, references={NASTY: 1.7})
  root = xml.etree.ElementTree.fromstring(str(svg))
  circles = root.findall('circle')
  assert len(circles) == 190
  assert NASTY in circles[0].find('title').text
  low, high = charts.TOP, charts.HEIGHT - charts.BOTTOM
  assert all(low <= float(c.get('cy')) <= high for c in circles)
  xs = [float(c.get('cx')) for c in circles]
  assert xs == sorted(xs)
  # Larger values have smaller y coordinates.
  ys = {round(y, 6): float(c.get('cy')) for (_, y), c in zip(points, circles, strict=True)}
  assert [ys[y] for y in sorted(ys)] == sorted(ys.values(), reverse=True)
  assert charts.line_chart([(5, 2.0)], 'loss').count('<circle') == 1


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
  assert charts.ticks(low, high) == expected


def test_thinned_curve_keeps_the_mean():
  points = [(i, float(i % 10)) for i in range(1000)]
  thin = charts.thin(points, 100)
  assert len(thin) == 100
  assert all(y == 4.5 for _, y in thin)
  assert charts.thin(points[:5], 100) == points[:5]


def test_references_with_nearly_equal_values_share_a_label():
  references = {'a': 0.5, 'b': 0.5001, 'c': 0.9}
  svg = charts.line_chart([(1, 0.0), (2, 1.0)], 'ndcg@10', references=references)
  texts = [text.text for text in xml.etree.ElementTree.fromstring(str(svg)).findall('text')]
  assert 'a 0.5, b 0.5001' in texts and 'c 0.9' in texts


def test_bars_have_heights_labels_and_marks():
  bars = [(f'<{n}>', n) for n in range(1, 11)]
  svg = charts.bar_chart(bars, 'users', 'length', labels=4, marks={'<m>': 5.0})
  rectangles = re.findall(r'<rect class="block" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)">', svg)  # fmt: skip
  heights = [float(height) for *_, height in rectangles]
  assert len(heights) == 10
  assert heights == pytest.approx([heights[0] * n for n in range(1, 11)], rel=0.01)
  lefts = [float(x) for x, *_ in rectangles]
  assert lefts == sorted(lefts) and lefts[-1] + float(rectangles[-1][2]) <= charts.WIDTH
  assert re.findall(r'text-anchor="middle">(&lt;\d+&gt;)<', svg) == ['&lt;1&gt;', '&lt;4&gt;', '&lt;7&gt;', '&lt;10&gt;']  # fmt: skip
  (mark,) = re.findall(r'class="reference" x1="([\d.]+)"', svg)
  assert float(mark) == pytest.approx((charts.LEFT + charts.WIDTH - charts.RIGHT) / 2)
  assert '&lt;m&gt;' in svg and '<m>' not in svg
