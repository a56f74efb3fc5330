"""The `transformers` model of one of our shapes, and its training step in PyTorch."""

import time

from recjax.models.gemma import DecoderConfig
from recjax.models.t5 import T5Config


def _t5(config: T5Config, vocab: int):
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


def _decoder(config: DecoderConfig, vocab: int):
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


def seconds_a_step(
  config: DecoderConfig | T5Config,
  vocab: int,
  rows: int,
  lengths: tuple[int, ...],
  dtype: str,
  steps: int,
  compiled: bool,
) -> tuple[list[float], str]:
  """Seconds of each of `steps` training steps after two that warm up, and the attention's name.

  The step is ours in PyTorch's words: cross-entropy at every position, gradients clipped at norm 1,
  AdamW; parameters float32, computed in `dtype` (autocast).
  """
  import torch

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.manual_seed(0)
  torch.set_float32_matmul_precision('high')  # TF32, as JAX computes float32 products on such a GPU
  model = (_t5 if isinstance(config, T5Config) else _decoder)(config, vocab).to(device).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.1, fused=True
  )
  run = torch.compile(model) if compiled else model

  def ids(length):
    return torch.randint(1, vocab, (rows, length), device=device)

  inputs = {'input_ids': ids(lengths[0]), 'labels': ids(lengths[-1])}
  half = dtype == 'bfloat16'

  def step():
    with torch.autocast(device, torch.bfloat16, enabled=half):
      loss = run(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()  # waits for the device

  seconds = []
  for _ in range(2 + steps):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
  return seconds[2:], model.config._attn_implementation
