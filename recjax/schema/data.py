"""The config section of the data: where the log comes from, how it is cleaned and split."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, check, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Section):
  """The interaction log, its split, and the texts of its items."""

  prefix: ClassVar = 'data.'

  source: str = setting(meaning='Kind of raw files, a name of data_prep.sources.SOURCES.')
  name: str = setting(meaning='Name of the data set and of its folders.', filled=True)
  category: str = setting('', "Part of the source's file names that tells its data sets apart.")
  raw_dir: str | None = setting(
    None, 'Folder of the raw files. None: $RECJAX_DATA/<name>, else data/raw/<name>.', path=True
  )
  prepared_dir: str | None = setting(
    None, 'Folder of the prepared data. None: data/<name>.', path=True
  )
  download: bool = setting(False, 'Download the official files if they are missing.')
  download_url: str | None = setting(
    None, "Address to download from. None: the source's official address."
  )
  k_core: int = setting(
    5,
    'Least number of interactions of every user and every item that is kept; 0: keep all.',
    at_least=0,
  )
  split: str = setting(
    'leave_one_out',
    "Held-out interactions: each user's last two, all after a moment in time, or the source's own.",
    one_of=('leave_one_out', 'global_time', 'source'),
  )
  split_shares: tuple[float, ...] = setting(
    (0.8, 0.1, 0.1),
    'global_time: shares of the interactions for training, validation and test; they sum to 1.',
    above=0,
  )
  max_history: int = setting(
    0,
    'Newest items kept in a held-out history; 0: all, as leave_one_out requires.',
    at_least=0,
  )
  catalogue: str = setting(
    'interacted',
    'Items of the catalogue: those with interactions, or all of the item table.',
    one_of=('interacted', 'all'),
  )
  duplicates: str = setting(
    'refuse',
    'Rows with equal user, item and time: end with an error, or keep one of them.',
    one_of=('refuse', 'drop'),
  )
  user_column: str = setting('user', 'table: column of the user id.')
  item_column: str = setting('item', 'table: column of the item id, in both files.')
  time_column: str = setting('time', 'table: column of the time.')
  rating_column: str = setting('rating', 'table: column of the rating, if there is one.')
  event_column: str = setting('event', 'table: column of the kind of interaction, if there is one.')
  item_text: str = setting(
    'original',
    'Origin of the item texts, as the report states it.',
    one_of=('original', 'generated', 'synthetic'),
  )
  prompt_format: str = setting(
    'auto',
    'Prompts of a pretrained model. auto: its chat template if it has one.',
    one_of=('auto', 'plain', 'chat'),
  )
  sentencepiece: str | None = setting(
    None, 'SentencePiece model file. None: train one on the item texts.', path=True
  )
  text_pieces: int = setting(
    4096, 'Vocabulary size of a SentencePiece model trained on the item texts.', above=0
  )
  max_text_tokens: int = setting(128, 'Tokens after which the text of an item is cut.', above=0)
  synthetic_users: int = setting(10_000, 'synthetic: users.', above=0)
  synthetic_items: int = setting(2_000, 'synthetic: items.', above=0)
  synthetic_seed: int = setting(0, 'synthetic: seed.')

  def __post_init__(self):
    super().__post_init__()
    check(
      self.max_history == 0 or self.split != 'leave_one_out',
      "data.max_history must be 0 for data.split='leave_one_out', whose histories are whole",
      self.max_history,
      'data.max_history=0',
    )
    shares = self.split_shares
    check(
      len(shares) == 3 and abs(sum(shares) - 1) < 1e-6,
      'data.split_shares must be three positive shares of sum 1',
      shares,
      'data.split_shares',
    )
