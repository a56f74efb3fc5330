"""Writes encoders.npz: pooled states of texts, computed by `transformers` with the tiny checkpoints.

Run after make_t5 and make_decoders, with torch and transformers installed:
`python -m tests.goldens.make_encoders`. encoders.npz was made with torch 2.13.0 and transformers 5.23.0.
"""

import pathlib

import numpy as np

from tests.goldens import make_decoders, make_t5

GOLDENS = pathlib.Path(__file__).parent
FILE = GOLDENS / 'encoders.npz'
T5_KINDS, DECODER_KINDS = tuple(make_t5.KINDS), tuple(make_decoders.KINDS)
KINDS = (*T5_KINDS, *DECODER_KINDS)
LAST_KINDS = ('qwen3', 'qwen2')  # also with the last token's state
LENGTHS = (1, 3, 4, 9, 17, 30, 2)


def texts() -> list[list[int]]:
  """Returns the token ids of every text, without BOS and EOS, valid for all kinds."""
  rng = np.random.default_rng(0)
  highest = min(make_t5.TOKENIZER_SIZE, make_decoders.TOKENIZER_SIZE)
  return [rng.integers(3, highest, length).tolist() for length in LENGTHS]


def framed(kind: str, ids: list[int]) -> list[int]:
  """Returns the model's input: for T5 text and EOS, for Gemma and Llama BOS and text, for Qwen the text."""
  if kind in T5_KINDS:
    return [*ids, 1]
  return [2, *ids] if kind.startswith(('gemma', 'llama')) else ids


def last_vectors(folder: pathlib.Path) -> np.ndarray:
  """Returns float64 `[texts, D]`: the last state of each text between tokens 2 and 1, normalised to length one."""
  import torch
  import transformers

  model = transformers.AutoModel.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  ).eval()
  rows = []
  for ids in texts():
    with torch.no_grad():
      states = model(input_ids=torch.tensor([[2, *ids, 1]])).last_hidden_state[0]
    last = states[-1].double().numpy()
    rows.append(last / np.linalg.norm(last))
  return np.stack(rows)


def vectors(kind: str, folder: pathlib.Path) -> np.ndarray:
  """Returns float64 `[texts, D]`: the mean of the last states of each text, normalised to length one."""
  import torch
  import transformers

  auto = transformers.AutoModelForTextEncoding if kind in T5_KINDS else transformers.AutoModel
  model = auto.from_pretrained(folder, attn_implementation='eager', dtype=torch.float32).eval()
  rows = []
  for ids in texts():
    with torch.no_grad():
      states = model(input_ids=torch.tensor([framed(kind, ids)])).last_hidden_state[0]
    mean = states.double().mean(dim=0).numpy()
    rows.append(mean / np.linalg.norm(mean))
  return np.stack(rows)


def main():
  found = {kind: vectors(kind, GOLDENS / kind) for kind in KINDS}
  found |= {f'{kind}_last': last_vectors(GOLDENS / kind) for kind in LAST_KINDS}
  np.savez_compressed(FILE, **found)


if __name__ == '__main__':
  main()
