"""Suspicious facts about a log, as sentences: what was found, what it means, which setting changes it."""

from collections.abc import Iterator, Mapping
import datetime
import math
import re
from typing import Any

from recjax.config import Config
from recjax.data.dataset import SPLITS
from recjax.report.numbers import percent

_OLDEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
_VIEWS = re.compile(r'view|click|impression|visit|browse|pv|hover|seen|show', re.IGNORECASE)
_ORDERS = re.compile(
  r'buy|bought|purchas|order|cart|basket|transaction|checkout|sale|book|play|watch|listen|like|rent|download',
  re.IGNORECASE,
)
MANY = 0.5  # share of interactions, items or targets that is suspicious
LARGE = 0.3  # share of the log that one user or one item may have
FEW_ROWS = 500  # rows of a split; with fewer, differences of recall are often chance


def suspicions(facts: Mapping[str, Any], config: Config, now: float) -> list[str]:
  """Returns a sentence or two for every suspicious fact.

  Args:
    facts: the result of `recjax.report.data.facts.facts`.
    config: the config of the run.
    now: seconds since 1970; later dates are suspicious.
  """
  found = [*_dates(facts, config, now), *_concentration(facts), *_events(facts)]
  found += [*_ids(facts), *_ratings(facts), *_texts(facts, config)]
  return [*found, *_left_out(facts), *_splits(facts, config)]


def _dates(facts: Mapping[str, Any], config: Config, now: float) -> Iterator[str]:
  dates, gaps = facts['dates'], facts['gaps']
  if dates is None or config.data.item_text == 'synthetic':
    return
  first, last = dates['first_second'], dates['last_second']
  if first == last:
    yield (
      f'All interactions have the same time, {dates["first"]}: their order is that of the file, and a split by '
      'time is arbitrary. Set --config.data.time_column to a column of times.'
    )
  elif gaps and gaps['same_time_share'] > MANY:
    yield (
      f'{percent(gaps["same_time_share"], 0)} of the interactions have the same time as the one before of the same '
      'user: their order is that of the file.'
    )
  if first < _OLDEST:
    yield (
      f'The first interaction is dated {dates["first"]}, before 1990: the unit of the times is probably another '
      'one, or some times are placeholders. Times are seconds or milliseconds since 1970, or dates '
      '(--config.data.time_column).'
    )
  if last > now:
    yield (
      f'The last interaction is dated {dates["last"]}, in the future: the unit of the times is probably another '
      'one, or some times are wrong (--config.data.time_column).'
    )


def _concentration(facts: Mapping[str, Any]) -> Iterator[str]:
  popularity = facts['popularity']
  user, item = popularity['top_user'], popularity['top_item']
  if user['share'] >= LARGE and facts['log']['users'] > 3:
    yield (
      f'User {user["id"]!r} has {percent(user["share"], 0)} of all interactions: probably a robot, a test account or a '
      'placeholder for unknown users. Remove these rows.'
    )
  if item['share'] >= LARGE and facts['log']['items'] > 3:
    yield (
      f'Item {item["id"]!r} has {percent(item["share"], 0)} of all interactions: probably a placeholder, or an item '
      'that everybody gets. Remove these rows.'
    )


def _events(facts: Mapping[str, Any]) -> Iterator[str]:
  events = facts['events'] or {}
  views = {name: of for name, of in events.items() if _VIEWS.search(name) and of['is_target']}
  orders = [name for name in events if _ORDERS.search(name) and name not in views]
  share = sum(of['share'] for of in views.values())
  if share > MANY and orders:
    names = ', '.join(map(repr, views))
    others = tuple(name for name in events if name not in orders)
    yield (
      f'{percent(share, 0)} of the interactions are {names}, and all kinds of interactions are predicted alike. Set '
      f'--config.data.events="{tuple(orders)!r}" to predict only {" and ".join(orders)}, and '
      f'--config.data.context_events="{others!r}" to keep the others in the histories.'
    )


def _ids(facts: Mapping[str, Any]) -> Iterator[str]:
  for kind in ('users', 'items'):
    if found := facts['ids_alike'].get(kind):
      examples = ' and '.join(map(repr, found['example']))
      yield (
        f'{found["count"]:,} ids of {kind} differ from another one only by case or by white space at their ends, '
        f'such as {examples}: they count as different {kind}. Make them equal in the raw files.'
      )


def _ratings(facts: Mapping[str, Any]) -> Iterator[str]:
  if count := facts['unreadable_ratings']:
    yield (
      f'{count:,} ratings are no numbers, so the log is read without ratings. Write them as 4.5 in the raw files, or '
      'set --config.data.rating_column to another column.'
    )


def _texts(facts: Mapping[str, Any], config: Config) -> Iterator[str]:
  without, items = facts['items']['without_text'], facts['log']['items']
  uses_text = config.sids.needs_vectors and config.sids.source in ('text', 'both')
  if without > MANY * items and uses_text:
    yield (
      f'{without:,} of {items:,} items ({percent(without / items, 0)}) have no text, and the semantic IDs are made '
      'from texts: these items get IDs by chance. Set --config.data.title_column and the other columns of the item '
      'table, or --config.sids.source=cooccurrence.'
    )


def _left_out(facts: Mapping[str, Any]) -> Iterator[str]:
  kept = facts['log']['interactions']
  for part in facts['left_out']:
    count = part['interactions']
    if part['reason'] == 'k_core' and count > kept:
      yield (
        f'The k-core leaves out {count:,} of {count + kept:,} interactions ({percent(count / (count + kept), 0)}). Set '
        '--config.data.k_core to a smaller number to keep more users and items.'
      )


def _splits(facts: Mapping[str, Any], config: Config) -> Iterator[str]:
  splits = {name: facts['splits'][name] for name in SPLITS}
  repeated = {name: of['repeated_targets'] / of['rows'] for name, of in splits.items()}
  if config.eval.exclude_seen and any(repeated.values()):
    yield (
      f'{_each(splits, "repeated_targets", " targets")} are in their own history, and eval.exclude_seen removes '
      f'them: recall cannot exceed {" and ".join(f"{1 - share:.3f}" for share in repeated.values())}. Set '
      '--config.eval.exclude_seen=False to predict repeated interactions.'
    )
  cold = {name: of['cold_targets'] / of['rows'] for name, of in splits.items()}
  if max(cold.values()) > MANY:
    yield (
      f'{_each(splits, "cold_targets", " targets")} are items without a training interaction: counting cannot '
      'recommend them, and a model only by their texts.'
    )
  few = {name: of['rows'] for name, of in splits.items() if of['rows'] < FEW_ROWS}
  if few:
    name = min(few, key=few.get)
    error = math.sqrt(0.1 * 0.9 / few[name])
    yield (
      f'The {name} split has {few[name]:,} rows: a recall of 0.1 has a standard error of {error:.3f}, so '
      f'differences below {2 * error:.2f} may be chance.'
    )


def _each(splits: Mapping[str, Mapping[str, Any]], count: str, what: str) -> str:
  return ' and '.join(
    f'{of[count]:,} of {of["rows"]:,} {name}{what} ({percent(of[count] / of["rows"])})'
    for name, of in splits.items()
  )
