"""A synthetic log with a known distribution of the next item, so that the best possible metrics are known.

Items are all combinations of theme, style and variant: item (theme × 8 + style) × 5 + variant. The themes form one
cycle, in a seeded order. For an item of theme t and style s there are

  direct successors   the 5 variants of style s in the theme after t,
  two-hop successors  the 5 variants of style s two themes after t,
  same theme          the other 39 items of t.

The next item depends only on the last item: 25 % a direct successor, 30 % a two-hop successor, 30 % an
item of the same theme, 15 % noise over the whole catalogue, each drawn uniformly. Seen items are excluded and the
probabilities are renormalised, so p(next | history) is known exactly. The length of a sequence is drawn first
and is independent of its items.

With `synthetic_reviews` the interactions have ratings and the items descriptions: a rating is the item's quality (2, 3 or
4) plus the user's leaning and noise (each -1, 0 or 1), cut to 1 … 5. The sequences are the same.
"""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from etils import epath
import numpy as np

from data_prep.log.raw_log import RawLog
from data_prep.sources import base
from recjax.data.sequences import Sequences, offsets_of
from recjax.schema.checks import check, setting

DIRECT, TWO_HOP, SAME_THEME, NOISE = 0.25, 0.30, 0.30, 0.15  # probabilities of the next item's kind
STYLES, VARIANTS = 8, 5
THEME_ITEMS = STYLES * VARIANTS
MIN_LENGTH = 5
MEAN_EXTRA = 2.0  # mean of the length beyond MIN_LENGTH, before the cut at MAX_LENGTH
MAX_LENGTH = 30

BLOCK_CELLS = 1 << 23  # probabilities in memory at once
DAY = 86_400


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


_NOUNS = _words("""
  kettle lantern blanket teapot backpack mirror notebook hammock umbrella candle bicycle telescope
  guitar skillet curtain basket armchair doormat thermos compass wallet pillow raincoat sandal
  drawer easel violin sundial trowel kayak helmet tripod bookend apron whisk goblet saddle quilt
  stapler tent anvil birdhouse chessboard drum fountain globe hourglass inkwell jigsaw kite
""")
_STYLES = _words('rustic nordic art-deco coastal industrial floral minimal victorian')
_VARIANTS = _words('copper walnut linen ceramic slate')
_MAKERS = _words('Hollen Fjordby Lumiere Saltmarsh Gantry Petalworks Blank&Bare Ashcombe')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(base.Source):
  """The synthetic world."""

  synthetic_users: int = setting(10_000, 'Users of the synthetic world.', above=0)
  synthetic_items: int = setting(2_000, 'Items of the synthetic world.', above=0)
  synthetic_seed: int = setting(0, 'Seed of the synthetic world.')
  synthetic_reviews: bool = setting(
    False, 'Also ratings of the interactions, and descriptions of the items.'
  )

  later: ClassVar[tuple[str, ...]] = (*base.Source.later, 'synthetic_reviews')
  identity: ClassVar[tuple[str, ...]] = ('synthetic_users', 'synthetic_items', 'synthetic_seed')
  has_optimum: ClassVar[bool] = True

  def load(self, raw_dir: epath.Path | None) -> RawLog:
    """Generates the log; `raw_dir` is not read.

    Raises:
      ValueError: the sizes are invalid, or the k-core filter would remove interactions.
    """
    del raw_dir
    world = sequences(self)
    items = self.synthetic_items
    rarest = min(world.lengths.min(), np.bincount(world.values, minlength=items).min())
    check(
      rarest >= self.k_core,
      f'data.k_core must be at most {rarest}, so that it removes nothing from the synthetic world',
      self.k_core,
      'data.k_core',
    )
    users = np.repeat(np.arange(len(world)), world.lengths)
    days = world.places
    ids = _ids('item', np.arange(items), items)
    return RawLog(
      users=_ids('user', users, len(world)),
      items=ids[world.values],
      times=days * DAY,
      item_records={
        item_id: item_record(i, self.synthetic_reviews) for i, item_id in enumerate(ids.tolist())
      },
      ratings=ratings(self, users, world.values) if self.synthetic_reviews else None,
    )

  def optimum(self, histories: Sequences, ks: Sequence[int]) -> dict[str, float]:
    return optimum(self, histories, ks)


