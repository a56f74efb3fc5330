"""The config sections of the data: the log, semantic IDs, relations between items, keywords."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from recjax.schema.checks import check, check_choice, check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Where the log comes from and how it is cut."""

  source: str  # a name of data_prep.sources.SOURCES
  name: str  # names the folders: data/<name>, data/raw/<name>
  category: str = ''  # the part of a source's file names that tells its data sets apart
  raw_dir: str | None = None  # None: $RECJAX_DATA/<name>, else data/raw/<name>
  prepared_dir: str | None = None  # None: data/<name>
  download: bool = False  # fetch the official files when they are absent
  download_url: str | None = None  # None: the source's official address
  k_core: int = 5  # every user and every item has at least this many interactions; 0: keep all
  split: str = 'leave_one_out'  # | global_time | source: the source's own held-out rows
  split_shares: tuple[float, ...] = (0.8, 0.1, 0.1)  # global_time: training, validation, test
  max_history: int = 0  # global_time, source: held-out histories keep so many items; 0: all
  catalogue: str = 'interacted'  # interacted | all: also items of the table that nobody chose
  duplicates: str = 'refuse'  # refuse | drop rows equal in user, item and time
  item_text: str = 'original'  # what the report says of the item texts: 'original' or 'generated'
  prompt_format: str = 'auto'  # chat where the checkpoint has a template | chat | plain
  sentencepiece: str | None = None  # a SentencePiece model; None: train one on the item texts
  text_pieces: int = 4096  # the size of a trained SentencePiece model
  max_text_tokens: int = 128  # an item's text is cut here

  def __post_init__(self):
    for name in ('k_core', 'max_history'):
      value = getattr(self, name)
      check(value >= 0, f'data.{name} must not be negative', value, f'data.{name}')
    check_choice(self.item_text, ('original', 'generated', 'synthetic'), 'data.item_text')
    check_choice(self.split, ('leave_one_out', 'global_time', 'source'), 'data.split')
    check_choice(self.catalogue, ('interacted', 'all'), 'data.catalogue')
    check_choice(self.prompt_format, ('auto', 'plain', 'chat'), 'data.prompt_format')
    check_choice(self.duplicates, ('refuse', 'drop'), 'data.duplicates')
    check(
      self.max_history == 0 or self.split != 'leave_one_out',
      "data.max_history must be 0 where data.split is 'leave_one_out', whose histories are whole",
      self.max_history,
      'data.max_history=0',
    )
    shares = self.split_shares
    check(
      len(shares) == 3 and all(share > 0 for share in shares) and abs(sum(shares) - 1) < 1e-6,
      'data.split_shares must be three positive shares of sum 1',
      shares,
      'data.split_shares',
    )
    check_positive(self, 'data.', 'text_pieces', 'max_text_tokens')


# Source → its data section: `Data` with the source's options. `data_prep.sources` registers them.
SOURCES: dict[str, type[Data]] = {}


