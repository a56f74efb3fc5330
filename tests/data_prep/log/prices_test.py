"""Prices in the formats of catalogues."""

import decimal

import pytest

from data_prep.log import prices


@pytest.mark.parametrize(
  ('spelled', 'price'),
  [
    (12, 12),
    (12.5, 12.5),
    (decimal.Decimal('7.50'), 7.5),
    ('12.99', 12.99),
    (' 12 ', 12),
    ('1e3', 1000),
    ('.5', 0.5),
    ('$12.99', 12.99),
    ('$1,299.00', 1299),
    ('1,299', 1299),
    ('1,234,567.89', 1234567.89),
    ('12,99', 12.99),
    ('12,9 €', 12.9),
    ('1.299,00', 1299),
    ('1.234.567,89 €', 1234567.89),
    ('1.299', 1.299),
    ('1.299.000', 1_299_000),
    ('1 299,00 kr', 1299),
    ('1\u202f299,00\xa0€', 1299),
    ("CHF 1'299.50", 1299.5),
    ('USD 12.99', 12.99),
    ('12.99 USD', 12.99),
    ('US$ 12', 12),
    ('R$ 12,50', 12.5),
    ('¥1,200', 1200),
    ('from 12.99', 12.99),
    ('$1,012 - $2,000.50', 1012),
    ('$5.99–$12.99', 5.99),
    ('5-10', 5),
  ],
)
def test_readable_prices_are_parsed(spelled, price):
  assert prices.price(spelled) == price


@pytest.mark.parametrize(
  'spelled',
  [
    '', '—', '$', '.', 'NaN', 'inf', 'call us', 'Free', '2 for $5', '2019-05-01', '1,2,3', '12,345,67', '1_000',
    '.a-box-inner{background-color:#fff}', '9' * 400, 'x' * 13_000, float('nan'), float('inf'), 1e300, True, None,
    [], ['12'], {'amount': 12}, b'12', decimal.Decimal('NaN'),
  ],
)  # fmt: skip
def test_unreadable_prices_give_none(spelled):
  assert prices.price(spelled) is None
