"""Compares our logits for a checkpoint folder with those of `transformers`, if that is installed.

python -m recjax.models.pretrained.check FOLDER --tokens=tokens.npy --out=logits.npy [--pad_id=0]
    [--decoder_tokens=dec.npy]
"""

import importlib.util
import sys

from absl import app, flags
from etils import epath
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from recjax.models import pretrained
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace


def _read_tokens(file: str, flag: str, rows: int, lowest: int) -> np.ndarray:
  tokens = np.load(file)
  if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or not tokens.size:
    raise ValueError(
      f'--{flag} must be integers [B, T]; {file} holds {tokens.dtype} {list(tokens.shape)}'
    )
  if tokens.min() < lowest or tokens.max() >= rows:
    raise ValueError(
      f'--{flag} must be ids in [0, {rows}), the rows of the table; {file} has {tokens.min()} to '
      f'{tokens.max()}'
    )
  return tokens.astype(np.int32)


def _batch(tokens_BT, pad_id, decoder_tokens):
  """Returns the batch for the backbone; rows may be padded on either side."""
  real = tokens_BT != pad_id
  tokens, segments = np.where(real, tokens_BT, 0), real.astype(np.int32)
  if decoder_tokens is not None:
    decoder = {'tokens': decoder_tokens, 'segments': np.ones_like(decoder_tokens)}
    return {'encoder_tokens': tokens, 'encoder_segments': segments} | decoder
  positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
  return {'tokens': tokens, 'segments': segments, 'positions': positions}


def our_logits(
  folder: epath.PathLike,
  tokens_BT: np.ndarray,
  pad_id: int = 0,
  decoder_tokens: np.ndarray | None = None,
) -> np.ndarray:
  """Computes float32 logits `[B, T, vocab_size]` over the folder's own vocabulary.

  The model is sharded over all devices; rows are computed one by one.

  Args:
    folder: a checkpoint of `transformers`.
    tokens_BT: int32 ids; for a T5 the encoder's input.
    pad_id: padding id. No position attends to padding; a decoder's logits at padding are 0.
    decoder_tokens: int32 `[B, T]`, the decoder's input of a T5, read without a padding mask.

  Raises:
    FileNotFoundError, ValueError: see `pretrained.load`; `decoder_tokens` is set for a decoder or None for a T5.
  """
  found = pretrained.read_config(folder)
  if found.family.is_encoder_decoder != (decoder_tokens is not None):
    raise ValueError(
      '--decoder_tokens must be given for an encoder–decoder and for no other model; '
      f'{folder} holds a {found.family.name}'
    )
  space = TokenSpace(found.vocab_rows, ())
  graph, shapes = pretrained.abstract(found, space)
  mesh = mesh_lib.make_mesh(Mesh(data=1, fsdp=-1, tensor=1))
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    mesh_lib.tree_shardings(shapes, mesh, rules=found.family.parameter_rules),
  )
  params = pretrained.load(folder, shapes, space, tokenizer_size=found.vocab_rows)

  @jax.jit
  def logits(params, batch):
    model = nnx.merge(graph, params)
    # By default accelerators compute float32 products in bfloat16 or TF32.
    with jax.default_matmul_precision('highest'):
      return model.tables.text_logits(model.hidden(batch).astype(jnp.float32))

  batch = _batch(tokens_BT, pad_id, decoder_tokens)
  rows = [
    np.asarray(logits(params, {name: x[b : b + 1] for name, x in batch.items()}))
    for b in range(len(tokens_BT))
  ]
  result = np.concatenate(rows)
  if decoder_tokens is None:
    result[tokens_BT == pad_id] = 0.0
  return result


def their_logits(
  folder: epath.PathLike,
  tokens_BT: np.ndarray,
  pad_id: int = 0,
  decoder_tokens: np.ndarray | None = None,
) -> np.ndarray:
  """Computes the logits of `our_logits` with `transformers`, on the CPU with eager attention."""
  import torch
  import transformers

  kind = 'AutoModelForCausalLM' if decoder_tokens is None else 'AutoModelForSeq2SeqLM'
  model = getattr(transformers, kind).from_pretrained(
    str(folder), attn_implementation='eager', dtype=torch.float32
  )
  real = tokens_BT != pad_id
  inputs = {'input_ids': np.where(real, tokens_BT, 0), 'attention_mask': real}
  if decoder_tokens is not None:
    inputs['decoder_input_ids'] = decoder_tokens
  with torch.no_grad():
    inputs = {name: torch.from_numpy(x.astype(np.int64)) for name, x in inputs.items()}
    return model.eval()(**inputs).logits.numpy()


def comparison(ours: np.ndarray, theirs: np.ndarray, real_BT: np.ndarray) -> str:
  """Returns text: the largest difference, and KL(theirs ‖ ours) in nats by position, averaged over the rows.

  Args:
    ours: float32 logits `[B, T, V]`.
    theirs: as `ours`.
    real_BT: bool; other positions are ignored.
  """
  difference = np.abs(ours - theirs)[real_BT].max()
  largest = np.abs(theirs[real_BT]).max()
  log_p, log_q = (scipy.special.log_softmax(x.astype(np.float64), axis=-1) for x in (theirs, ours))
  kl_BT = np.where(real_BT, np.sum(np.exp(log_p) * (log_p - log_q), axis=-1), 0.0)
  counts_T = real_BT.sum(axis=0)
  lines = [
    f'largest difference: {difference:.3g} ({difference / largest:.3g} of the largest logit)',
    f'largest KL divergence: {kl_BT.max():.3g} nats',
    'KL divergence by position:',
  ]
  lines += [
    f'  {t:>5} {kl_BT[:, t].sum() / counts_T[t]:.3g}' for t in range(len(counts_T)) if counts_T[t]
  ]
  return '\n'.join(lines)


def _define_flags() -> None:
  """Defines the flags only in the command: other programs have a flag --out too."""
  flags.DEFINE_string(
    'tokens', None, 'int32 [B, T] .npy: input of the model, for a T5 of the encoder.', required=True
  )
  flags.DEFINE_string(
    'out', None, 'File for the float32 logits [B, T, vocab_size], .npy.', required=True
  )
  flags.DEFINE_integer('pad_id', 0, 'Padding id in --tokens; -1: none.')
  flags.DEFINE_string(
    'decoder_tokens', None, 'int32 [B, T] .npy: input of a T5 decoder, its start token first.'
  )


def main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError('name one checkpoint folder')
  given = flags.FLAGS
  folder, pad_id, decoder_tokens = argv[1], given.pad_id, None
  try:
    rows = pretrained.read_config(folder).vocab_rows
    tokens = _read_tokens(given.tokens, 'tokens', rows, min(pad_id, 0))
    if given.decoder_tokens:
      decoder_tokens = _read_tokens(given.decoder_tokens, 'decoder_tokens', rows, 0)
    ours = our_logits(folder, tokens, pad_id, decoder_tokens)
  except (ValueError, OSError) as error:  # a message to the user, without a traceback
    sys.exit(f'{type(error).__name__}: {error}')
  with epath.Path(given.out).open('wb') as f:
    np.save(f, ours)
  print(f'{given.out}: float32 logits {list(ours.shape)}')
  if any(importlib.util.find_spec(name) is None for name in ('transformers', 'torch')):
    print('transformers and torch are not installed: nothing to compare with')
    return
  theirs = their_logits(folder, tokens, pad_id, decoder_tokens)
  real = tokens != pad_id if decoder_tokens is None else np.ones(ours.shape[:2], bool)
  print(comparison(ours, theirs, real))


if __name__ == '__main__':
  _define_flags()
  app.run(main)
