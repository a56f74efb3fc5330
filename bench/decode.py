"""Speed of the constrained search, beside its floor and its peers in the same run; random weights, random semantic IDs.

Parts, each as rows of figures:
  beams         users/s by number of beams, and the floor: the products and the bytes that no search of this model can avoid
  constraint    the search with and without the catalogue, in turns, for every number of items
  transformers  HF `generate` with prefix_allowed_tokens_fn on a T5 of the same shape, in turns with ours: with the scores of
                HF (softmax over the vocabulary), and with the default ones (over the codes of a level)
  static        STATIC's step on the same catalogue, in turns with ours (arXiv 2602.22647; needs --static)
  cut           the search that skips beams which cannot enter beside the one that does not, in turns (bench/decode_cut.py)
  sid_gr        the shapes of NVIDIA's SID-GR beside its published times (needs a GPU)

On a CPU the sides alternate, so that other load slows both, and CPU seconds stand beside wall seconds.

Commands:
  python -m bench.decode --out=decode.json
  python -m bench.decode --parts=static --static=FOLDER    (a checkout of github.com/youtube/static-constraint-decoding)
  python -m bench.decode --parts=cut --workdir=RUN
  python -m bench.decode --tiny                            (all parts with small shapes, in a minute)
"""

import importlib.util
import os
from typing import Any

# PyTorch needs memory of the same GPU.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

from absl import app, flags
import jax

from bench import decode_cut, decode_peers, decode_sides
from bench.circumstances import circumstances, show, start_with_one_heap, write
from bench.decode_sides import Shapes, Side, World, config_of, turns
from bench.train_step import matmul_ceiling

PARTS = ('beams', 'constraint', 'transformers', 'static', 'cut', 'sid_gr')
# Milliseconds by (context, batch): NVIDIA recsys-examples v26.06, SID-GR on one H100, Qwen3-1.7B, 256 beams x 3 levels.
SID_GR = {(1000, 1): 17.6, (1000, 8): 93.0, (5000, 1): 42.0, (5000, 8): 308.0}