def data_section(fields: Mapping[str, Any]) -> tuple[type[Data], dict[str, Any]]:
  """Returns the class of a data section and its fields, without the options of other sources.

  A config.json of an earlier version holds the options of all sources. A process that has not imported
  `data_prep.sources` reads no log: it drops every option.

  Raises:
    ValueError: the source is unknown.
  """
  if not SOURCES:
    known = {field.name for field in dataclasses.fields(Data)}
    return Data, {name: value for name, value in fields.items() if name in known}
  check_choice(fields.get('source'), tuple(SOURCES), 'data.source')
  kind = SOURCES[fields['source']]
  mine = {field.name for field in dataclasses.fields(kind)}
  options = {field.name for other in SOURCES.values() for field in dataclasses.fields(other)}
  return kind, {
    name: value for name, value in fields.items() if name in mine or name not in options
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rqvae:
  """How an RQ-VAE is trained (TIGER, section 3.1); epochs and rates are ours."""

  hidden: tuple[int, ...] = (512, 256, 128)  # widths of the encoder's layers; the decoder mirrors
  latent: int = 32
  commitment: float = 0.25  # β
  learning_rate: float = 1e-3
  weight_decay: float = 1e-4
  batch_size: int = 256
  autoencoder_epochs: int = 20  # without codebooks, before they start
  epochs: int = 200
  contrastive_weight: float = 0.0  # of IIRG's term on co-occurring pairs (0.1 there); 0: none
  contrastive_temperature: float = 0.5

  def __post_init__(self):
    positive = ('latent', 'commitment', 'learning_rate', 'batch_size', 'epochs')
    check_positive(self, 'sids.rqvae.', *positive, 'contrastive_temperature')
    for name in ('autoencoder_epochs', 'weight_decay', 'contrastive_weight'):
      value = getattr(self, name)
      check(value >= 0, f'sids.rqvae.{name} must not be negative', value, f'sids.rqvae.{name}')
    check(
      all(width > 0 for width in self.hidden),
      'sids.rqvae.hidden must be positive widths',
      self.hidden,
      'sids.rqvae.hidden',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sids:
  """What semantic IDs are made of."""

  source: str = 'both'  # text | cooccurrence | both
  encoder: str = 'minilm'  # or tfidf, a folder, a file, a package's model: see data_prep.encoders
  encoder_max_tokens: int = 0  # models cut a text here; 0: as the model's folder says, else at 256
  encoder_dtype: str = 'float32'  # float32 | bfloat16: what models compute in
  quantizer: str = 'residual_kmeans'  # residual_kmeans | rqvae | import
  codes: tuple[int, ...] = (256, 256, 256)  # codes of each quantizer level
  collisions: str = 'deduplicate'  # by a level more | sinkhorn | keep: several items a SID
  table: str | None = None  # import: a published table, JSON of item -> tokens
  extend: str | None = None  # a prepared folder whose items keep their SIDs; new items join them
  tfidf_width: int = 128  # width of the TF-IDF + SVD embedding
  cooccurrence_width: int = 64  # width of the co-occurrence vectors
  cooccurrence_window: int = 5
  seed: int = 0
  rqvae: Rqvae = dataclasses.field(default_factory=Rqvae)

  def __post_init__(self):
    check_choice(self.source, ('text', 'cooccurrence', 'both'), 'sids.source')
    check_choice(self.quantizer, ('residual_kmeans', 'rqvae', 'import'), 'sids.quantizer')
    check_choice(self.collisions, ('deduplicate', 'sinkhorn', 'keep'), 'sids.collisions')
    check_choice(self.encoder_dtype, ('float32', 'bfloat16'), 'sids.encoder_dtype')
    check(
      self.encoder_max_tokens >= 0,
      'sids.encoder_max_tokens must not be negative',
      self.encoder_max_tokens,
      'sids.encoder_max_tokens',
    )
    check_positive(self, 'sids.', 'tfidf_width', 'cooccurrence_width', 'cooccurrence_window')
    check(
      bool(self.codes) and all(codes > 0 for codes in self.codes),
      'sids.codes must be a positive number of codes for each level',
      self.codes,
      'sids.codes',
    )
    check(
      (self.quantizer == 'import') == (self.table is not None),
      "sids.table must be a file exactly where sids.quantizer is 'import'",
      self.table,
      'sids.table',
    )
    check(
      self.quantizer != 'import' or self.collisions != 'sinkhorn',
      "sids.collisions must be 'deduplicate' or 'keep' for an imported table, which has no codebooks",
      self.collisions,
      'sids.collisions',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relations:
  """Which items are neighbours of an item; prepared where a task or a quantizer asks for them."""

  window: int = 5  # collaborative: the largest distance in a sequence
  distance_weight: str = 'none'  # none: every pair counts 1; inverse: 1 / distance
  hops: int = 1  # 2: also what co-occurs with what co-occurs, and so on
  min_count: float = 1.0  # a pair below it is no relation
  top_k: int = 10
  backfill: bool = True  # fill short lists from the lists of semantic neighbours (IIRG)

  def __post_init__(self):
    check_choice(self.distance_weight, ('none', 'inverse'), 'relations.distance_weight')
    check_positive(self, 'relations.', 'window', 'hops', 'top_k')
    check(
      self.min_count >= 0,
      'relations.min_count must not be negative',
      self.min_count,
      'relations.min_count',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keywords:
  """Who says what the items of a SID token share; prepared where a task or `sa_init` asks for it."""

  teacher: str = 'ctfidf'  # ctfidf: class-based TF-IDF | http: a language model | import: a file
  keywords: int = 20  # a token
  items: int = 30  # http: items of a token that the teacher reads
  file: str | None = None  # import: JSON in the format of TS-Rec
  url: str = ''  # http: of an OpenAI-compatible endpoint, up to and without /chat/completions
  model: str = ''  # http: the name that the endpoint knows
  api_key_variable: str = 'OPENAI_API_KEY'  # http: the environment variable that holds the key
  requests_per_minute: float = 60.0
  max_retries: int = 5
  timeout: float = 60.0  # seconds a request
  price_input: float = 0.0  # per million tokens, for the estimate that is printed beforehand
  price_output: float = 0.0

  def __post_init__(self):
    check_choice(self.teacher, ('ctfidf', 'http', 'import'), 'keywords.teacher')
    check_positive(self, 'keywords.', 'keywords', 'items', 'requests_per_minute', 'timeout')
    check(
      self.max_retries >= 0,
      'keywords.max_retries must not be negative',
      self.max_retries,
      'keywords.max_retries',
    )
    check(
      self.teacher != 'http' or bool(self.url and self.model),
      "keywords.url and keywords.model must be set where keywords.teacher is 'http'",
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
      "keywords.file must be a file exactly where keywords.teacher is 'import'",
      self.file,
      'keywords.file',
    )
