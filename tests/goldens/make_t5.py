"""Writes tiny random T5 checkpoints, and their logits computed by `transformers`.

With torch and transformers installed, run `python -m tests.goldens.make_t5`. The files beside this
script were made with torch 2.13.0 and transformers 5.23.0.
"""

import pathlib

import numpy as np

GOLDENS = pathlib.Path(__file__).parent
TOKENIZER_SIZE = 83  # rows of the table beyond it belong to no token
ROWS = 96
SHAPE = {
  'vocab_size': ROWS,
  'd_model': 16,
  'd_kv': 6,
  'd_ff': 24,
  'num_layers': 2,
  'num_decoder_layers': 3,
  'num_heads': 3,
}
# In `transformers`, `tie_word_embeddings` of a T5 only says whether logits are scaled (v1.0).
KINDS = {
  't5_v1_0': {'feed_forward_proj': 'relu', 'tie_word_embeddings': True},
  't5_v1_1_tied': {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
  't5_v1_1': {
    'feed_forward_proj': 'gated-gelu',
    'tie_word_embeddings': False,
    'relative_attention_num_buckets': 12,
    'relative_attention_max_distance': 25,
  },
  'mt5': {'feed_forward_proj': 'gated-gelu'},
}
OWN_OUTPUT = ('t5_v1_1', 'mt5')


def make_checkpoint(kind: str, folder: pathlib.Path, seed: int, **shape) -> None:
  """Writes a checkpoint of random weights in the layout of the hub: config.json and model.safetensors."""
  import torch
  import transformers

  family = 'MT5' if kind == 'mt5' else 'T5'
  config = getattr(transformers, f'{family}Config')(**(SHAPE | KINDS[kind] | shape))
  model = getattr(transformers, f'{family}ForConditionalGeneration')(config)
  generator = torch.Generator().manual_seed(seed)
  if kind in OWN_OUTPUT:
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
  with torch.no_grad():
    for name, weight in model.named_parameters():
      wide = 'shared' in name or 'relative_attention_bias' in name
      weight.copy_(torch.randn(weight.shape, generator=generator) * (1.0 if wide else 0.25))
      if 'layer_norm' in name:
        weight += 1.0
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink()


def make_example(folder: pathlib.Path, seed: int, lengths=(40, 29, 1), decoder_lengths=(9, 30, 4)):
  """Returns random inputs, padded on the right, and their float32 logits `[B, T, rows]`."""
  import torch
  import transformers

  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  ).eval()
  rng = np.random.default_rng(seed)

  def padded(lengths):
    mask = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    return rng.integers(1, TOKENIZER_SIZE, mask.shape) * mask, mask.astype(np.int64)

  input_ids, attention_mask = padded(lengths)
  decoder_input_ids, decoder_attention_mask = padded(decoder_lengths)
  decoder_input_ids[:, 0] = 0  # the start token
  inputs = {
    'input_ids': input_ids,
    'attention_mask': attention_mask,
    'decoder_input_ids': decoder_input_ids,
    'decoder_attention_mask': decoder_attention_mask,
  }
  with torch.no_grad():
    logits = model(**{name: torch.from_numpy(x) for name, x in inputs.items()}).logits
  return {name: x.astype(np.int32) for name, x in inputs.items()} | {'logits': logits.numpy()}


def main():
  for seed, kind in enumerate(KINDS):
    folder = GOLDENS / kind
    make_checkpoint(kind, folder, seed)
    np.savez_compressed(folder / 'example.npz', **make_example(folder, seed))


if __name__ == '__main__':
  main()