_PARTS = flags.DEFINE_list('parts', list(PARTS), 'Parts to run, in this order.')
_TINY = flags.DEFINE_bool('tiny', False, 'Use small shapes, to test that all parts run.')
_BEAMS = flags.DEFINE_multi_integer('beams', [10, 20, 50, 100, 256, 512], 'Numbers of beams.')
_ITEMS = flags.DEFINE_multi_integer('items', [12_101, 1_000_000, 10_000_000], 'Catalogues.')
_USERS = flags.DEFINE_integer('users', 32, 'Users of a batch.')
_PROMPT = flags.DEFINE_integer('prompt', 81, 'Tokens of a prompt: 20 items and BOS.')
_MODEL = flags.DEFINE_string('model', 'decoder_128', 'Model of the parts beams and constraint.')
_STATIC = flags.DEFINE_string('static', None, 'Checkout of STATIC, outside of this project.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'A trained run for the part cut.')


def _shapes(beams: int, items: int, model: str) -> Shapes:
  if _TINY.value:
    return Shapes(model, min(items, 64), users=2, prompt=9, beams=min(beams, 8))
  return Shapes(model, items, _USERS.value, _PROMPT.value, beams)


def _beams(ceilings: dict[str, float]) -> list[dict[str, Any]]:
  found, world = [], World(_shapes(1, _ITEMS.value[0], _MODEL.value).items)
  for beams in _BEAMS.value:
    side = Side(_shapes(beams, len(world.codes_IL), _MODEL.value), world)
    result = side.shapes._asdict() | turns({'recjax': side})
    result |= decode_sides.floor(side, ceilings)
    result['share_of_floor'] = result['floor_seconds'] / result['recjax_seconds']
    found.append(result)
    show(result)
  return found


def _constraint() -> list[dict[str, Any]]:
  found = []
  for items in _ITEMS.value:
    world = World(_shapes(1, items, _MODEL.value).items)
    for beams in _BEAMS.value:
      shapes = _shapes(beams, items, _MODEL.value)
      result = turns({'open': Side(shapes, world, is_open=True), 'recjax': Side(shapes, world)})
      result = shapes._asdict() | result
      result['cost_of_constraint'] = 1 / result['speed_to_open'] - 1
      found.append(result)
      show(result)
      jax.clear_caches()
  return found


def _transformers() -> list[dict[str, Any]]:
  if not all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    return [{'left_out': "install torch and transformers: pip install -e '.[bench]'"}]
  found, world = [], World(_shapes(1, _ITEMS.value[0], 't5_128').items)
  for model in ('t5_128',) if _TINY.value else ('t5_128', 't5_small'):
    for beams in (20,) if _TINY.value else (20, 50):
      shapes = _shapes(beams, len(world.codes_IL), model)
      # HF scores with the softmax over the whole vocabulary, recjax by default with that over the codes of a level.
      side = Side(shapes, world, sid_softmax='full')
      ours = {'recjax_level': Side(shapes, world), 'recjax': side}
      peers = {
        'transformers': decode_peers.Generate(side, is_constrained=True),
        'transformers_open': decode_peers.Generate(side, is_constrained=False),
      }
      result = shapes._asdict() | turns(peers | ours, 1 if _TINY.value else 4, 1)
      for peer in peers:  # both by CPU seconds on a CPU
        result[f'level_speed_to_{peer}'] = (
          result[f'speed_to_{peer}'] / result['speed_to_recjax_level']
        )
      found.append(result)
      show(result)
  return found


def _static() -> list[dict[str, Any]]:
  if _STATIC.value is None:
    return [
      {'left_out': 'set --static to a checkout of github.com/youtube/static-constraint-decoding'}
    ]
  found = []
  for items in _ITEMS.value:
    world = World(_shapes(1, items, _MODEL.value).items)
    for beams in (20,) if _TINY.value else (20, 256):
      shapes = _shapes(beams, items, _MODEL.value)
      result = decode_peers.static_step(_STATIC.value, world, shapes.users, shapes.beams)
      result = shapes._asdict() | result
      found.append(result)
      show(result)
  return found


def _cut() -> list[dict[str, Any]]:
  beams = (8, 16) if _TINY.value else [n for n in _BEAMS.value if n >= 50]
  found, shapes = [], [_shapes(n, _ITEMS.value[0], _MODEL.value) for n in beams]
  for result in decode_cut.rows(shapes, _WORKDIR.value):
    found.append(result)
    show(result)
  return found


def _sid_gr() -> list[dict[str, Any]]:
  on_gpu = jax.default_backend() == 'gpu'
  if not (on_gpu or _TINY.value):
    return [{'left_out': 'its published times are of an H100; this backend is no GPU'}]
  found, world = [], World(_shapes(1, _ITEMS.value[0], 'qwen3_1_7b').items, levels=3)
  for (context, batch), published in list(SID_GR.items())[: 1 if _TINY.value else None]:
    shapes = Shapes('qwen3_1_7b', len(world.codes_IL), batch, context, 256)
    if _TINY.value:
      shapes = _shapes(8, len(world.codes_IL), 'decoder_128')
    side = Side(shapes, world, dtype='bfloat16')
    result = shapes._asdict() | turns({'recjax': side})
    result['published_milliseconds'] = published
    result['milliseconds'] = 1000 * result['recjax_seconds']
    found.append(result)
    show(result)
  return found


def main(_) -> None:
  unknown = [part for part in _PARTS.value if part not in PARTS]
  if unknown:
    raise app.UsageError(f'--parts must be of {", ".join(PARTS)}; got {", ".join(unknown)}')
  results: dict[str, Any] = {'circumstances': circumstances()}
  results['ceilings'] = {
    'flops_per_sec': matmul_ceiling(config_of(_MODEL.value, 'float32').model.compute_dtype),
    'bytes_per_sec': decode_sides.copy_speed(),
  }
  show(results['circumstances'] | results['ceilings'])
  run = {
    'beams': lambda: _beams(results['ceilings']),
    'constraint': _constraint,
    'transformers': _transformers,
    'static': _static,
    'cut': _cut,
    'sid_gr': _sid_gr,
  }
  for part in _PARTS.value:
    print(f'-- {part}')
    results[part] = run[part]()
    if 'left_out' in results[part][0]:
      show(results[part][0])
    write(results)  # after each part, in case a later one fails


if __name__ == '__main__':
  start_with_one_heap()
  app.run(main)
