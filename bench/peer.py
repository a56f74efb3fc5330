"""The peer of `bench.train_step`: the `transformers` model of the same shape, trained with PyTorch."""

import gc

from recjax.models.decoder import DecoderConfig
from recjax.models.t5 import T5Config


def t5(config: T5Config, vocab: int):
  """Returns the `transformers` model of a T5's shape."""
  import transformers

  return transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=vocab,
      d_model=config.width,
      d_kv=config.head_width,
      d_ff=config.ff_width,
      num_layers=config.depth,
      num_decoder_layers=config.decoder_depth,
      num_heads=config.heads,
      feed_forward_proj='gated-gelu' if config.gated else config.activation,
      tie_word_embeddings=config.tied,
      decoder_start_token_id=config.start_id,
      dropout_rate=0.0,
      use_cache=False,
    )
  )


def decoder(config: DecoderConfig, vocab: int):
  """Returns the `transformers` model of a decoder's shape."""
  import transformers

  shape = {
    'vocab_size': vocab,
    'hidden_size': config.width,
    'intermediate_size': config.ff_width,
    'num_hidden_layers': config.depth,
    'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_width,
    'attention_dropout': 0.0,
    'use_cache': False,
  }
  if not config.post_norms:
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(**shape))
  shape |= {
    'query_pre_attn_scalar': round((config.query_scale or config.head_width**-0.5) ** -2),
    'sliding_window': max(config.windows),
    'layer_types': [
      'sliding_attention' if window else 'full_attention' for window in config.windows
    ],
  }
  if config.qk_norm:
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**shape))
  caps = {
    'attn_logit_softcapping': config.attention_softcap,
    'final_logit_softcapping': config.logit_softcap,
  }
  return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**shape, **caps))


class Peer:
  """Our training step in PyTorch. A call runs one step and waits for it.

  Cross-entropy at every position of full rows, gradients clipped at norm 1, AdamW; float32 parameters, computed
  in `dtype` (autocast).

  Args:
    config: shape of the model.
    vocab: number of token ids.
    rows: rows of a batch.
    lengths: (T,) of a decoder; (S, T) of an encoder-decoder.
    dtype: 'float32' or 'bfloat16'.
    compiled: whether to use `torch.compile`.
  """

  def __init__(
    self,
    config: DecoderConfig | T5Config,
    vocab: int,
    rows: int,
    lengths: tuple[int, ...],
    dtype: str,
    compiled: bool,
  ):
    import torch

    self._torch = torch
    self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high')  # TF32, like JAX's float32 products on such a GPU
    make = t5 if isinstance(config, T5Config) else decoder
    self._model = make(config, vocab).to(self._device).train()
    self._run = torch.compile(self._model) if compiled else self._model
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.1, fused=True
    )
    self._half = dtype == 'bfloat16'

    def ids(length):
      return torch.randint(1, vocab, (rows, length), device=self._device)

    self._inputs = {'input_ids': ids(lengths[0]), 'labels': ids(lengths[-1])}

  @property
  def attention(self) -> str:
    """Name of the attention implementation in `transformers`."""
    return self._model.config._attn_implementation

  def __call__(self) -> float:
    """Runs one step; returns the loss."""
    with self._torch.autocast(self._device, self._torch.bfloat16, enabled=self._half):
      loss = self._run(**self._inputs).loss
    loss.backward()
    self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.item()


def release() -> None:
  """Frees the device memory of deleted peers."""
  import torch

  gc.collect()
  if torch.cuda.is_available():
    torch.cuda.empty_cache()
