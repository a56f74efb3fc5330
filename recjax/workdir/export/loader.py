"""Loads the search of this folder with jax alone, in the version that bundle.json names; rank.py shows its use."""

import json
import math

import jax
import jax.export
import numpy as np


def load(folder):
  """Returns weights and data by name, as the searches of the folder take them beside a request."""
  bundle = json.loads((folder / 'bundle.json').read_text(encoding='utf-8'))
  values = {}
  for name, (file, first, dtype, shape) in bundle['arrays'].items():
    x = np.fromfile(folder / file, np.dtype(dtype), math.prod(shape), offset=first)
    values[name] = jax.device_put(x.reshape(shape))
  if bundle['prepare']:  # model.safetensors is that of transformers
    values |= function(folder / bundle['prepare'])(values)
  return {name: values[name] for name in bundle['values']}


def function(path):
  """Returns the function of a file: arrays by name → arrays by name. It is compiled at its first call."""
  header, _, module = path.read_bytes().partition(b'\n')
  fields, scope = json.loads(header), jax.export.SymbolicScope()

  def shaped(shape, dtype):
    return jax.core.ShapedArray(jax.export.symbolic_shape(shape, scope=scope), np.dtype(dtype))

  arguments, results = (
    {name: shaped(*each) for name, *each in fields.pop(kind)} for kind in ('arguments', 'results')
  )
  fields['in_avals'], fields['in_tree'] = jax.tree.flatten(((arguments,), {}))
  fields['out_avals'], fields['out_tree'] = jax.tree.flatten(results)
  fields = {name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()}
  exported = jax.export.Exported(**fields, mlir_module_serialized=module, _get_vjp=None)
  call = jax.jit(exported.call)
  return lambda values: call({name: values[name] for name in arguments})
