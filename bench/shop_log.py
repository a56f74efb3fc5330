"""Writes the log of a made-up shop, as shops export them, for trials and tests.

Command:  python -m bench.shop_log --out=FOLDER --users=800 --items=300 [--oddities] [--until=2026-03-01]

`interactions.csv` has the columns customer, sku, when, action (view or purchase), stars (on some purchases) and channel
(of no use to a recommender). `items.csv` has sku, name, maker, about, department and cost. A quarter of the purchases follow
a view of the same item, and some customers return to an item, so a part of the log repeats itself.

The next item can be learnt partly from the order. An item lies in a department and has a style; its successors are the
items of the same style in the next department. With probability `order` a step goes to a successor: of the last item
(two thirds), or of the item before it. Other steps stay in the department or go anywhere. Popular items are drawn more
often in all of them.
"""

from collections.abc import Collection
import dataclasses

from absl import app, flags
from etils import epath
import numpy as np
import pyarrow as pa
from pyarrow import csv

COLUMNS = {
  'user': 'customer',
  'item': 'sku',
  'time': 'when',
  'event': 'action',
  'rating': 'stars',
  'title': 'name',
  'brand': 'maker',
  'description': 'about',
  'category': 'department',
  'price': 'cost',
}
ODDITIES = (
  'unknown_items',  # 2 % of the rows have an item that the item table lacks
  'equal_keys',  # 1 % of the rows of known items come twice
  'no_text',  # 5 % of the items have neither name, maker, text nor department
)

_START = np.datetime64('2026-01-01T00:00:00')
_DAYS = 120  # customers come for the first time during these days
_MIN_STEPS, _MEAN_STEPS, _MAX_STEPS = 4, 10, 60
_LAST = 2 / 3  # share of the successors that follow the last item
_DEPARTMENT = 0.5  # share of the steps without order that stay in the department
_RETURN, _PURCHASE, _VIEWED_FIRST, _RATED, _VISIT = 0.03, 0.4, 0.25, 0.4, 0.6
_NOUNS = ('lamp', 'desk', 'chair', 'rug', 'shelf', 'clock', 'vase', 'mirror', 'stool', 'basket')
_STYLES = ('oak', 'walnut', 'steel', 'linen', 'marble', 'bamboo', 'copper', 'velvet', 'glass')
_COLOURS = ('blue', 'green', 'red', 'white', 'black', 'yellow', 'grey', 'orange')
_CHANNELS = ('web', 'app', 'store')


@dataclasses.dataclass(frozen=True)
class _Groups:
  """Draws items of a group by their weight; all groups at once."""

  order_I: np.ndarray  # items, sorted by group
  bounds_G1: np.ndarray  # sums of the weights before each group, and of all
  sums_I: np.ndarray  # sums of the weights in this order

  @classmethod
  def of(cls, group_I: np.ndarray, weight_I: np.ndarray) -> '_Groups':
    order_I = np.argsort(group_I, kind='stable')
    sums_I = np.cumsum(weight_I[order_I])
    counts_G = np.bincount(group_I)
    bounds_G1 = np.concatenate([[0.0], sums_I[np.cumsum(counts_G) - 1]])
    return cls(order_I, bounds_G1, sums_I)

  def draw(self, rng: np.random.Generator, group_U: np.ndarray) -> np.ndarray:
    low_U, high_U = self.bounds_G1[group_U], self.bounds_G1[group_U + 1]
    drawn_U = low_U + rng.random(len(group_U)) * (high_U - low_U)
    return self.order_I[np.searchsorted(self.sums_I, drawn_U).clip(0, len(self.order_I) - 1)]


