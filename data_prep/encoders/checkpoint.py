"""Text encoders from pretrained backbones: the encoder of a T5 checkpoint, or the hidden states of a decoder."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools

from etils import epath
from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from data_prep.encoders import batching, layout
from recjax.data import text_tokenizer
from recjax.data.text_tokenizer import TextTokenizer
from recjax.models import attention, families, pretrained
from recjax.models.pretrained import special_ids, tokenizer_files
from recjax.models.pretrained.tensors import Tensors
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace

MODEL_TYPES = tuple(families.model_types())
POOLINGS = ('mean', 'lasttoken')
_INDEX = 'model.safetensors.index.json'


def model_files(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns the files that determine the vectors, by their path in the folder.

  Raises:
    ValueError: a file is missing, or the model is not supported.
  """
  if layout.pooling(folder, POOLINGS) == 'lasttoken':
    _own_tokenizer(folder)
  with _as_encoder(folder):
    pretrained.read_config(folder)
    tensors = sorted({info.file.name for info in Tensors(folder).infos.values()})
  optional = [name for name in (_INDEX, *layout.OPTIONAL_FILES) if (folder / name).exists()]
  names = ('config.json', _tokenizer_file(folder).name, *tensors, *optional)
  return {name: folder / name for name in names}


@contextlib.contextmanager
def _as_encoder(folder: epath.Path) -> Iterator[None]:
  """Adds the field `sids.encoder` to the errors of functions that know the folder by another field."""
  try:
    yield
  except (ValueError, FileNotFoundError) as error:
    raise ValueError(
      f'{folder} cannot be the encoder: {error}. Set --config.sids.encoder'
    ) from error


def _tokenizer_file(folder: epath.Path) -> epath.Path:
  file = tokenizer_files.find(folder)
  if file is None:
    raise ValueError(
      f'{folder} must hold one of {", ".join(tokenizer_files.FILES)}; it has none. Set --config.sids.encoder'
    )
  return file


def encode(
  texts: Sequence[str],
  folder: epath.Path,
  max_tokens: int,
  dtype: str,
  mesh: jax.sharding.Mesh,
  parts: epath.Path | None,
) -> np.ndarray:
  """Returns the normalised mean of the last hidden states over a text's tokens, or the last token's state.

  The folder's settings name the pooling; see `layout.pooling`. For T5 the states are the encoder's of the text and EOS, as
  in Sentence-T5 (arXiv 2108.08877, section 3). For a decoder these are the states before the output table. With the mean
  they include BOS for Gemma. With the last token, as in Qwen3-Embedding (arXiv 2506.05176, section 2), the special tokens
  are those that tokenizer.json adds, such as a closing <|endoftext|>. Rows are padded at the end, which gives the states
  of a padding at the start: a decoder reads no later token, and its rotary positions are relative.

  Args:
    texts: one text per item; may be empty.
    folder: a checkpoint of `transformers` that `model_files` accepts.
    max_tokens: maximum tokens of a text, including BOS or EOS; longer texts are cut. 0: the folder's own setting,
      or 256.
    dtype: dtype of weight matrices and activations.
    mesh: the weights and the rows of a batch are sharded over it.
    parts: see `batching.encode`.

  Returns:
    float32 `[I, D]`, unit rows; a zero row for an empty text without BOS or EOS.

  Raises:
    ValueError: a tensor is missing or has another shape.
  """
  found, pooling = _without_head(pretrained.read_config(folder)), layout.pooling(folder, POOLINGS)
  longest = layout.max_tokens(folder, max_tokens)
  if pooling == 'lasttoken':
    ids = _own_tokenize_fn(folder, longest)
  else:
    ids = _tokenize_fn(folder, found, longest)
  forward = _forward(folder, found, dtype, mesh, pooling)
  return batching.encode(batching.tokenized(texts, ids), forward, found.config.width, mesh, parts)


def _without_head(found: pretrained.Pretrained) -> pretrained.Pretrained:
  """Returns a checkpoint without the output table of a decoder: encoders do not read it, and some folders lack it."""
  if found.family.is_encoder_decoder:
    return found
  return found._replace(config=dataclasses.replace(found.config, tied=True))


def _own_tokenizer(folder: epath.Path) -> tokenizers.Tokenizer:
  """Opens the tokenizer.json of a folder, which adds special tokens by its own rule.

  Raises:
    ValueError: there is none.
  """
  file = folder / 'tokenizer.json'
  if not file.exists():
    raise ValueError(
      f'{folder} must hold tokenizer.json, whose rule adds the last token; it has none. Set --config.sids.encoder'
    )
  return text_tokenizer.fast_tokenizer(file)


