"""The config section of the backbone."""

import dataclasses

from recjax.schema.checks import check, check_choice, check_pattern, check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The backbone: a family, a size, and how it computes."""

  family: str = 'gemma'  # a name of recjax.models.FAMILIES: gemma, qwen or t5
  size: str = ''  # a published one, such as gemma3_270m or flan_t5_base; empty: the fields below
  pretrained: str | None = None  # a checkpoint's folder, which gives the size too
  sid_rows: str = 'mean'  # mean | random | sa_init: how SID rows begin in a pretrained table
  sid_keywords: str | None = (
    None  # sa_init: JSON of keywords a SID token; None: those of the preparation
  )
  depth: int = 4
  width: int = 128  # D
  ff_width: int = 512  # F
  heads: int = 4  # N
  kv_heads: int = 4  # K
  head_width: int = 32  # H
  dropout: float = 0.0  # on the residual branches and the embedding
  lora_rank: int = 0  # of adapters (LoRA), trained instead of all that no group names; 0: none
  lora_alpha: float = 16.0  # adapters count alpha / rank times
  lora_targets: str = 'attention|ff'  # a regular expression: the kernels that get an adapter
  sid_softmax: str = 'level'  # level | full: what the scores at a SID position are normalised over
  compute_dtype: str = 'float32'  # float32 | bfloat16: of products, those of gradients too
  remat: str = 'none'  # none | full: recompute each layer in the backward pass
  scan_unroll: int = 1  # layers per step of the scan over layers
  attention: str = 'auto'  # auto | plain | xla | cudnn | splash: what computes it, where it applies

  def __post_init__(self):
    check_positive(
      self, 'model.', 'depth', 'width', 'ff_width', 'heads', 'kv_heads', 'head_width', 'scan_unroll'
    )
    check(0 <= self.dropout < 1, 'model.dropout must be in [0, 1)', self.dropout, 'model.dropout')
    check(
      self.lora_rank >= 0, 'model.lora_rank must not be negative', self.lora_rank, 'model.lora_rank'
    )
    check_positive(self, 'model.', 'lora_alpha')
    check_pattern(self.lora_targets, 'model.lora_targets')
    check(
      self.heads % self.kv_heads == 0,
      f'model.heads ({self.heads}) must be a multiple of model.kv_heads',
      self.kv_heads,
      'model.kv_heads',
    )
    check_choice(self.sid_softmax, ('level', 'full'), 'model.sid_softmax')
    check_choice(self.compute_dtype, ('float32', 'bfloat16'), 'model.compute_dtype')
    check_choice(self.remat, ('none', 'full'), 'model.remat')
    attentions = ('auto', 'plain', 'xla', 'cudnn', 'splash')
    check_choice(self.attention, attentions, 'model.attention')
    check_choice(self.sid_rows, ('mean', 'random', 'sa_init'), 'model.sid_rows')
