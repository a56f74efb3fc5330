"""Loads the search in this folder. Needs jax alone, in the version that bundle.json names; rank.py shows its use."""

import hashlib
import json

import jax
import jax.export
import numpy as np

_DTYPES = {'F32': np.float32, 'F16': np.float16, 'BF16': jax.numpy.bfloat16, 'I32': np.int32}


def read_tensors(path):
  """Returns the tensors of a safetensors file by name: eight bytes of header length, a JSON header, the bytes."""
  data = np.memmap(path, np.uint8, mode='r')
  start = 8 + int(data[:8].view('<u8')[0])
  header = json.loads(data[8:start].tobytes())
  header.pop('__metadata__', None)
  parts = {name: (t, *(start + at for at in t['data_offsets'])) for name, t in header.items()}
  return {
    name: data[first:end].view(_DTYPES[t['dtype']]).reshape(t['shape'])
    for name, (t, first, end) in parts.items()
  }


def read_function(path):
  """Returns the function of a file: arrays by name → arrays by name. It is compiled at its first call."""
  line, _, module = path.read_bytes().partition(b'\n')
  header, scope = json.loads(line), jax.export.SymbolicScope()
  avals = [
    tuple(
      jax.core.ShapedArray(jax.export.symbolic_shape(shape, scope=scope), np.dtype(dtype))
      for _, shape, dtype in header[kind]
    )
    for kind in ('arguments', 'results')
  ]
  arguments, results = ([name for name, _, _ in header[kind]] for kind in ('arguments', 'results'))
  none = [(None,) * len(each) for each in avals]
  exported = jax.export.Exported(
    fun_name=path.name, mlir_module_serialized=module, in_avals=avals[0], out_avals=avals[1],
    in_tree=jax.tree.structure((tuple(arguments), {})), out_tree=jax.tree.structure(tuple(results)),
    _has_named_shardings=True, _in_named_shardings=none[0], _out_named_shardings=none[1],
    in_shardings_hlo=none[0], out_shardings_hlo=none[1], nr_devices=1, ordered_effects=(),
    unordered_effects=(), disabled_safety_checks=(), _get_vjp=None, uses_global_constants=True,
    platforms=tuple(header['platforms']), module_kept_var_idx=tuple(header['kept']),
    calling_convention_version=header['calling_convention'],
  )  # fmt: skip
  call = jax.jit(exported.call)
  return lambda values: dict(zip(results, call(*[values[n] for n in arguments]), strict=True))


def check_files(folder):
  """Raises a ValueError if a file of the folder is missing, damaged, or of another bundle."""
  must = 'must be the file that was exported; it is missing, damaged or of another bundle. Export it again'
  sums = dict(
    reversed(line.split('  ', 1))
    for line in (folder / 'SHA256SUMS').read_text().splitlines()
    if '  ' in line
  )
  for name in ('bundle.json', *sums):
    try:
      with (folder / name).open('rb') as f:
        is_same = hashlib.file_digest(f, 'sha256').hexdigest() == sums.get(name)
    except OSError:
      is_same = False
    if not is_same:
      raise ValueError(f'{folder / name} {must}')
  if missing := set(json.loads((folder / 'bundle.json').read_text())['files']) - sums.keys():
    raise ValueError(f'{folder / min(missing)} {must}')


def load(folder):
  """Returns weights and arrays by name, as the searches of the folder take them, beside the arrays of a request."""
  bundle = json.loads((folder / 'bundle.json').read_text(encoding='utf-8'))
  values = {}
  for name in bundle['tensors']:
    values |= {key: jax.device_put(x) for key, x in read_tensors(folder / name).items()}
  if bundle['prepare']:  # model.safetensors is that of transformers
    values |= read_function(folder / bundle['prepare'])(values)
  return {name: values[name] for name in bundle['values']}