def write(
  folder: str | epath.Path,
  users: int,
  items: int,
  seed: int = 0,
  oddities: Collection[str] = (),
  order: float = 0.5,
  until: str | None = None,
) -> dict[str, int]:
  """Writes interactions.csv and items.csv into a folder.

  The same arguments give the same bytes. The log until a moment is a prefix of the whole log, and its item table lacks
  the items that were first met later.

  Args:
    folder: made if it is missing.
    users: customers.
    items: items of the shop; not every one of them is met.
    seed: of everything that is random.
    oddities: names in ODDITIES.
    order: probability of a step that can be learnt from the order; 0: no order.
    until: a moment in ISO 8601; later rows are left out.

  Returns:
    Counts of the rows by kind, for tests: rows, views, purchases, rated, and of the oddities.
  """
  if unknown := set(oddities) - set(ODDITIES):
    raise ValueError(f'oddities must be among {ODDITIES}; got {sorted(unknown)}')
  log = _log(np.random.default_rng([seed, users, items]), users, items, order)
  log = _with_oddities(log, np.random.default_rng([seed, 1]), oddities)
  known_I = np.ones(items, bool)
  if until is not None:
    is_early = log['when'] < np.datetime64(until)
    known_I[log['sku']] = False
    log = {name: values[is_early] for name, values in log.items()}
    known_I[log['sku']] = True
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  skus = np.char.add('sku', np.arange(1, items + 1).astype(str)).astype(object)
  sku_N = np.where(log['gone'] > 0, np.char.add('gone', log['gone'].astype(str)), skus[log['sku']])
  rows = np.repeat(np.arange(len(sku_N)), log['times'])
  without_text_I = np.zeros(items, bool)
  if 'no_text' in oddities:
    without_text_I = np.random.default_rng([seed, 3]).random(items) < 0.05
  counts = {
    'unknown_items': int(np.sum(log['gone'] > 0)),
    'equal_keys': len(rows) - len(sku_N),
    'no_text': int((without_text_I & known_I).sum()),
  }
  table = _interactions(log, sku_N, rows)
  _write(table, folder / 'interactions.csv')
  _write(_items(skus, known_I, without_text_I, seed), folder / 'items.csv')
  purchases = int(np.sum(log['is_purchase'][rows]))
  rated = int(np.sum(log['stars'][rows] > 0))
  return counts | {
    'rows': len(rows), 'views': len(rows) - purchases, 'purchases': purchases, 'rated': rated
  }  # fmt: skip


def _with_oddities(
  log: dict[str, np.ndarray], rng: np.random.Generator, oddities: Collection[str]
) -> dict[str, np.ndarray]:
  """Adds `gone`, the number of an unknown item in place of the item (0: none), and `times`, how often a row comes."""
  N = len(log['when'])
  gone_N = np.where(rng.random(N) < 0.02, rng.integers(1, 9, N), 0)
  gone_N *= 'unknown_items' in oddities
  is_twice_N = (rng.random(N) < 0.01) & (gone_N == 0) & ('equal_keys' in oddities)
  return log | {'gone': gone_N, 'times': 1 + is_twice_N}


def _shape(items: int) -> tuple[int, int]:
  """The number of departments, and of styles in each."""
  return max(1, int(items**0.45)), max(1, int(items**0.3))