def _own_tokenize_fn(folder: epath.Path, max_tokens: int) -> Callable[[list[str]], list[list[int]]]:
  """A function from texts to ids, at most `max_tokens` per text, with the special tokens of tokenizer.json."""
  tokenizer = _own_tokenizer(folder)
  tokenizer.enable_truncation(max_tokens)
  return lambda chunk: [encoding.ids for encoding in tokenizer.encode_batch_fast(chunk)]


def _tokenize_fn(
  folder: epath.Path, found: pretrained.Pretrained, max_tokens: int
) -> Callable[[list[str]], list[list[int]]]:
  """A function from texts to ids, at most `max_tokens` per text, with the special tokens of the family."""
  pieces = TextTokenizer(_tokenizer_file(folder)).encode_batch
  with _as_encoder(folder):
    special = special_ids.read(folder, found.family, found.vocab_rows)
  before, after = [], []
  if found.family.is_encoder_decoder:
    after = [special.eos]
  elif found.family.bos is not None:
    before = [special.bos]
  room = max(max_tokens - len(before) - len(after), 0)
  return lambda chunk: [[*before, *row[:room], *after] for row in pieces(chunk)]


def _forward(
  folder: epath.Path,
  found: pretrained.Pretrained,
  dtype: str,
  mesh: jax.sharding.Mesh,
  pooling: str,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Loads the weights; returns a function from tokens `[B, T]` and lengths `[B]` to unit vectors `[B, D]`."""
  found = found._replace(config=dataclasses.replace(found.config, compute_dtype=dtype))
  space = TokenSpace(found.vocab_rows, ())
  graph, shapes = pretrained.abstract(found, space)
  shardings = traverse_util.flatten_dict(
    mesh_lib.tree_shardings(shapes, mesh, rules=found.family.parameter_rules), sep='/'
  )
  flat_shapes = {
    path: jax.ShapeDtypeStruct(x.shape, _stored_dtype(path, dtype), sharding=shardings[path])
    for path, x in traverse_util.flatten_dict(shapes, sep='/').items()
  }
  nested = traverse_util.unflatten_dict(flat_shapes, sep='/')
  with _as_encoder(folder):
    loaded = pretrained.load(folder, nested, space, found.vocab_rows, found)
  params = {
    path: x
    for path, x in traverse_util.flatten_dict(loaded, sep='/').items()
    if not path.startswith('decoder/') and not path.endswith('_out')  # not needed for the states
  }
  del loaded
  states = _encoder_states if found.family.is_encoder_decoder else _decoder_states

  @jax.jit
  def forward(params: dict[str, jax.Array], tokens_BT: jax.Array, lengths_B: jax.Array):
    # The dropped parameters are never read, so their shapes stand in for them.
    model = nnx.merge(graph, traverse_util.unflatten_dict(flat_shapes | params, sep='/'))
    real_BT = jnp.arange(tokens_BT.shape[1])[None] < lengths_B[:, None]
    # Accelerators compute float32 products in bfloat16 or TF32 by default.
    with jax.default_matmul_precision('highest' if dtype == 'float32' else 'default'):
      x_BTD = states(model, tokens_BT, real_BT).astype(jnp.float32)
    if pooling == 'mean':
      pooled_BD = jnp.where(real_BT[..., None], x_BTD, 0).sum(1) / lengths_B[:, None]
    else:
      last_B11 = lengths_B[:, None, None] - 1
      pooled_BD = jnp.take_along_axis(x_BTD, last_B11, axis=1)[:, 0]
    return pooled_BD / jnp.linalg.norm(pooled_BD, axis=1, keepdims=True)

  return functools.partial(forward, params)


def _stored_dtype(path: str, dtype: str) -> jnp.dtype:
  """The dtype of a parameter: the compute dtype for matrices, float32 for norms and biases."""
  is_matrix = path.endswith('/kernel') or path.startswith('tables/')
  return jnp.dtype(dtype if is_matrix else 'float32')


def _encoder_states(model: nnx.Module, tokens_BT: jax.Array, real_BT: jax.Array) -> jax.Array:
  x_BTD = model.tables.lookup(tokens_BT, jnp.dtype(model.config.compute_dtype))
  segments_BT = real_BT.astype(jnp.int32)
  mask_BTT = attention.segment_mask(segments_BT, segments_BT)
  return model.encoder(mesh_lib.constrain(x_BTD, 'residual'), mask_BTT, None)[0]


def _decoder_states(model: nnx.Module, tokens_BT: jax.Array, real_BT: jax.Array) -> jax.Array:
  positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
  segments_BT = real_BT.astype(jnp.int32)
  return model.hidden({'tokens': tokens_BT, 'segments': segments_BT, 'positions': positions_BT})
