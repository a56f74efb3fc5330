"""Numbers as text, and thinned curves."""

from recjax.report import numbers


def test_thinned_curve_keeps_the_mean():
  points = [(i, float(i % 10)) for i in range(1000)]
  thin = numbers.thin(points, 100)
  assert len(thin) == 100
  assert all(y == 4.5 for _, y in thin)
  assert numbers.thin(points[:5], 100) == points[:5]


def test_numbers_have_four_significant_digits():
  values = (12000, 0.07654321, 3.2e-5, 1234.567, -3.0)
  assert [numbers.number(value) for value in values] == [
    '12,000', '0.07654', '3.2e-05', '1,234.57', '-3',
  ]  # fmt: skip
