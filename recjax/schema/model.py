"""The config section of the backbone."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, check, setting

SID_ROWS = ('mean', 'random', 'sa_init')  # initial embedding rows of SID tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Section):
  """The backbone: its family, its size, and how it computes."""

  prefix: ClassVar = 'model.'

  family: str = setting('gemma', 'Model family, a name of recjax.models.FAMILIES.')
  size: str = setting('', 'Published size, such as gemma3_270m; empty: the size fields below.')
  pretrained: str | None = setting(
    None,
    'Folder of a transformers checkpoint to start from, or hf:organisation/name[@revision] of the hub; it '
    'also sets the size. None: random weights.',
    path=True,
  )
  sid_rows: str = setting(
    'mean',
    'Initial embedding rows of SID tokens in a pretrained model; with sa_init from the keywords of each '
    'token.',
    one_of=SID_ROWS,
  )
  sid_keywords: str | None = setting(
    None,
    'With sa_init: JSON file with the keywords of each SID token. None: those of the preparation.',
    path=True,
  )
  depth: int = setting(4, 'Layers; an encoder–decoder has as many in each stack.', above=0)
  width: int = setting(128, 'Width of the residual stream (D).', above=0)
  ff_width: int = setting(512, 'Hidden width of the feed-forward layer (F).', above=0)
  heads: int = setting(4, 'Query heads (N).', above=0)
  kv_heads: int = setting(4, 'Key and value heads (K); must divide model.heads.', above=0)
  head_width: int = setting(32, 'Width of one head (H).', above=0)
  max_positions: int = setting(
    512, 'With sasrec: learned positions, which bound the tokens of a row and of a prompt.', above=0
  )
  dropout: float = setting(
    0.0, 'Dropout rate on residual branches and on the embedding.', at_least=0, below=1
  )
  lora_rank: int = setting(
    0,
    'Rank of LoRA adapters. With adapters, the SID rows are trained too; other parameters only if a '
    'parameter group names them. 0: no adapters.',
    at_least=0,
  )
  lora_alpha: float = setting(16.0, 'Adapters are scaled by lora_alpha / lora_rank.', above=0)
  lora_targets: str = setting(
    'attention|ff', 'Kernels that get an adapter, searched in parameter paths.', pattern=True
  )
  sid_softmax: str = setting(
    'level',
    'Normalisation of scores at a SID position: over the codes of its level, or over the full '
    'vocabulary.',
    one_of=('level', 'full'),
  )
  item_rows: bool = setting(
    False,
    'With item_decoder: the input of an item is the sum of its code rows and of a row of its own.',
  )
  item_head: bool = setting(
    False,
    'A softmax over the catalogue beside the codes: the state that ends an item times the vector of each item, which is '
    'the sum of its code rows and a row of its own. The search then ranks by both.',
  )
  compute_dtype: str = setting(
    'float32', 'Data type of matrix products, also in gradients.', one_of=('float32', 'bfloat16')
  )
  remat: str = setting(
    'none', 'Recomputation of each layer in the backward pass.', one_of=('none', 'full')
  )
  scan_unroll: int = setting(1, 'Layers per step of the scan over layers.', above=0)
  attention: str = setting(
    'auto',
    'Attention implementation, if the backbone has a choice.',
    one_of=('auto', 'plain', 'xla', 'cudnn', 'splash'),
  )

  def __post_init__(self):
    super().__post_init__()
    check(
      self.heads % self.kv_heads == 0,
      f'model.heads ({self.heads}) must be a multiple of model.kv_heads',
      self.kv_heads,
      'model.kv_heads',
    )
    check(
      not self.item_rows or self.family == 'item_decoder',
      'model.item_rows needs model.family=item_decoder; other families have rows of items with model.item_head alone',
      self.family,
      'model.item_rows=False',
    )
