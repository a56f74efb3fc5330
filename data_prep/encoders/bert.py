"""BERT sentence encoders in JAX, such as all-MiniLM-L6-v2, from folders in the sentence-transformers layout."""

import collections
from collections.abc import Sequence
import functools

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from data_prep.encoders import batching, layout
from recjax.data import text_tokenizer
from recjax.sharding import mesh as mesh_lib

REQUIRED_FILES = ('config.json', 'model.safetensors', 'tokenizer.json')

# Parameter → (tensor in the file, its shape as fields of config.json). Matrices are stored as [out, in] and
# used as [in, out].
_EMBEDDING_TENSORS = {
  'word': ('embeddings.word_embeddings.weight', ('vocab_size', 'hidden_size')),
  'position': (
    'embeddings.position_embeddings.weight',
    ('max_position_embeddings', 'hidden_size'),
  ),
  'type': ('embeddings.token_type_embeddings.weight', ('type_vocab_size', 'hidden_size')),
  'norm_scale': ('embeddings.LayerNorm.weight', ('hidden_size',)),
  'norm_bias': ('embeddings.LayerNorm.bias', ('hidden_size',)),
}
_LAYER_TENSORS = {
  'query': ('attention.self.query.weight', ('hidden_size', 'hidden_size')),
  'query_bias': ('attention.self.query.bias', ('hidden_size',)),
  'key': ('attention.self.key.weight', ('hidden_size', 'hidden_size')),
  'key_bias': ('attention.self.key.bias', ('hidden_size',)),
  'value': ('attention.self.value.weight', ('hidden_size', 'hidden_size')),
  'value_bias': ('attention.self.value.bias', ('hidden_size',)),
  'out': ('attention.output.dense.weight', ('hidden_size', 'hidden_size')),
  'out_bias': ('attention.output.dense.bias', ('hidden_size',)),
  'attention_norm_scale': ('attention.output.LayerNorm.weight', ('hidden_size',)),
  'attention_norm_bias': ('attention.output.LayerNorm.bias', ('hidden_size',)),
  'up': ('intermediate.dense.weight', ('intermediate_size', 'hidden_size')),
  'up_bias': ('intermediate.dense.bias', ('intermediate_size',)),
  'down': ('output.dense.weight', ('hidden_size', 'intermediate_size')),
  'down_bias': ('output.dense.bias', ('hidden_size',)),
  'ff_norm_scale': ('output.LayerNorm.weight', ('hidden_size',)),
  'ff_norm_bias': ('output.LayerNorm.bias', ('hidden_size',)),
}