def num_themes(world: Synthetic) -> int:
  """Returns the number of themes.

  Raises:
    ValueError: the number of items is no multiple of a theme or below three themes, or exceeds that of users.
  """
  items, users = world.synthetic_items, world.synthetic_users
  check(
    items % THEME_ITEMS == 0 and items >= 3 * THEME_ITEMS,
    f'data.synthetic_items must be a multiple of {THEME_ITEMS} (a theme) and at least three themes',
    items,
    'data.synthetic_items',
  )
  check(
    users >= items,
    f'data.synthetic_users must be at least data.synthetic_items ({items}), so that every item occurs',
    users,
    'data.synthetic_users',
  )
  return items // THEME_ITEMS


def following_themes(themes: int, seed: int) -> np.ndarray:
  """Returns the following theme of each theme, int64 `[themes]`; the themes form one cycle."""
  cycle = np.random.default_rng([seed, 0]).permutation(themes)
  following = np.empty(themes, np.int64)
  following[cycle] = np.roll(cycle, -1)
  return following


def _successors(items: np.ndarray, variants: np.ndarray, following: np.ndarray) -> np.ndarray:
  """The direct successors of `items` with the given variants."""
  theme, style = items // THEME_ITEMS, items // VARIANTS % STYLES
  return (following[theme] * STYLES + style) * VARIANTS + variants


def _propose(rng: np.random.Generator, last: np.ndarray, following: np.ndarray) -> np.ndarray:
  """Draws a next item for each last item; does not exclude seen items."""
  kind = rng.choice(4, len(last), p=(DIRECT, TWO_HOP, SAME_THEME, NOISE))
  variant = rng.integers(VARIANTS, size=len(last))
  theme, within = np.divmod(last, THEME_ITEMS)
  other = theme * THEME_ITEMS + (within + rng.integers(1, THEME_ITEMS, len(last))) % THEME_ITEMS
  direct = _successors(last, variant, following)
  two_hop = _successors(direct, variant, following)
  noise = rng.integers(len(following) * THEME_ITEMS, size=len(last))
  return np.choose(kind, (direct, two_hop, other, noise))


def sequences(world: Synthetic) -> Sequences:
  """Returns the sequences of all users, a pure function of the config.

  The first items of the users cover the whole catalogue, so that every item occurs in training. A seen item is
  redrawn, which gives the renormalised distribution.
  """
  following = following_themes(num_themes(world), world.synthetic_seed)
  rng = np.random.default_rng([world.synthetic_seed, 1])
  users = world.synthetic_users
  extra = rng.geometric(1 / (1 + MEAN_EXTRA), users) - 1
  lengths = np.minimum(MIN_LENGTH + extra, MAX_LENGTH)
  grid_UT = np.full((users, MAX_LENGTH), -1)
  grid_UT[:, 0] = rng.permutation(users) % world.synthetic_items
  for t in range(1, MAX_LENGTH):
    waiting = np.flatnonzero(lengths > t)
    while len(waiting):
      drawn = _propose(rng, grid_UT[waiting, t - 1], following)
      fresh = ~(grid_UT[waiting, :t] == drawn[:, None]).any(1)
      grid_UT[waiting[fresh], t] = drawn[fresh]
      waiting = waiting[~fresh]
  offsets = offsets_of(lengths)
  return Sequences(grid_UT[grid_UT >= 0].astype(np.int32), offsets)