def _log(rng: np.random.Generator, users: int, items: int, order: float) -> dict[str, np.ndarray]:
  """The rows in order of time, as indices of customers and items."""
  steps_U = np.minimum(
    _MIN_STEPS + rng.geometric(1 / (_MEAN_STEPS - _MIN_STEPS + 1), users) - 1, _MAX_STEPS
  )
  walk_TU = _walk(rng, users, items, order, int(steps_U.max()))
  width = walk_TU.shape[0]
  pause_TU = np.where(
    rng.random((width, users)) < _VISIT,
    rng.exponential(600, (width, users)),
    rng.exponential(4 * 86_400, (width, users)),
  )
  # Whole minutes, so that a view a few seconds before a purchase never meets another row.
  minute_TU = np.cumsum(pause_TU // 60 + 1, axis=0) + rng.integers(0, _DAYS * 1440, users)
  t_N, user_N = np.nonzero(np.arange(width)[:, None] < steps_U)
  item_N, second_N = walk_TU[t_N, user_N], (minute_TU[t_N, user_N] * 60).astype(np.int64)
  is_purchase_N = rng.random(len(item_N)) < _PURCHASE
  viewed_N = is_purchase_N & (rng.random(len(item_N)) < _VIEWED_FIRST)
  stars_N = np.where(
    is_purchase_N & (rng.random(len(item_N)) < _RATED), rng.integers(1, 6, len(item_N)), 0
  )
  columns = {
    'when': np.concatenate([second_N, second_N[viewed_N] - 30]),
    'customer': np.concatenate([user_N, user_N[viewed_N]]),
    'sku': np.concatenate([item_N, item_N[viewed_N]]),
    'is_purchase': np.concatenate([is_purchase_N, np.zeros(viewed_N.sum(), bool)]),
    'stars': np.concatenate([stars_N, np.zeros(viewed_N.sum(), int)]),
  }
  by_time = np.lexsort((columns['customer'], columns['when']))
  columns = {name: values[by_time] for name, values in columns.items()}
  columns['when'] = _START + columns['when'].astype('timedelta64[s]')
  return columns


def _walk(rng: np.random.Generator, users: int, items: int, order: float, steps: int) -> np.ndarray:
  """The items of every customer, step by step: `[T, U]`."""
  departments, styles = _shape(items)
  item_I = np.arange(items)
  department_I, style_I = item_I % departments, item_I // departments % styles
  weight_I = rng.permutation((1.0 + item_I) ** -0.7)
  cells = _Groups.of(department_I * styles + style_I, weight_I)
  shelves = _Groups.of(department_I, weight_I)
  everything = _Groups.of(np.zeros(items, int), weight_I)
  walk_TU = np.empty((steps, users), np.int64)
  nowhere_U = np.zeros(users, int)
  for t in range(steps):
    anywhere_U = everything.draw(rng, nowhere_U)
    if t == 0:
      walk_TU[0] = anywhere_U
      continue
    last_U = walk_TU[t - 1]
    from_U = np.where(rng.random(users) < _LAST, last_U, walk_TU[max(t - 2, 0)])
    following_U = (department_I[from_U] + 1) % departments * styles + style_I[from_U]
    stays_U = rng.random(users) < _DEPARTMENT
    other_U = np.where(stays_U, shelves.draw(rng, department_I[last_U]), anywhere_U)
    ordered_U = rng.random(users) < order
    walk_TU[t] = np.where(ordered_U, cells.draw(rng, following_U), other_U)
    again_U = rng.random(users) < _RETURN
    earlier_U = walk_TU[rng.integers(0, t, users), np.arange(users)]
    walk_TU[t] = np.where(again_U, earlier_U, walk_TU[t])
  return walk_TU


def _interactions(log: dict[str, np.ndarray], sku_N: np.ndarray, rows: np.ndarray) -> pa.Table:
  customers = np.char.add('c', (1 + log['customer']).astype(str)).astype(object)
  times = np.char.replace(log['when'].astype('datetime64[s]').astype(str), 'T', ' ')
  stars = pa.array(log['stars'][rows], pa.int8(), mask=log['stars'][rows] == 0)
  return pa.table(
    {
      'customer': pa.array(customers[rows], pa.string()),
      'sku': pa.array(sku_N[rows], pa.string()),
      'when': pa.array(times[rows].astype(object), pa.string()),
      'action': pa.array(np.where(log['is_purchase'][rows], 'purchase', 'view').astype(object)),
      'stars': stars,
      'channel': pa.array(np.array(_CHANNELS, object)[log['customer'][rows] % len(_CHANNELS)]),
    }
  )


def _items(
  skus: np.ndarray, known_I: np.ndarray, without_text_I: np.ndarray, seed: int
) -> pa.Table:
  departments, styles = _shape(len(skus))
  n_I = np.flatnonzero(known_I)
  department_I, style_I = n_I % departments, n_I // departments % styles
  variant_I = n_I // (departments * styles)
  prices = np.random.default_rng([seed, 2]).uniform(3, 300, len(skus)).round(2)
  style = [_named(_STYLES, n) for n in style_I]
  noun = [_named(_NOUNS, n) for n in department_I]
  colour = [_named(_COLOURS, n) for n in variant_I]
  texts = {
    'name': [f'{s} {n} in {c}'.capitalize() for s, n, c in zip(style, noun, colour, strict=True)],
    'maker': [f'House of {s}' for s in style],
    'about': [f'A {n} made of {s}, for every home' for s, n in zip(style, noun, strict=True)],
    'department': [f'Home > {n}s'.title() for n in noun],
  }
  mask = without_text_I[n_I]
  columns = {name: pa.array(values, pa.string(), mask=mask) for name, values in texts.items()}
  return pa.table({'sku': pa.array(skus[n_I], pa.string()), **columns, 'cost': prices[n_I]})


def _named(names: tuple[str, ...], n: int) -> str:
  series, index = divmod(int(n), len(names))
  return names[index] + (f' {series + 1}' if series else '')


def _write(table: pa.Table, path: epath.Path) -> None:
  with path.open('wb') as file:
    csv.write_csv(table, file, csv.WriteOptions(quoting_style='needed'))


def column_flags() -> list[str]:
  """Returns the flags that name the columns of this log."""
  return [f'--config.data.{name}_column={column}' for name, column in COLUMNS.items()]


def main(argv: list[str]) -> None:
  del argv
  names = ODDITIES if _ODDITIES.value else ()
  counts = write(
    *(_OUT.value, _USERS.value, _ITEMS.value, _SEED.value, names, _ORDER.value, _UNTIL.value)
  )
  print(', '.join(f'{count:,} {name.replace("_", " ")}' for name, count in counts.items()))
  print(' '.join(column_flags()))


if __name__ == '__main__':
  _OUT = flags.DEFINE_string('out', None, 'Folder to write.', required=True)
  _USERS = flags.DEFINE_integer('users', 800, 'Customers.')
  _ITEMS = flags.DEFINE_integer('items', 300, 'Items of the shop.')
  _SEED = flags.DEFINE_integer('seed', 0, 'Seed.')
  _ODDITIES = flags.DEFINE_boolean('oddities', False, f'Add {", ".join(ODDITIES)}.')
  _ORDER = flags.DEFINE_float('order', 0.5, 'Probability of a step that the order determines.')
  _UNTIL = flags.DEFINE_string('until', None, 'Leave out rows from this moment on (ISO 8601).')
  app.run(main)
