"""A prepared data set whose vocabulary is the catalogue: one token an item, and no text."""

import dataclasses
import functools
import json
from typing import Any, ClassVar

from recjax.data.dataset import Dataset, Log
from recjax.data.prepared import Prepared
from recjax.data.vocabulary import Vocabulary
from recjax.sids.table import SidTable

_OWN = ('sids', 'tokenizer', 'texts')  # stages whose files this data set does not read


@dataclasses.dataclass(frozen=True)
class ItemDataset(Dataset):
  """The interactions and the catalogue of a prepared folder; item i has code i of the only level.

  A model of it depends on the interactions and the ids of items alone, not on the folder's semantic IDs and texts.
  """

  _READ_AT_LOAD: ClassVar = Log._READ_AT_LOAD
  sid_description: ClassVar = None
  sid_quality: ClassVar = None
  keywords: ClassVar = None
  optimum: ClassVar = None

  @classmethod
  def _mapped(cls, folder: Prepared) -> dict[str, Any]:
    lines = (folder / 'interactions' / 'items.jsonl').read_text().splitlines()
    ids = [json.loads(line)['id'] for line in lines]
    return super(Dataset, cls)._mapped(folder) | {'sids': SidTable.of_items(ids, len(ids))}

  def files_digest(self, stage: str, *names: str) -> str:
    """Returns a hash of a stage's files; of the codes of the items for the stages that are not read."""
    return self.sids.code_space_hash if stage in _OWN else super().files_digest(stage, *names)

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    return Vocabulary(None, self.sids.codes_per_level, self.sids.catalogue)
