"""all-MiniLM-L6-v2, or another BERT sentence encoder in its folder layout, in JAX."""

import collections
from collections.abc import Iterator, Sequence
import functools
import json

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors
import tokenizers
import tqdm

REQUIRED_FILES = ('config.json', 'model.safetensors', 'tokenizer.json')
_OPTIONAL_FILES = ('modules.json', '1_Pooling/config.json', 'sentence_bert_config.json')

# Parameter → (tensor in the file, its shape there in fields of config.json). Matrices are stored as
# [out, in] and used as [in, out].
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
_TOKENS_PER_BATCH = 4096  # rows × padded length; on 2 cores larger batches are no faster


def model_files(folder: epath.PathLike) -> tuple[epath.Path, ...]:
  """The files of the folder that decide what `encode` returns."""
  folder = epath.Path(folder)
  optional = [folder / name for name in _OPTIONAL_FILES]
  return (
    *(folder / name for name in REQUIRED_FILES),
    *(path for path in optional if path.exists()),
  )


def encode(texts: Sequence[str], folder: epath.PathLike) -> np.ndarray:
  """Encodes texts as sentence-transformers does: mean of the last layer over the tokens, length one.

  Texts are cut at the folder's max_seq_length, sorted by length and run in batches of near lengths.
  The model is that of Devlin et al., "BERT" (NAACL 2019), the pooling that of Reimers and Gurevych,
  "Sentence-BERT" (EMNLP 2019, section 3).

  Args:
    texts: one text an item; empty ones are allowed.
    folder: holds REQUIRED_FILES and may hold modules.json, 1_Pooling/config.json and
      sentence_bert_config.json.

  Returns:
    float32 `[I, D]`, rows of length one.

  Raises:
    FileNotFoundError: a required file is missing.
    ValueError: the folder holds another kind of model, or tensors are missing or misshaped.
  """
  folder = epath.Path(folder)
  bert = _read_json(folder / 'config.json')
  sentence = _read_json(folder / 'sentence_bert_config.json', optional=True)
  _check_architecture(folder, bert)
  parameters = _load_parameters(folder / 'model.safetensors', bert)
  max_length = min(sentence.get('max_seq_length') or 256, bert['max_position_embeddings'])
  tokenizer = tokenizers.Tokenizer.from_str((folder / 'tokenizer.json').read_text())
  tokenizer.no_padding()
  tokenizer.enable_truncation(max_length)
  if sentence.get('do_lower_case'):
    texts = [text.lower() for text in texts]
  ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
  forward = jax.jit(
    functools.partial(
      _forward, heads=bert['num_attention_heads'], epsilon=bert.get('layer_norm_eps', 1e-12)
    )
  )
  vectors_ID = np.empty((len(ids), bert['hidden_size']), np.float32)
  with tqdm.tqdm(total=len(ids), desc='encoding texts', unit='text') as progress:
    for rows, tokens_BT, lengths_B in _batches(ids, max_length):
      vectors_ID[rows] = np.asarray(forward(parameters, tokens_BT, lengths_B))[: len(rows)]
      progress.update(len(rows))
  return vectors_ID


def _read_json(path: epath.Path, *, optional: bool = False) -> dict | list:
  if optional and not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} must hold JSON: {error}') from error


def _check_architecture(folder: epath.Path, bert: dict) -> None:
  required = {'model_type': 'bert', 'hidden_act': 'gelu', 'position_embedding_type': 'absolute'}
  for name, must in required.items():
    if bert.get(name, must) != must:
      raise ValueError(
        f'{folder / "config.json"}: {name} must be {must!r}; got {bert[name]!r}. '
        'Set --config.sids.encoder'
      )
  kinds = [m['type'].rsplit('.', 1)[-1] for m in _read_json(folder / 'modules.json', optional=True)]
  if set(kinds) - {'Transformer', 'Pooling', 'Normalize'}:
    raise ValueError(
      f'{folder / "modules.json"}: the modules must be Transformer, Pooling and Normalize; '
      f'got {", ".join(kinds)}. Set --config.sids.encoder'
    )
  pooling = _read_json(folder / '1_Pooling/config.json', optional=True)
  modes = {name for name, on in pooling.items() if name.startswith('pooling_mode_') and on is True}
  if pooling and modes != {'pooling_mode_mean_tokens'}:
    raise ValueError(
      f'{folder / "1_Pooling/config.json"}: pooling must be the mean over tokens; '
      f'got {", ".join(sorted(modes)) or "none"}. Set --config.sids.encoder'
    )


