"""Writes tiny random Gemma, Llama and Qwen checkpoints, and their logits computed by `transformers`.

With torch and transformers installed, run `python -m tests.goldens.make_decoders [KIND …]`. The files beside
this script were made with torch 2.13.0 and transformers 5.23.0, those of llama3 and qwen3_5 with 5.24.0.
"""

import pathlib
import sys

import numpy as np

GOLDENS = pathlib.Path(__file__).parent
TOKENIZER_SIZE = 53  # rows of the table beyond it belong to no token
SHAPE = {
  'vocab_size': 64,
  'hidden_size': 24,
  'intermediate_size': 40,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'pad_token_id': 0,
  'bos_token_id': 2,
  'eos_token_id': 1,
}
# Of the head's four wavelengths (6.3, 16.7, 44 and 118 positions) the first is kept, the second lies between the
# limits, and the others are stretched.
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 50.0,
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 40,
}
# kind: class of `transformers`, changes to SHAPE
KINDS = {
  'gemma1': ('Gemma', {'num_key_value_heads': 1, 'hidden_act': 'gelu'}),
  'gemma2': (
    'Gemma2',
    {
      'sliding_window': 5,
      'query_pre_attn_scalar': 20,
      'attn_logit_softcapping': 3.0,
      'final_logit_softcapping': 4.0,
    },
  ),
  'gemma3': (
    'Gemma3Text',
    {
      'num_hidden_layers': 8,
      'sliding_window': 6,
      'query_pre_attn_scalar': 12,
      'rope_parameters': {
        'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 5_000.0},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0},
      },
    },
  ),
  'qwen2': ('Qwen2', {'tie_word_embeddings': True, 'head_dim': 6}),
  'qwen3': ('Qwen3', {'tie_word_embeddings': False}),
  'llama3': (
    'Llama',
    {'tie_word_embeddings': False, 'rms_norm_eps': 1e-5, 'rope_parameters': LLAMA3},
  ),
  'qwen3_5': (
    'Qwen3_5Text',
    {
      'tie_word_embeddings': False,
      'num_hidden_layers': 6,
      'layer_types': ['linear_attention', 'linear_attention', 'full_attention'] * 2,
      'linear_num_key_heads': 2,
      'linear_num_value_heads': 4,
      'linear_key_head_dim': 6,
      'linear_value_head_dim': 4,
      'linear_conv_kernel_dim': 4,
      'rope_parameters': {
        'rope_type': 'default',
        'rope_theta': 50.0,
        'partial_rotary_factor': 0.5,
        'mrope_section': [1, 1, 0],
      },
    },
  ),
}


def make_checkpoint(kind: str, folder: pathlib.Path, seed: int, **fields) -> None:
  """Writes a checkpoint of random weights in the layout of the hub: config.json and model.safetensors."""
  import torch
  import transformers

  name, own = KINDS[kind]
  config = getattr(transformers, f'{name}Config')(**(SHAPE | own | fields))
  model = transformers.AutoModelForCausalLM.from_config(config)
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, weight in model.named_parameters():
      weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
      # Gemma and Qwen 3.5 store scale − 1, except for the norm inside linear attention.
      if 'norm' in name and ('linear_attn' in name or kind in ('qwen2', 'qwen3', 'llama3')):
        weight += 1.0
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink(missing_ok=True)


def make_example(folder: pathlib.Path, seed: int) -> dict[str, np.ndarray]:
  """Returns random inputs, padded on either side, and their float32 logits `[B, T, rows]`."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  ).eval()
  rng = np.random.default_rng(seed)
  T = 26
  spans = ((0, 26), (0, 15), (9, 26), (0, 1))
  mask = np.array([[start <= t < stop for t in range(T)] for start, stop in spans])
  tokens = rng.integers(1, TOKENIZER_SIZE, mask.shape) * mask
  with torch.no_grad():
    logits = model(
      input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask.astype(np.int64))
    ).logits
  return {
    'input_ids': tokens.astype(np.int32),
    'attention_mask': mask.astype(np.int32),
    'logits': logits.numpy(),
  }


def rounding_error(folder: pathlib.Path, example: dict[str, np.ndarray]) -> float:
  """Returns the largest difference of the logits to those in float64, relative to the largest logit.

  In float64 every sequence is run alone and without padding.
  """
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float64
  ).eval()
  errors, largest = [], []
  masks = example['attention_mask'] > 0
  for tokens, logits, mask in zip(example['input_ids'], example['logits'], masks, strict=True):
    with torch.no_grad():
      exact = model(input_ids=torch.from_numpy(tokens[None, mask]).long()).logits[0].numpy()
    errors.append(np.abs(logits[mask] - exact).max())
    largest.append(np.abs(exact).max())
  return max(errors) / max(largest)


def main():
  for seed, kind in enumerate(KINDS):
    if sys.argv[1:] and kind not in sys.argv[1:]:
      continue
    folder = GOLDENS / kind
    # A norm over few random values can amplify rounding, and then the logits depend on the machine.
    while True:
      make_checkpoint(kind, folder, seed)
      example = make_example(folder, seed)
      if rounding_error(folder, example) < 1e-5:
        break
      seed += 1
    np.savez_compressed(folder / 'example.npz', **example)


if __name__ == '__main__':
  main()
