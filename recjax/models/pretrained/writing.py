"""Exports parameters and SID tokens to a folder that `transformers` loads."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import glob
import json
import os
import pathlib
from typing import Any

from etils import epath
from flax import traverse_util
import jax
from jax.experimental import multihost_utils
import numpy as np

from recjax.models.mappings.weights import Weight
from recjax.models.pretrained import hub, tokenizer_files
from recjax.models.pretrained.config_file import Pretrained, read_config
from recjax.models.pretrained.ids import IdMap, id_map
from recjax.models.pretrained.reading import layers_of, match, sid_path, their_shape
from recjax.models.pretrained.tensors import DTYPES, Output, Tensors, grouped, write
from recjax.runtime import lock
from recjax.runtime.files import is_local, partial_name
from recjax.sids.token_space import TokenSpace

FILE_BYTES = 2 << 30  # size limit of a file of tensors; a larger tensor has its own file
_CHUNK_ROWS = 1 << 14
_NAMES = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}


def gathered(x: Any) -> np.ndarray:
  """Gathers an array on this host; every host must call it."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


def _table_parts(text: Any, sid: Any, ids: IdMap) -> Iterator[np.ndarray]:
  """Yields the rows of an exported table: the tokenizer's, SID codes, our specials."""
  text = gathered(text)
  yield from _chunks(text[: ids.tokenizer_size])
  yield from _chunks(gathered(sid)[: ids.space.sid_size])
  yield from _chunks(text[ids.tokenizer_size : ids.space.text_size])


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
  for first in range(0, len(rows), _CHUNK_ROWS):
    yield rows[first : first + _CHUNK_ROWS]


class _Parts:
  """An iterable for `Output.parts` that can be iterated more than once."""

  def __init__(self, make):
    self._make = make

  def __iter__(self) -> Iterator[np.ndarray]:
    return self._make()


def _parts(weight: Weight, layer: int | None, flat: dict[str, Any], ids: IdMap) -> _Parts:
  x = flat[weight.path]
  if weight.vocabulary:
    return _Parts(lambda: _table_parts(x, flat[sid_path(weight.path)], ids))

  def one() -> Iterator[np.ndarray]:
    yield weight.to_theirs(gathered(x if layer is None else x[layer]))

  return _Parts(one)


def _is_lossless(output: Output) -> bool:
  """Returns whether no value changes in the output's dtype."""
  if output.dtype == np.float32:
    return True
  return all(
    np.array_equal(part, part.astype(output.dtype).astype(part.dtype)) for part in output.parts
  )


def _outputs(
  pretrained: Pretrained,
  flat: dict[str, Any],
  ids: IdMap,
  tensors: Tensors | None,
  dtype: str | None,
) -> list[Output]:
  """Returns every tensor to write, in the dtypes that `export` documents."""
  mapping = pretrained.family.checkpoints.mapping(pretrained.config)
  names = match(mapping, tensors, flat, pretrained.vocab_rows) if tensors else {}
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

  if dtype is not None or tensors is None:
    return outputs(codes[dtype or 'float32'])
  same = outputs(None)
  return same if all(_is_lossless(output) for output in same) else outputs('F32')


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
  """Returns config.json of the export: a text model with `rows` tokens."""
  hf = pretrained.hf | {'vocab_size': rows}
  hf['architectures'] = [pretrained.family.checkpoints.architectures[hf['model_type']]]
  written = {code for code, dtype in DTYPES.items() for o in outputs if o.dtype == dtype}
  if len(written) == 1:
    name = _NAMES[written.pop()]
    hf |= {field: name for field in ('dtype', 'torch_dtype') if field in hf} or {'dtype': name}
  return hf


def check_export(
  out: epath.PathLike,
  source: epath.PathLike,
  space: TokenSpace | None = None,
  specials: Sequence[str] = (),
) -> None:
  """Checks the inputs of an export; call it before parameters are restored.

  Args:
    out: the folder to write.
    source: the folder that the model was loaded from.
    space: our token ids; None: not known yet, so that the added tokens are not checked.
    specials: tokens for the text ids beyond the tokenizer's.

  Raises:
    FileExistsError: `out` is a file or a folder with files.
    FileNotFoundError: `source` is not a checkpoint folder.
    NotADirectoryError, PermissionError: the folder that will hold `out` is a file, or not writable.
    ValueError: `source` cannot be read, or its tokenizer already has one of the tokens to add.
  """
  out, source = epath.Path(out), hub.path(source)
  check_out(out)
  found = read_config(source)
  tokenizer_files.tokenizer_size(source, found.vocab_rows)
  if space is not None:
    _new_tokens(source, found.vocab_rows, space, specials, None)