def ratings(world: Synthetic, users: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Returns the rating of every interaction, float32: quality of the item, leaning of the user, noise.

  Args:
    world: the sizes and the seed.
    users: the user of each interaction.
    items: its item.
  """
  rng = np.random.default_rng([world.synthetic_seed, 2])
  quality = rng.integers(2, 5, world.synthetic_items)
  leaning = rng.integers(-1, 2, world.synthetic_users)
  noise = rng.choice((-1, 0, 1), len(users), p=(0.25, 0.5, 0.25))
  return np.clip(quality[items] + leaning[users] + noise, 1, 5).astype(np.float32)


def item_record(item: int, is_described: bool = False) -> dict:
  """Returns title, brand and categories of an item: its theme, style and variant in words; and a description."""
  theme, within = divmod(item, THEME_ITEMS)
  style, variant = divmod(within, VARIANTS)
  series, noun = divmod(theme, len(_NOUNS))
  thing = _NOUNS[noun] + (f' series{series + 1}' if series else '')
  made = (
    f'{_VARIANTS[variant].capitalize()} {thing} of the {_STYLES[style]} kind, by {_MAKERS[style]}.'
  )
  return ({'description': made} if is_described else {}) | {
    'title': f'{_STYLES[style]} {thing} in {_VARIANTS[variant]}'.capitalize(),
    'brand': _MAKERS[style],
    'categories': [['Household', thing.capitalize()]],
  }


def _ids(prefix: str, numbers: np.ndarray, count: int) -> np.ndarray:
  """Raw ids, padded with zeros so that they sort like the numbers."""
  width = len(str(count - 1))
  names = np.array([f'{prefix}{number:0{width}d}' for number in range(count)])
  return names[numbers]


def next_item_probabilities(world: Synthetic, histories: Sequences) -> np.ndarray:
  """Returns p(next item | history), exactly: float64 `[U, I]`, one row per non-empty history."""
  following = following_themes(num_themes(world), world.synthetic_seed)
  users = np.arange(len(histories))
  last = histories.values[histories.offsets[1:] - 1].astype(np.int64)
  p_UI = np.full((len(users), world.synthetic_items), NOISE / world.synthetic_items)
  for variant in range(VARIANTS):
    direct = _successors(last, variant, following)
    p_UI[users, direct] += DIRECT / VARIANTS
    p_UI[users, _successors(direct, variant, following)] += TWO_HOP / VARIANTS
  theme = last // THEME_ITEMS
  for within in range(THEME_ITEMS):
    p_UI[users, theme * THEME_ITEMS + within] += SAME_THEME / (THEME_ITEMS - 1)
  p_UI[np.repeat(users, histories.lengths), histories.values] = 0  # includes the last item
  return p_UI / p_UI.sum(1, keepdims=True)


def optimum(world: Synthetic, histories: Sequences, ks: Sequence[int]) -> dict[str, float]:
  """Returns the best expected metrics of any ranking of unseen items.

  Ranking by p(next | history) maximises every metric that rewards higher hits more (the probability ranking
  principle, Robertson, 1977), so the expectation is a sum over the sorted probabilities.

  Args:
    world: the sizes and the seed.
    histories: item indices up to, but without, the item to predict.
    ks: cut-offs of the metrics.

  Returns:
    `recall@k`, `ndcg@k` and `mrr@k` for every k: means over the histories.

  Raises:
    ValueError: a history is empty.
  """
  if not len(histories) or histories.lengths.min() < 1:
    raise ValueError('the optimum needs histories of at least one item; got an empty one')
  width = min(max(ks), world.synthetic_items)
  by_rank = np.zeros(width)  # the sum over users of the probability at each rank
  block = max(1, BLOCK_CELLS // world.synthetic_items)
  for start in range(0, len(histories), block):
    rows = histories.take(np.arange(start, min(start + block, len(histories))))
    p_UI = next_item_probabilities(world, rows)
    best = -np.partition(-p_UI, width - 1, axis=1)[:, :width]
    by_rank += -np.sort(-best, axis=1).sum(0)
  by_rank /= len(histories)
  ranks = np.arange(width)
  metrics = {}
  for k in ks:
    metrics[f'recall@{k}'] = float(by_rank[:k].sum())
    metrics[f'ndcg@{k}'] = float((by_rank / np.log2(ranks + 2.0))[:k].sum())
    metrics[f'mrr@{k}'] = float((by_rank / (ranks + 1.0))[:k].sum())
  return metrics
