"""Sequences in one JSON file, as LC-Rec publishes them: C.inter.json and C.item.json; C is `data.category`.

Zheng et al., "Adapting large language models by integrating collaborative semantics for recommendation"
(ICDE 2024).

  C.inter.json   {"user": [item index, …], …}, oldest first; there are no times
  C.item.json    {"item index": {"title", "description", "brand", "categories"}, …}

C.item.json is the catalogue; `data.unknown_items` says what an interaction with an unlisted item means.
"""

import dataclasses

from etils import epath
import numpy as np

from data_prep.log import raw_log
from data_prep.sources import base, items_json, raw_files, records


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequencesJson(base.Source):
  """Sequences in one JSON file."""

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    category = raw_files.category(self, 'Scientific')
    return {name: raw_dir / name for name in (f'{category}.inter.json', f'{category}.item.json')}

  def fetch(self, raw_dir: epath.Path) -> None:
    raw_files.require(self.input_files(raw_dir), raw_dir, 'LC-Rec publishes such files.')

  def load(self, raw_dir: epath.Path) -> raw_log.RawLog:
    """Reads sequences and items. The time of an interaction is its position in the file."""
    self.fetch(raw_dir)
    log, table = self.input_files(raw_dir).values()
    item_records = items_json.item_records(table)
    users, items = [], []
    for user, sequence in items_json.read_object(log).items():
      try:
        records.identifier(user, "a user's id")
        if not isinstance(sequence, list):
          raise ValueError(f'a sequence must be a list of indices; got {records.short(sequence)}')
        items += map(items_json.index, sequence)
      except ValueError as error:
        raise ValueError(f'{log}: user {records.short(user)}: {error}') from None
      users += [user] * len(sequence)
    if not users:
      raise ValueError(f'{log} must hold interactions; it holds none')
    return raw_log.RawLog(
      np.array(users, str),
      np.array(items, str),
      np.arange(len(users)),
      item_records,
      ticks_per_second=0,
      place=lambda row: f'{log}: user {users[row]!r}, item {row - users.index(users[row]) + 1}',
      catalogue_file=table.name,
      is_catalogue_whole=True,
    )
