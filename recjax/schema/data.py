"""The config section of the data: where the log comes from, how it is cleaned and split."""

from collections.abc import Mapping
import dataclasses
import logging
import string
from typing import Any, ClassVar

from recjax.schema.checks import Section, check, check_choice, setting

log = logging.getLogger(__name__)


TEXT_FIELDS = ('title', 'brand', 'categories', 'description', 'price')


def placeholders(text_format: str) -> list[str]:
  """Returns the parts of a format in braces, such as title of '{title}'.

  Raises:
    ValueError: its braces do not match.
  """
  parts = [part for part in string.Formatter().parse(text_format) if part[1] is not None]
  return [
    name + (f'!{kind}' if kind else '') + (f':{spec}' if spec else '')
    for _, name, spec, kind in parts
  ]


def _check_text_format(text_format: str) -> None:
  try:
    names = placeholders(text_format)
  except ValueError as error:
    names, problem = [], f'; {error}'
  else:
    problem = ''
  check(
    bool(names) and {*names} <= {*TEXT_FIELDS},
    f'data.text_format must hold one or more of {", ".join(f"{{{name}}}" for name in TEXT_FIELDS)}{problem}',
    text_format,
    'data.text_format',
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Section):
  """The interaction log, its split, and the texts of its items."""

  prefix: ClassVar = 'data.'
  later: ClassVar = (
    'events',
    'context_events',
    'unknown_items',
    'text_format',
    'description_chars',
  )

  source: str = setting(meaning='Kind of raw files, a name of data_prep.sources.SOURCES.')
  name: str = setting(meaning='Name of the data set and of its folders.', filled=True)
  category: str = setting('', "Part of the source's file names that selects one of its data sets.")
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
    'Smallest number of interactions of a user or an item that is kept; 0: keep all.',
    at_least=0,
  )
  split: str = setting(
    'leave_one_out',
    "Held-out interactions: each user's last two, all after a moment in time, or the source's own.",
    one_of=('leave_one_out', 'global_time', 'source'),
  )
  split_shares: tuple[float, ...] = setting(
    (0.8, 0.1, 0.1),
    'With global_time: shares of the (history, target) pairs for training, validation and test; they sum to 1.',
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
  events: tuple[str, ...] = setting(
    (),
    "Kinds of interactions that may be targets, such as ('purchase',). (): all but context_events.",
  )
  context_events: tuple[str, ...] = setting(
    (),
    "Kinds of interactions that histories show and that are never targets, such as ('view',). With "
    'data.events, kinds that neither names are dropped.',
  )
  unknown_items: str = setting(
    'auto',
    'Interactions with items that the item table lacks: end with an error, drop and count them, or keep them '
    'without texts. auto: keep for Amazon, whose metadata are incomplete, else refuse.',
    one_of=('auto', 'refuse', 'drop', 'keep'),
  )
  item_text: str = setting(
    'original',
    'Origin of the item texts, as the report states it.',
    one_of=('original', 'generated', 'synthetic'),
  )
  text_format: str | None = setting(
    None,
    "Text of an item for the encoder, such as 'Title: {title} Description: {description}'. Fields: "
    f'{", ".join(TEXT_FIELDS)}. None: title, brand, and categories or else the description.',
  )
  description_chars: int = setting(
    2000, "Characters at which a description in the encoder's text is cut (IIRG: 200).", above=0
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
  engine: str = setting(
    'local',
    'What prepares the log: this process, or a pipeline of Apache Beam. Both write the same bytes.',
    one_of=('local', 'beam'),
  )
  beam_options: str = setting(
    '', "With engine='beam': flags of Beam, such as '--runner=DataflowRunner --region=us-east1'."
  )

  def __post_init__(self):
    super().__post_init__()
    check(
      self.max_history == 0 or self.split != 'leave_one_out' or bool(self.context_events),
      "data.max_history must be 0 for data.split='leave_one_out', whose histories are not cut",
      self.max_history,
      'data.max_history=0',
    )
    if self.text_format is not None:
      _check_text_format(self.text_format)
    both = sorted({*self.events} & {*self.context_events})
    check(
      not both,
      f'an event may be a target or context, not both; data.events also names {", ".join(map(repr, both))}',
      self.context_events,
      'data.context_events',
    )
    check(
      not self.beam_options or self.engine == 'beam',
      "data.beam_options must be '' for data.engine='local', which has no options",
      self.beam_options,
      "data.engine='beam'",
    )
    shares = self.split_shares
    check(
      len(shares) == 3 and abs(sum(shares) - 1) < 1e-6,
      'data.split_shares must be three positive shares of sum 1',
      shares,
      'data.split_shares',
    )

  def identifying(self) -> dict[str, Any]:
    # The engine does not identify prepared data: every engine writes the same bytes.
    found = super().identifying()
    return {name: found[name] for name in found if name not in ('engine', 'beam_options')}


# Source → its data section: `Data` with the source's options. `data_prep.sources` registers them.
SOURCES: dict[str, type[Data]] = {}


def data_section(fields: Mapping[str, Any]) -> tuple[type[Data], dict[str, Any]]:
  """Returns the class of the data section, and its fields without the options of other sources.

  In a process that has not imported `data_prep.sources`, only the common fields are kept: such a process reads no
  raw files.

  Raises:
    ValueError: the source is unknown.
  """
  if not SOURCES:
    known = {field.name for field in dataclasses.fields(Data)}
    return Data, {name: value for name, value in fields.items() if name in known}
  source = fields.get('source')
  check_choice(source, tuple(SOURCES), 'data.source')
  own = own_fields(fields)
  return SOURCES[source], own


def warn_of_ignored_options(fields: Mapping[str, Any]) -> None:
  """Logs options in a data section that only other sources have, unless they are at a default."""
  for name in sorted(fields.keys() - own_fields(fields).keys()):
    owners = {kind: options[name] for kind, options in _options().items() if name in options}
    if fields[name] not in owners.values():
      log.warning(
        'data.%s=%r is ignored: it is an option of source %s, and data.source is %r',
        *(name, fields[name], ', '.join(owners), fields['source']),
      )


def own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a data section without the options that only other sources have."""
  options = _options()
  own = options.get(fields.get('source'), {})
  foreign = set().union(*options.values()) - own.keys()
  return {name: value for name, value in fields.items() if name not in foreign}


def _options() -> dict[str, dict[str, Any]]:
  """The fields of every source's data section and their defaults, by source."""
  return {
    source: {field.name: field.default for field in dataclasses.fields(kind)}
    for source, kind in SOURCES.items()
  }