def check_out(out: epath.PathLike) -> None:
  """Raises an OSError unless `out` is a writable folder that is new or empty."""
  out = epath.Path(out)
  if out.exists() and not (out.is_dir() and not any(out.iterdir())):
    raise FileExistsError(f'--out must be a new or an empty folder; {out} exists and is not empty')
  if not is_local(out):
    return
  parent = pathlib.Path(out).absolute().parent
  while not parent.exists():
    parent = parent.parent
  if not parent.is_dir():
    raise NotADirectoryError(f'--out must be in a folder; {parent} is a file')
  if not os.access(parent, os.W_OK | os.X_OK):
    raise PermissionError(f'--out must be in a writable folder; {parent} is read-only')


def _new_tokens(
  source: epath.Path,
  vocab_rows: int,
  space: TokenSpace,
  specials: Sequence[str],
  tokenizer_size: int | None,
) -> tuple[IdMap, list[str]]:
  """Returns the map of the export and the tokens that it adds to the tokenizer."""
  ids, exported = id_map(source, space, tokenizer_size, vocab_rows)
  if exported:  # the source is an export of ours, whose tokenizer has the tokens
    return ids, []
  if len(specials) != ids.specials:
    raise ValueError(
      f'the token space has {ids.specials} text ids beyond the tokenizer, and each needs its token; got '
      f'{len(specials)} specials'
    )
  tokens = [*space.sid_names, *specials]
  tokenizer_files.check_new(source, tokens)
  return ids, tokens


@contextlib.contextmanager
def partial_folder(folder: epath.Path, primary: bool) -> Iterator[epath.Path]:
  """Yields a partial folder that is renamed to `folder` at the end; after an error it is removed.

  Partial folders of killed exports are removed too.
  """
  if not primary:
    yield folder
    return
  folder.parent.mkdir(parents=True, exist_ok=True)
  _remove_abandoned(folder)
  partial = partial_name(folder)
  try:
    with lock.hold(partial, f'writing {folder}', wait=False, field='--out'):
      yield partial
    if folder.exists():
      folder.rmdir()  # empty; see `check_out`
    partial.rename(folder)
  except BaseException:
    if partial.exists():
      partial.rmtree()
    raise


def _remove_abandoned(folder: epath.Path) -> None:
  """Removes the partial folders of killed exports."""
  for partial in folder.parent.glob(f'.{glob.escape(folder.name)}.*.partial'):
    with contextlib.suppress(lock.Held):
      lock.check_free(partial, '--out')
      partial.rmtree()


def export(
  folder: epath.PathLike,
  params: Any,
  space: TokenSpace,
  source: epath.PathLike,
  specials: Sequence[str] = (),
  dtype: str | None = None,
  tokenizer_size: int | None = None,
  found: Pretrained | None = None,
  add: Callable[[epath.Path, IdMap], None] | None = None,
) -> None:
  """Writes a folder that `transformers` loads. It is whole or absent.

  The table holds the tokenizer's tokens, SID tokens (`<a_0>` …) from `len(tokenizer)` on, then our specials.
  It has no unused rows, so the exported model cannot predict a token that ours cannot. After an error nothing is
  left behind.

  Args:
    folder: to write; new or empty.
    params: nested dict of arrays as in the model, sharded or not. With several hosts, all must call.
    space: our token ids.
    source: the folder that the model was loaded from: its config.json and tokenizer files are copied.
    specials: tokens for the text ids beyond the tokenizer's.
    dtype: 'float32', 'bfloat16' or 'float16'. None: the dtypes in `source` if they change no value, else
      float32 for all tensors.
    tokenizer_size: see `load`.
    found: family and shape of a model that was trained from scratch (see `scratch.described`); `source` then
      holds the tokenizer's files alone, and `tokenizer_size` must be set.
    add: writes more files into the folder before it gets its name; called on process 0.

  Raises:
    FileExistsError, ValueError: see `check_export`; the parameters do not fit the source's config.json.
  """
  folder, source = epath.Path(folder), hub.path(source)
  primary = jax.process_index() == 0
  if primary:
    check_out(folder)
  pretrained = found or read_config(source)
  tensors = None if found else Tensors(source)
  ids, tokens = _new_tokens(source, pretrained.vocab_rows, space, specials, tokenizer_size)
  outputs = _outputs(pretrained, traverse_util.flatten_dict(params, sep='/'), ids, tensors, dtype)
  with partial_folder(folder, primary) as partial:
    _write_tensors(partial, outputs, primary)
    if primary:
      config = _config(pretrained, space.size, outputs)
      (partial / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
      tokenizer_files.copy_with_tokens(source, partial, tokens, ids.tokenizer_size)
      if space.size > ids.tokenizer_size:
        ids.save(partial)
      if add is not None:
        add(partial, ids)
