"""Writes the bundle of a run: weights, catalogue, and the whole search as StableHLO that needs jax alone.

The weights are arguments of the search, so that they exist once: as the model.safetensors of `transformers`, which
`prepare.stablehlo` turns into our parameters, or, for a model that `transformers` does not know, by our names in
search.safetensors. The searches are compiled for a few numbers of rows.
"""

from collections.abc import Mapping
import dataclasses
import functools
import itertools
import json
import logging
from typing import Any

from etils import epath
import jax
import numpy as np
from safetensors import numpy as safetensors

from recjax import models
from recjax.config import Config, next_item_component
from recjax.data.dataset import Dataset
from recjax.decode.blend import Weights
from recjax.decode.ranker import Ranker
from recjax.models import lora, pretrained
from recjax.runtime.files import sha256
from recjax.workdir.export import files, folder, stablehlo
from recjax.workdir.export.function import Function, names_of

log = logging.getLogger(__name__)

TENSORS, SUMS = 'search.safetensors', 'SHA256SUMS'
README = 'README.md'
SEARCH, PREPARE, SIDS = (
  'search_{batch}x{shown}x{beams}.stablehlo',
  'prepare.stablehlo',
  'sid_vocab.json',
)
SCRIPTS = {name: name for name in ('loader.py', 'rank.py', 'sums.py', files.ROWS)}
BATCHES = (1, 8, 64)  # rows of the compiled searches
LEAST = 64  # columns of a request; a larger number is a power of two
# Types in safetensors files → those of numpy.
_TYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I32': 'int32'}


def check(out: str, config: Config, dataset: Dataset) -> None:
  """Checks a bundle before parameters are restored.

  Raises:
    OSError, ValueError: `out` is not new or empty, or the folder `model.pretrained` cannot be read.
  """
  _why_ours(out, config, dataset)


def _why_ours(out: str, config: Config, dataset: Dataset) -> str | None:
  """Returns why the weights cannot be those of `transformers`; None: they can."""
  try:
    folder.check(out, config, dataset)
  except ValueError as error:
    if config.model.pretrained is not None:
      raise
    return str(error).partition('. ')[0]
  return None


def write(
  out: str,
  config: Config,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  params: Any,
  weights: Weights,
  beams: tuple[int, ...] = (),
  batches: tuple[int, ...] = BATCHES,
) -> None:
  """Writes the folder; it is whole or absent. Every process must call it.

  Args:
    out: a new or empty folder.
    config: config of the run.
    dataset: the prepared data.
    mesh: the devices.
    params: parameters of the model; adapters are merged.
    weights: of the scores of candidates.
    beams: numbers of beams that a caller may choose, of which the first is the default. Empty: `eval.beams`.
    batches: numbers of rows for which the search is compiled, ascending.
  """
  params = lora.merge(params, config.model.lora_alpha)
  component = next_item_component(config)
  # With room the items are arguments of the search, for models that score items beside their codes.
  room = 1.0 if config.model.item_head or config.model.item_rows else None
  ranker = Ranker(component, config.model, config.eval, config.hosts, dataset, mesh, room=room)
  ranker.weights = weights
  function = Function(config, dataset.vocabulary.space, ranker, params)
  reason = _why_ours(out, config, dataset)
  ours = names_of(params, 'params')
  if reason is None:
    mapping = models.family(config.model).checkpoints.mapping(models.shape_of(config.model))
    held = {f'params/{path}' for path in pretrained.held(mapping)}
    ours = {name: x for name, x in ours.items() if name not in held}
  ours = {name: pretrained.gathered(x) for name, x in ours.items()}
  add = functools.partial(
    _add, config=config, dataset=dataset, function=function, params=params, ours=ours,
    is_theirs=reason is None, beams=beams or (config.eval.beams,), batches=batches,
  )  # fmt: skip
  if reason is None:
    folder.write_model(out, config, dataset, params, add)
  else:
    log.info('the bundle holds the weights by the names of recjax: %s', reason)
    is_primary = jax.process_index() == 0
    with pretrained.partial_folder(epath.Path(out), is_primary) as made:
      if is_primary:
        files.write(made, None, config, dataset)
        add(made)
  log.info('exported to %s: python %s/rank.py --help', out, out)


