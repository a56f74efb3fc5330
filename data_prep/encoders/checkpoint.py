"""The encoder of a T5 checkpoint, or a decoder's hidden states, as a text encoder: our own backbones."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools

from etils import epath
from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from data_prep.encoders import batching, layout
from recjax.data.text_tokenizer import TextTokenizer
from recjax.models import attention, families, pretrained
from recjax.models.pretrained import special_ids
from recjax.models.pretrained.tensors import Tensors
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace

MODEL_TYPES = tuple(families.model_types())
_TOKENIZERS = ('tokenizer.json', 'spiece.model', 'tokenizer.model')  # the first that is there
_INDEX = 'model.safetensors.index.json'


def model_files(folder: epath.Path) -> dict[str, epath.Path]:
  """The files that decide what `encode` returns, by their place in the folder.

  Raises:
    ValueError: one is missing; the folder holds what we do not compute.
  """
  layout.check_mean_pooling(folder)
  with _as_encoder(folder):
    pretrained.read_config(folder)
    tensors = sorted({info.file.name for info in Tensors(folder).infos.values()})
  optional = [name for name in (_INDEX, *layout.OPTIONAL_FILES) if (folder / name).exists()]
  names = ('config.json', _tokenizer_file(folder), *tensors, *optional)
  return {name: folder / name for name in names}


@contextlib.contextmanager
def _as_encoder(folder: epath.Path) -> Iterator[None]:
  """Names the field that the folder comes from; the messages inside know it as another one."""
  try:
    yield
  except (ValueError, FileNotFoundError) as error:
    raise ValueError(
      f'{folder} cannot be the encoder: {error}. Set --config.sids.encoder'
    ) from error


def _tokenizer_file(folder: epath.Path) -> str:
  name = next((name for name in _TOKENIZERS if (folder / name).exists()), None)
  if name is None:
    raise ValueError(f'{folder} lacks {", ".join(_TOKENIZERS)}. Set --config.sids.encoder')
  return name


def encode(
  texts: Sequence[str],
  folder: epath.Path,
  max_tokens: int,
  dtype: str,
  mesh: jax.sharding.Mesh,
  parts: epath.Path | None,
) -> np.ndarray:
  """The mean of the last normed states over a text's tokens, length one.

  Of a T5 the encoder's states, over the text and EOS (as Sentence-T5, arXiv 2108.08877, section 3, takes
  the mean); of a decoder the states before the output table, for Gemma over BOS and the text.

  Args:
    texts: one text an item; empty ones are allowed.
    folder: a checkpoint of `transformers` that `model_files` accepts.
    max_tokens: where texts are cut, BOS or EOS included; 0: as the folder says, else 256.
    dtype: of the weights' matrices and of activations.
    mesh: the weights lie in its shards, rows of a batch are spread over its batch axes.
    parts: see `batching.encode`.

  Returns:
    float32 `[I, D]`, rows of length one; a zero row only for an empty text without BOS or EOS.

  Raises:
    ValueError: tensors are missing or misshaped.
  """
  found = pretrained.read_config(folder)
  ids = _encoder_of_ids(folder, found, layout.max_tokens(folder, max_tokens))
  forward = _forward(folder, found, dtype, mesh)
  return batching.encode(batching.tokenized(texts, ids), forward, found.config.width, mesh, parts)


def _encoder_of_ids(
  folder: epath.Path, found: pretrained.Pretrained, max_tokens: int
) -> Callable[[list[str]], list[list[int]]]:
  """Texts → ids: what the family was trained to read, cut at `max_tokens`."""
  path = folder / _tokenizer_file(folder)
  pieces = TextTokenizer(path).encode_batch
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
  folder: epath.Path, found: pretrained.Pretrained, dtype: str, mesh: jax.sharding.Mesh
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Loads the weights; tokens `[B, T]` and lengths `[B]` → unit vectors `[B, D]`."""
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
    loaded = pretrained.load(folder, nested, space, tokenizer_size=found.vocab_rows)
  params = {
    path: x
    for path, x in traverse_util.flatten_dict(loaded, sep='/').items()
    if not path.startswith('decoder/') and not path.endswith('_out')  # no states come from these
  }
  del loaded
  states = _encoder_states if found.family.is_encoder_decoder else _decoder_states

  @jax.jit
  def forward(params: dict[str, jax.Array], tokens_BT: jax.Array, lengths_B: jax.Array):
    # Shapes stand in for what was dropped: nothing reads it.
    model = nnx.merge(graph, traverse_util.unflatten_dict(flat_shapes | params, sep='/'))
    real_BT = jnp.arange(tokens_BT.shape[1])[None] < lengths_B[:, None]
    # On accelerators a float32 product is one of bfloat16 or TF32 unless it is asked for.
    with jax.default_matmul_precision('highest' if dtype == 'float32' else 'default'):
      x_BTD = states(model, tokens_BT, real_BT).astype(jnp.float32)
    mean_BD = jnp.where(real_BT[..., None], x_BTD, 0).sum(1) / lengths_B[:, None]
    return mean_BD / jnp.linalg.norm(mean_BD, axis=1, keepdims=True)

  return functools.partial(forward, params)


def _stored_dtype(path: str, dtype: str) -> jnp.dtype:
  """Matrices are kept in what they are computed in; norms and biases stay float32."""
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
