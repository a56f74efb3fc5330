"""The config sections of relations between items and of keywords of SID tokens."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, check, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relations(Section):
  """Neighbours of every item; prepared if a task or a quantizer uses them."""

  prefix: ClassVar = 'relations.'
  later: ClassVar = ('backfill_depth',)

  window: int = setting(
    5, 'Largest distance of two co-occurring items in a history, in items.', above=0
  )
  distance_weight: str = setting(
    'none',
    'Weight of one co-occurrence. none: 1. inverse: 1 / distance.',
    one_of=('none', 'inverse'),
  )
  hops: int = setting(
    1, 'Steps in the co-occurrence graph; 2: also the neighbours of neighbours.', above=0
  )
  min_count: float = setting(
    1.0, 'Smallest weight of a pair of neighbours, summed over all histories.', at_least=0
  )
  top_k: int = setting(10, 'Neighbours kept for an item.', above=0)
  backfill: bool = setting(
    True, 'Fill short lists of collaborative neighbours with semantic neighbours (IIRG).'
  )
  backfill_depth: int | None = setting(
    None,
    "Semantic neighbours of an item whose collaborative neighbours fill its list, at most all other items (IIRG's code: "
    '500). None: top_k.',
    above=0,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keywords(Section):
  """Keywords of every SID token; prepared if a task or `model.sid_rows=sa_init` uses them."""

  prefix: ClassVar = 'keywords.'

  teacher: str = setting(
    'ctfidf',
    'Origin of the keywords: class-based TF-IDF, a language model over HTTP, or keywords.file.',
    one_of=('ctfidf', 'http', 'import'),
  )
  keywords: int = setting(20, 'Keywords of a token.', above=0)
  items: int = setting(30, 'With http: items of a token that the language model reads.', above=0)
  file: str | None = setting(
    None,
    'With import: JSON file in the format of TS-Rec, also looked for in data.raw_dir.',
    path=True,
  )
  url: str = setting(
    '', 'With http: address of an OpenAI-compatible endpoint, without /chat/completions.'
  )
  model: str = setting('', 'With http: name of the model at the endpoint.')
  api_key_variable: str = setting(
    'OPENAI_API_KEY', 'With http: environment variable that holds the API key.'
  )
  requests_per_minute: float = setting(60.0, 'With http: limit on requests per minute.', above=0)
  max_retries: int = setting(5, 'With http: retries of a failed request.', at_least=0)
  timeout: float = setting(60.0, 'With http: seconds until a request fails.', above=0)
  price_input: float = setting(
    0.0, 'With http: price of a million input tokens, for the estimate printed beforehand.'
  )
  price_output: float = setting(0.0, 'With http: price of a million output tokens.')

  def __post_init__(self):
    super().__post_init__()
    check(
      self.teacher != 'http' or bool(self.url and self.model),
      "keywords.url and keywords.model must be set for keywords.teacher='http'",
      (self.url, self.model),
      'keywords.url',
    )
    check(
      not self.url or self.url.startswith(('http://', 'https://')),
      'keywords.url must begin with http:// or https://',
      self.url,
      'keywords.url',
    )
    check(
      (self.teacher == 'import') == (self.file is not None),
      "keywords.file must be a file exactly if keywords.teacher is 'import'",
      self.file,
      'keywords.file',
    )
