"""Our parameters → a folder that `transformers` loads, with the SID tokens."""

from collections.abc import Iterator, Sequence
import json
from typing import Any

from etils import epath
from flax import traverse_util
import jax
from jax.experimental import multihost_utils
import numpy as np

from recjax.models.pretrained import tokenizer_files
from recjax.models.pretrained.ids import IdMap, id_map
from recjax.models.pretrained.mapping import Weight
from recjax.models.pretrained.reading import (
  FAMILIES,
  Pretrained,
  layers_of,
  match,
  read_config,
  sid_path,
  their_shape,
)
from recjax.models.pretrained.tensors import DTYPES, Output, Tensors, grouped, write
from recjax.sids.token_space import TokenSpace

FILE_BYTES = 2 << 30  # a file of tensors is not larger, unless one tensor is
_CHUNK_ROWS = 1 << 14
_ARCHITECTURES = {
  'gemma': 'GemmaForCausalLM',
  'gemma2': 'Gemma2ForCausalLM',
  'gemma3_text': 'Gemma3ForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  't5': 'T5ForConditionalGeneration',
  'mt5': 'MT5ForConditionalGeneration',
}
_NAMES = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}


def _fetch(x: Any) -> np.ndarray:
  """An array on this host; every host takes part."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


def _table_parts(text: Any, sid: Any, ids: IdMap) -> Iterator[np.ndarray]:
  """The rows of an exported table in their order: the tokenizer's, SID codes, our specials."""
  text = _fetch(text)
  yield from _chunks(text[: ids.tokenizer_size])
  yield from _chunks(_fetch(sid)[: ids.space.sid_size])
  yield from _chunks(text[ids.tokenizer_size : ids.space.text_size])


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
  for first in range(0, len(rows), _CHUNK_ROWS):
    yield rows[first : first + _CHUNK_ROWS]


class _Parts:
  """What `Output.parts` may be read from more than once."""

  def __init__(self, make):
    self._make = make

  def __iter__(self) -> Iterator[np.ndarray]:
    return self._make()


def _parts(weight: Weight, layer: int | None, flat: dict[str, Any], ids: IdMap) -> _Parts:
  x = flat[weight.path]
  if weight.vocabulary:
    return _Parts(lambda: _table_parts(x, flat[sid_path(weight.path)], ids))

  def one() -> Iterator[np.ndarray]:
    yield weight.to_theirs(_fetch(x if layer is None else x[layer]))

  return _Parts(one)


def _loses_nothing(output: Output) -> bool:
  if output.dtype == np.float32:
    return True
  return all(
    np.array_equal(part, part.astype(output.dtype).astype(part.dtype)) for part in output.parts
  )


def _outputs(
  pretrained: Pretrained, flat: dict[str, Any], ids: IdMap, tensors: Tensors, dtype: str | None
) -> list[Output]:
  """Every tensor to write, in the dtypes that `export` promises."""
  mapping = FAMILIES[pretrained.family][0].mapping(pretrained.config)
  names = match(mapping, tensors, flat, pretrained.vocab_rows)
  codes = {name: code for code, name in _NAMES.items()}
  if dtype is not None and dtype not in codes:
    raise ValueError(f'dtype must be one of {", ".join(codes)}; got {dtype!r}')

  def outputs(as_code: str | None) -> list[Output]:
    result = []
    for weight in mapping.weights:
      shape = their_shape(weight, flat[weight.path].shape, ids.space.size)
      for layer in layers_of(weight):
        code = as_code or tensors.infos[names[weight.path, layer]].code
        parts = _parts(weight, layer, flat, ids)
        result.append(Output(weight.names(layer)[0], DTYPES[code], shape, parts))
    return result

  if dtype is not None:
    return outputs(codes[dtype])
  same = outputs(None)
  return same if all(_loses_nothing(output) for output in same) else outputs('F32')


def _write_tensors(folder: epath.Path, outputs: list[Output], primary: bool) -> None:
  groups = list(grouped(outputs, FILE_BYTES))
  where = {}
  for i, group in enumerate(groups):
    many = f'model-{i + 1:05}-of-{len(groups):05}.safetensors'
    name = many if len(groups) > 1 else 'model.safetensors'
    write(folder / name if primary else None, group)
    where |= {output.name: name for output in group}
  if len(groups) > 1 and primary:
    total = {'total_size': sum(output.nbytes for output in outputs)}
    index = {'metadata': total, 'weight_map': where}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index, indent=2) + '\n')


def _config(pretrained: Pretrained, rows: int, outputs: list[Output]) -> dict[str, Any]:
  """config.json of the export: a text model with `rows` tokens."""
  hf = pretrained.hf | {'vocab_size': rows}
  hf['architectures'] = [_ARCHITECTURES[hf['model_type']]]
  written = {code for code, dtype in DTYPES.items() for o in outputs if o.dtype == dtype}
  if len(written) == 1:
    name = _NAMES[written.pop()]
    hf |= {field: name for field in ('dtype', 'torch_dtype') if field in hf} or {'dtype': name}
  return hf


def export(
  folder: epath.PathLike,
  params: Any,
  space: TokenSpace,
  source: epath.PathLike,
  specials: Sequence[str] = (),
  dtype: str | None = None,
  tokenizer_size: int | None = None,
) -> None:
  """Writes a folder that `transformers` loads: every token has a row, and every row a token.

  The table holds the tokenizer's tokens, then SID tokens (`<a_0>` …) from `len(tokenizer)` on, then
  specials of ours; it has no further rows, so what we can not predict, the export can not either.

  Args:
    folder: to write; must not be there. It is written beside and renamed.
    params: nested dict of arrays as in the model, sharded or not. On several hosts all must call.
    space: our token ids.
    source: the folder that the model was loaded from: its config.json and tokenizer files are copied.
    specials: tokens of the text ids beyond the tokenizer's.
    dtype: 'float32', 'bfloat16', 'float16'; None: each tensor's dtype in `source` if no value changes
      by it, else float32 for all.
    tokenizer_size: as in `load`.

  Raises:
    FileExistsError: the folder is there already.
    ValueError: the parameters are not those of the source's config; specials are not as many as needed;
      the tokenizer knows a token already.
  """
  folder, source = epath.Path(folder), epath.Path(source)
  if folder.exists():
    raise FileExistsError(f'{folder} must not exist: an export never overwrites')
  pretrained = read_config(source)
  tensors = Tensors(source)
  ids, exported = id_map(source, space, tokenizer_size, pretrained.vocab_rows)
  if len(specials) != ids.specials and not exported:
    raise ValueError(
      f'the token space has {ids.specials} text ids beyond the tokenizer, and each needs its token; got '
      f'{len(specials)} specials'
    )
  outputs = _outputs(pretrained, traverse_util.flatten_dict(params, sep='/'), ids, tensors, dtype)
  primary = jax.process_index() == 0
  partial = folder.parent / f'.{folder.name}.partial'
  if primary:
    if partial.exists():
      partial.rmtree()
    partial.mkdir(parents=True)
  _write_tensors(partial, outputs, primary)
  if primary:
    config = _config(pretrained, space.size, outputs)
    (partial / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    tokens = [] if exported else [*space.sid_names, *specials]  # an export of ours knows them
    tokenizer_files.copy_with_tokens(source, partial, tokens, ids.tokenizer_size)
    if space.size > ids.tokenizer_size:
      ids.save(partial)
    partial.rename(folder)