def model_files(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns the files that determine the vectors, by their path in the folder.

  Raises:
    ValueError: a file is missing, or the folder holds another kind of model.
  """
  missing = [name for name in REQUIRED_FILES if not (folder / name).exists()]
  if missing:
    raise ValueError(f'{folder} lacks {", ".join(missing)}. Set --config.sids.encoder')
  _check_architecture(folder)
  layout.pooling(folder, ('mean',))
  optional = [name for name in layout.OPTIONAL_FILES if (folder / name).exists()]
  return {name: folder / name for name in (*REQUIRED_FILES, *optional)}


def encode(
  texts: Sequence[str],
  folder: epath.Path,
  max_tokens: int,
  dtype: str,
  mesh: jax.sharding.Mesh,
  parts: epath.Path | None,
) -> np.ndarray:
  """Encodes texts like sentence-transformers: the normalised mean of the last layer's states over all tokens.

  The model is from Devlin et al., "BERT" (NAACL 2019), the pooling from Reimers and Gurevych, "Sentence-BERT"
  (EMNLP 2019, section 3).

  Args:
    texts: one text per item; may be empty.
    folder: a folder that `model_files` accepts.
    max_tokens: maximum tokens of a text, including special tokens; longer texts are cut. 0: the folder's own
      setting, or 256.
    dtype: dtype of matrix products and activations; norms and the mean are float32.
    mesh: the rows of a batch are sharded over it; the weights are replicated.
    parts: see `batching.encode`.

  Returns:
    float32 `[I, D]`, unit rows.

  Raises:
    ValueError: a tensor is missing or has another shape.
  """
  bert = layout.read_json(folder / 'config.json')
  tokenizer = text_tokenizer.fast_tokenizer(folder / 'tokenizer.json')
  tokenizer.enable_truncation(
    layout.max_tokens(folder, max_tokens, bert['max_position_embeddings'])
  )
  is_lower_cased = layout.is_lower_cased(folder)

  def ids(chunk: list[str]) -> list[list[int]]:
    chunk = [text.lower() for text in chunk] if is_lower_cased else chunk
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(chunk)]

  parameters = _load_parameters(folder / 'model.safetensors', bert, dtype)
  parameters = jax.device_put(parameters, mesh_lib.replicated(mesh))
  heads, epsilon = bert['num_attention_heads'], bert.get('layer_norm_eps', 1e-12)
  forward = jax.jit(functools.partial(_forward, heads=heads, epsilon=epsilon))
  return batching.encode(
    batching.tokenized(texts, ids),
    functools.partial(forward, parameters),
    bert['hidden_size'],
    mesh,
    parts,
  )


def _check_architecture(folder: epath.Path) -> None:
  bert = layout.read_json(folder / 'config.json')
  required = {'model_type': 'bert', 'hidden_act': 'gelu', 'position_embedding_type': 'absolute'}
  for name, value in required.items():
    if bert.get(name, value) != value:
      raise ValueError(
        f'{folder / "config.json"}: {name} must be {value!r}; got {bert[name]!r}. '
        'Set --config.sids.encoder'
      )


def _load_parameters(path: epath.Path, bert: dict, dtype: str) -> dict[str, dict[str, np.ndarray]]:
  """Loads `embeddings`, and `layers` stacked along a first axis.

  Tables and matrices have `dtype`, other tensors float32. Query, key and value are concatenated.
  """
  tensors = safetensors.load(path.read_bytes())
  prefix = 'bert.' if 'bert.embeddings.word_embeddings.weight' in tensors else ''
  problems = []

  def take(name: str, fields: tuple[str, ...]) -> np.ndarray:
    shape = tuple(bert[field] for field in fields)
    tensor = tensors.get(prefix + name)
    if tensor is None or tensor.shape != shape:
      got = 'missing' if tensor is None else f'of shape {list(tensor.shape)}'
      problems.append(f'{prefix + name} must have shape {list(shape)} but is {got}')
      return np.zeros(shape, np.float32)
    tensor = tensor.astype(jnp.dtype(dtype) if len(shape) == 2 else np.float32)
    is_matrix = len(shape) == 2 and not name.startswith('embeddings')
    return tensor.T if is_matrix else tensor

  embeddings = {key: take(name, fields) for key, (name, fields) in _EMBEDDING_TENSORS.items()}
  layers = collections.defaultdict(list)
  for layer in range(bert['num_hidden_layers']):
    for key, (name, fields) in _LAYER_TENSORS.items():
      layers[key].append(take(f'encoder.layer.{layer}.{name}', fields))
  if problems:
    raise ValueError(f'{path} does not fit its config.json: ' + '; '.join(problems))
  stacked = {key: np.stack(values) for key, values in layers.items()}
  for end in ('', '_bias'):
    parts = [stacked.pop(name + end) for name in ('query', 'key', 'value')]
    stacked['qkv' + end] = np.concatenate(parts, axis=-1)
  return {'embeddings': embeddings, 'layers': stacked}


def _forward(
  parameters: dict, tokens_BT: jax.Array, lengths_B: jax.Array, *, heads: int, epsilon: float
) -> jax.Array:
  """Returns unit vectors `[B, D]` of the first `lengths_B` tokens of every row."""
  embeddings = parameters['embeddings']
  B, T = tokens_BT.shape
  dtype = embeddings['word'].dtype
  # Accelerators compute float32 products in bfloat16 or TF32 by default.
  precision = 'highest' if dtype == jnp.float32 else 'default'
  is_token_BT = jnp.arange(T)[None, :] < lengths_B[:, None]
  bias_BNTS = jnp.where(is_token_BT, 0.0, -1e30)[:, None, None, :]
  x_BTD = embeddings['word'][tokens_BT].astype(jnp.float32)
  x_BTD += (embeddings['position'][None, :T] + embeddings['type'][:1, None]).astype(jnp.float32)
  # Batch and time are merged into one axis R, because XLA:CPU is fastest for plain matrix products.
  x_RD = x_BTD.reshape(B * T, -1)
  x_RD = _layer_norm(x_RD, embeddings['norm_scale'], embeddings['norm_bias'], epsilon)

  def layer(x_RD: jax.Array, p: dict) -> tuple[jax.Array, None]:
    qkv_RE = _dense(x_RD.astype(dtype), p['qkv'], p['qkv_bias'])
    q, k, v = (
      x.reshape(B, T, heads, -1).transpose(0, 2, 1, 3) for x in jnp.split(qkv_RE, 3, axis=-1)
    )
    mixed_BNTH = _attention(q, k, v, bias_BNTS)
    mixed_RD = mixed_BNTH.transpose(0, 2, 1, 3).reshape(B * T, -1)
    x_RD += _dense(mixed_RD, p['out'], p['out_bias'])
    x_RD = _layer_norm(x_RD, p['attention_norm_scale'], p['attention_norm_bias'], epsilon)
    h_RF = _dense(x_RD.astype(dtype), p['up'], p['up_bias'])
    h_RF = jax.nn.gelu(h_RF, approximate=False)
    x_RD += _dense(h_RF, p['down'], p['down_bias'])
    return _layer_norm(x_RD, p['ff_norm_scale'], p['ff_norm_bias'], epsilon), None

  with jax.default_matmul_precision(precision):
    x_RD, _ = jax.lax.scan(layer, x_RD, parameters['layers'])
  mean_BD = jnp.where(is_token_BT[..., None], x_RD.reshape(B, T, -1), 0).sum(1)
  mean_BD /= lengths_B[:, None]
  return mean_BD / jnp.linalg.norm(mean_BD, axis=1, keepdims=True)


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, bias_BNTS: jax.Array) -> jax.Array:
  """Returns attention `[B, N, T, H]` of queries, keys and values of that shape."""
  scores_BNTS = jnp.einsum('BNTH,BNSH->BNTS', q, k, preferred_element_type=jnp.float32)
  scores_BNTS = scores_BNTS * q.shape[-1] ** -0.5 + bias_BNTS
  weights_BNTS = jnp.exp(scores_BNTS - scores_BNTS.max(axis=-1, keepdims=True))
  mixed_BNTH = jnp.einsum('BNTS,BNSH->BNTH', weights_BNTS.astype(v.dtype), v)
  # The output is normalised, not the weights: H divisions per query instead of T.
  return (mixed_BNTH / weights_BNTS.sum(-1, keepdims=True)).astype(v.dtype)


def _dense(x_RD: jax.Array, weight_DF: jax.Array, bias_F: jax.Array) -> jax.Array:
  return x_RD @ weight_DF + bias_F[None].astype(x_RD.dtype)


def _layer_norm(
  x_RD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float
) -> jax.Array:
  centred = x_RD - x_RD.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  return centred * jax.lax.rsqrt(variance + epsilon) * scale_D[None] + bias_D[None]
