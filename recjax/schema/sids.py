"""The config section of semantic IDs."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, check, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rqvae(Section):
  """Training of an RQ-VAE (TIGER, section 3.1); epochs and learning rate are ours."""

  prefix: ClassVar = 'sids.rqvae.'
  later: ClassVar = ('sinkhorn',)

  hidden: tuple[int, ...] = setting(
    (512, 256, 128),
    'Widths of the hidden layers of the encoder; the decoder mirrors them.',
    above=0,
  )
  latent: int = setting(32, 'Width of the latent vector.', above=0)
  commitment: float = setting(0.25, 'Weight of the commitment loss (β).', above=0)
  learning_rate: float = setting(1e-3, 'Learning rate.', above=0)
  weight_decay: float = setting(1e-4, 'Weight decay.', at_least=0)
  batch_size: int = setting(256, 'Items per step.', above=0)
  autoencoder_epochs: int = setting(
    20, 'Epochs without codebooks, before these are initialized.', at_least=0
  )
  epochs: int = setting(200, 'Epochs with codebooks.', above=0)
  contrastive_weight: float = setting(
    0.0,
    'Weight of the contrastive loss on co-occurring items (IIRG: 0.1); 0: none.',
    at_least=0,
  )
  contrastive_temperature: float = setting(0.5, 'Temperature of the contrastive loss.', above=0)
  sinkhorn: float = setting(
    0.0,
    'With above 0: in training, items of a batch get codes of the last level evenly, by Sinkhorn with this entropy weight, '
    'from 1e-6 (LC-Rec: 0.003). 0: the nearest code.',
    at_least=0,
    at_most=1,
  )

  def __post_init__(self):
    super().__post_init__()
    check(
      self.sinkhorn == 0 or self.sinkhorn >= 1e-6,  # float32 has no room for less
      'sids.rqvae.sinkhorn must be 0 or at least 1e-6',
      self.sinkhorn,
      'sids.rqvae.sinkhorn',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sids(Section):
  """Semantic IDs: the item vectors, and how they are quantized."""

  prefix: ClassVar = 'sids.'
  later: ClassVar = ('item_vectors',)

  source: str = setting(
    'both', 'Item vectors that are quantized.', one_of=('text', 'cooccurrence', 'both')
  )
  encoder: str = setting(
    'auto',
    'Text encoder: tfidf, minilm, a model folder, a .npy or .npz file of vectors, or '
    'sentence_transformers:NAME. auto: that of the prepared folder, else minilm if its package is '
    'installed, else tfidf.',
    filled=True,
    path=True,
  )
  encoder_max_tokens: int = setting(
    0,
    "Tokens after which the encoder cuts a text; 0: the limit in the model's folder, else 256.",
    at_least=0,
  )
  encoder_dtype: str = setting(
    'float32', 'Data type of the encoder.', one_of=('float32', 'bfloat16')
  )
  quantizer: str = setting(
    'residual_kmeans',
    'Quantizer of the item vectors; import: SIDs from sids.table; item: one level with a code for every item, without '
    'vectors.',
    one_of=('residual_kmeans', 'rqvae', 'import', 'item'),
  )
  codes: tuple[int, ...] = setting(
    (256, 256, 256),
    'Number of codes of each quantized level. (): from the size of the catalogue (with item: that size); with '
    'sids.extend those of the earlier folder.',
    above=0,
  )
  collisions: str = setting(
    'deduplicate',
    'Items with equal codes: add a level, move items by Sinkhorn, or let them share a SID. No effect with item.',
    one_of=('deduplicate', 'sinkhorn', 'keep'),
  )
  table: str | None = setting(
    None,
    'With import: JSON file of item id -> SID tokens, also looked for in data.raw_dir.',
    path=True,
  )
  extend: str | None = setting(
    None,
    'Earlier prepared folder whose items keep their SIDs; new items are added to them.',
    path=True,
  )
  tfidf_width: int = setting(128, 'With tfidf: width of the vectors (TF-IDF, then SVD).', above=0)
  cooccurrence_width: int = setting(64, 'Width of the co-occurrence vectors.', above=0)
  item_vectors: str | None = setting(
    None,
    'With both or cooccurrence: file .npz of the item vectors of a model that was trained on this log, in place of the '
    'co-occurrence vectors; --mode=export --format=vectors writes it.',
    path=True,
  )
  cooccurrence_window: int = setting(
    5, 'Largest distance of two co-occurring items in a history, in items.', above=0
  )
  seed: int = setting(0, 'Seed of vectors and quantizer.', at_least=0)
  rqvae: Rqvae = dataclasses.field(default_factory=Rqvae)

  @property
  def needs_vectors(self) -> bool:
    """Whether the SIDs are made from item vectors."""
    return self.quantizer not in ('import', 'item')

  def __post_init__(self):
    super().__post_init__()
    check(
      self.quantizer != 'item' or len(self.codes) <= 1,
      "sids.codes must be () or one number of at least the items for sids.quantizer='item', which has one level",
      self.codes,
      'sids.codes="()"',
    )
    check(
      self.item_vectors is None or (self.needs_vectors and self.source != 'text'),
      "sids.item_vectors has an effect only with sids.source='both' or 'cooccurrence', and quantized vectors",
      f'{self.source} and {self.quantizer}',
      'sids.item_vectors=None',
    )
    check(
      (self.quantizer == 'import') == (self.table is not None),
      "sids.table must be a file exactly if sids.quantizer is 'import'",
      self.table,
      'sids.table',
    )
    check(
      self.quantizer != 'import' or bool(self.codes) or self.extend is not None,
      "sids.codes must not be empty for sids.quantizer='import'",
      self.codes,
      'sids.codes to the number of codes of each level of the table',
    )
    check(
      self.quantizer != 'import' or self.collisions != 'sinkhorn',
      "sids.collisions must be 'deduplicate' or 'keep' for an imported table, which has no codebooks",
      self.collisions,
      'sids.collisions',
    )