def _add(
  made: epath.Path,
  config: Config,
  dataset: Dataset,
  function: Function,
  params: Any,
  ours: dict[str, np.ndarray],
  is_theirs: bool,
  beams: tuple[int, ...],
  batches: tuple[int, ...],
) -> None:
  """Adds everything beside the files of `transformers` and `files`."""
  tensors = {name: np.asarray(x, order='C') for name, x in (ours | function.arrays).items()}
  (made / TENSORS).write_bytes(safetensors.save(tensors))
  arrays = _arrays(made / TENSORS)
  if is_theirs:
    shapes, convert = pretrained.converter(made, dataset.vocabulary.space)
    prefixed = lambda values: {f'params/{path}': x for path, x in convert(values).items()}  # noqa: E731
    stablehlo.save(made / PREPARE, prefixed, shapes)
    for path in made.glob('model*.safetensors'):
      arrays |= {name: place for name, place in _arrays(path).items() if name in shapes}
  buckets = function.buckets(batches)
  for (batch, shown), width in itertools.product(buckets, beams):
    search = functools.partial(function, shown=shown, beams=width)
    path = made / SEARCH.format(batch=batch, shown=shown, beams=width)
    stablehlo.save(path, search, function.shapes(params, batch))
  _write_sids(made / SIDS, dataset)
  files.write_scripts(made, SCRIPTS)
  info = {
    'version': 2,
    'jax': jax.__version__,
    'arrays': dict(sorted(arrays.items())),
    'prepare': PREPARE if is_theirs else None,
    'values': sorted(names_of(params, 'params') | function.arrays),
    'search': SEARCH,
    'batches': sorted({batch for batch, _ in buckets}),
    'shown': sorted({shown for _, shown in buckets}),
    'beams': list(beams),
    'request': list(function.prompt.pieces),
    'words': function.words,
    'least': max(LEAST, function.prompt.most),
    'weights': function.weights._asdict(),
    'memory': dataclasses.asdict(config.eval.memory),
    'text': dataclasses.asdict(config.eval.text),
    'platforms': list(stablehlo.PLATFORMS),
  }
  (made / README).write_text(_readme(config, is_theirs, info), encoding='utf-8')
  info['files'] = sorted(path.name for path in made.iterdir() if not path.name.startswith('.'))
  (made / files.BUNDLE).write_text(json.dumps(info, indent=2) + '\n', encoding='utf-8')
  sums = [f'{sha256(made / name)}  {name}\n' for name in (*info['files'], files.BUNDLE)]
  (made / SUMS).write_text(''.join(sums))


def _arrays(path: epath.Path) -> dict[str, list[Any]]:
  """Returns where the arrays of a safetensors file are: name → file, first byte, type and shape."""
  with path.open('rb') as f:
    size = int.from_bytes(f.read(8), 'little')
    header = json.loads(f.read(size))
  header.pop('__metadata__', None)
  return {
    name: [path.name, 8 + size + t['data_offsets'][0], _TYPES[t['dtype']], t['shape']]
    for name, t in header.items()
  }


def _write_sids(path: epath.Path, dataset: Dataset) -> None:
  """Writes semantic ID → raw ids, `{"12,34,56": ["B004756YJA"], …}`, as FlashRec's --sid-vocab-file reads it."""
  items: dict[str, list[str]] = {}
  for item, codes in zip(dataset.items, dataset.sids.codes_IL.tolist(), strict=True):
    items.setdefault(','.join(map(str, codes)), []).append(item['id'])
  path.write_text(json.dumps(items, ensure_ascii=False), encoding='utf-8')


def _readme(config: Config, is_theirs: bool, info: Mapping[str, Any]) -> str:
  """Returns README.md of the folder.

  Args:
    config: config of the run.
    is_theirs: whether the weights are those of `transformers`.
    info: the content of bundle.json.
  """
  scores = ['log-probabilities of the semantic IDs', *files.other_scores(config)]
  first = SEARCH.format(batch=info['batches'][0], shown=info['shown'][-1], beams=info['beams'][0])
  rows = (info['batches'][0], info['least'])
  notes = ''.join(f'{name}=none, ' for name in info['request'] if name != 'history')
  lines = [
    '# A recommender, exported by recjax',
    '',
    'rank.py ranks items for histories. It needs `pip install jax=='
    + jax.__version__
    + '` and nothing else:',
    '',
    '    python rank.py histories.jsonl ranked.jsonl --k=10',
    '    python rank.py histories.jsonl ranked.jsonl --within=in_stock.txt   # one item id a line',
    '',
    f'Scores: {" + ".join(scores)}, with the weights in bundle.json.',
    'The search runs on CPU, CUDA and TPU. It is compiled at the first call of each size.',
    '',
    'loader.py alone, without ids: items are numbers, the lines of items.jsonl from 0, the newest in the last column.',
    '',
    '    import pathlib, loader, numpy as np',
    '    folder = pathlib.Path(loader.__file__).parent',
    f'    values, search = loader.load(folder), loader.function(folder / {first!r})',
    f'    none = np.full({rows}, -1, np.int32)',
    '    history = none.copy()',
    '    history[0, -2:] = [0, 1]',
    f'    every = np.full((1, {info["words"]}), 2**32 - 1, np.uint32)  # bit i % 32 of word i // 32 is that of item i',
    f'    mask = np.zeros({rows[0]}, np.int32)  # the row of `within` for each history',
    f'    request = dict(history=history, {notes}excluded=history, within=every, mask=mask)',
    "    print(search(values | request)['items'][0])",
    '',
    '- loader.py: reads arrays and functions; rank.py: ids to arrays and back; sums.py: checks SHA256SUMS',
    '- search_BxNxM.stablehlo: the search with M beams for B rows of at most N shown items',
    '- prepare.stablehlo: turns model.safetensors into the weights of the search',
    '- search.safetensors: catalogue, prompts, and weights that model.safetensors has not',
    '- items.jsonl, table.json, sid_vocab.json: raw ids, titles and semantic IDs; prompt.json: the prompt',
  ]
  if is_theirs:
    lines += [
      '- config.json, model.safetensors, tokenizer.json: the model, as transformers reads it',
      '- recommend.py, generate.py: rank with torch and transformers, by the semantic IDs alone',
    ]
  return '\n'.join(lines) + '\n'