def _load_parameters(path: epath.Path, bert: dict) -> dict[str, dict[str, jax.Array]]:
  """`embeddings`, and `layers` with the layers stacked along a first axis; all float32."""
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
    tensor = tensor.astype(np.float32)
    is_matrix = len(shape) == 2 and name.endswith('weight') and not name.startswith('embeddings')
    return tensor.T if is_matrix else tensor

  embeddings = {key: take(name, fields) for key, (name, fields) in _EMBEDDING_TENSORS.items()}
  layers = collections.defaultdict(list)
  for layer in range(bert['num_hidden_layers']):
    for key, (name, fields) in _LAYER_TENSORS.items():
      layers[key].append(take(f'encoder.layer.{layer}.{name}', fields))
  if problems:
    raise ValueError(f'{path} does not fit its config.json: ' + '; '.join(problems))
  stacked = {key: np.stack(values) for key, values in layers.items()}
  return jax.device_put({'embeddings': embeddings, 'layers': stacked})


def _batches(
  ids: list[list[int]], max_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields (rows of the input, tokens int32 `[B, T]`, lengths int32 `[B]`), few distinct shapes.

  T is a multiple of 8 up to 64 and of 32 above; B fills _TOKENS_PER_BATCH, and the last batch of
  each T is filled up with rows of one padding token, which the caller drops.
  """
  lengths = np.array([len(row) for row in ids], np.int32)
  steps = np.where(lengths <= 64, 8, 32)
  padded = np.minimum(-(-lengths // steps) * steps, max(max_length, 1))
  for width in np.unique(padded).tolist():
    rows_of_width = np.flatnonzero(padded == width)
    size = max(1, _TOKENS_PER_BATCH // width)
    for start in range(0, len(rows_of_width), size):
      rows = rows_of_width[start : start + size]
      tokens_BT = np.zeros((size, width), np.int32)
      lengths_B = np.ones(size, np.int32)
      lengths_B[: len(rows)] = lengths[rows]
      for b, row in enumerate(rows.tolist()):
        tokens_BT[b, : lengths[row]] = ids[row]
      yield rows, tokens_BT, lengths_B


def _forward(
  parameters: dict, tokens_BT: jax.Array, lengths_B: jax.Array, *, heads: int, epsilon: float
) -> jax.Array:
  """Unit vectors `[B, D]` of the first `lengths_B` tokens of every row."""
  embeddings = parameters['embeddings']
  length = tokens_BT.shape[1]
  is_token_BT = jnp.arange(length)[None, :] < lengths_B[:, None]
  bias_BNTS = jnp.where(is_token_BT, 0.0, -1e30)[:, None, None, :]
  x_BTD = embeddings['word'][tokens_BT]
  x_BTD += embeddings['position'][None, :length] + embeddings['type'][:1, None]
  x_BTD = _layer_norm(x_BTD, embeddings['norm_scale'], embeddings['norm_bias'], epsilon)

  def layer(x_BTD: jax.Array, p: dict) -> tuple[jax.Array, None]:
    attended = _attention(x_BTD, bias_BNTS, p, heads)
    x_BTD = _layer_norm(
      x_BTD + attended, p['attention_norm_scale'], p['attention_norm_bias'], epsilon
    )
    h_BTF = jax.nn.gelu(_dense(x_BTD, p['up'], p['up_bias']), approximate=False)
    x_BTD += _dense(h_BTF, p['down'], p['down_bias'])
    return _layer_norm(x_BTD, p['ff_norm_scale'], p['ff_norm_bias'], epsilon), None

  x_BTD, _ = jax.lax.scan(layer, x_BTD, parameters['layers'])
  mean_BD = jnp.where(is_token_BT[..., None], x_BTD, 0).sum(1) / lengths_B[:, None]
  return mean_BD / jnp.linalg.norm(mean_BD, axis=1, keepdims=True)


def _attention(x_BTD: jax.Array, bias_BNTS: jax.Array, p: dict, heads: int) -> jax.Array:
  batch, length, width = x_BTD.shape

  def split(name: str) -> jax.Array:
    projected = _dense(x_BTD, p[name], p[name + '_bias'])
    return projected.reshape(batch, length, heads, width // heads)

  scores_BNTS = jnp.einsum('BTNH,BSNH->BNTS', split('query'), split('key'), precision='highest')
  scale = (width // heads) ** -0.5
  weights_BNTS = jax.nn.softmax(scores_BNTS * scale + bias_BNTS, axis=-1)
  mixed = jnp.einsum('BNTS,BSNH->BTNH', weights_BNTS, split('value'), precision='highest')
  return _dense(mixed.reshape(batch, length, width), p['out'], p['out_bias'])


def _dense(x_BTD: jax.Array, weight_DF: jax.Array, bias_F: jax.Array) -> jax.Array:
  return jnp.einsum('BTD,DF->BTF', x_BTD, weight_DF, precision='highest') + bias_F[None, None]


def _layer_norm(
  x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float
) -> jax.Array:
  centred = x_BTD - x_BTD.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  return centred * jax.lax.rsqrt(variance + epsilon) * scale_D[None, None] + bias_D[None, None]
