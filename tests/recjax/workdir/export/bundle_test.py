"""Bundles rank as recjax does, in a process that can import jax alone; damaged ones are refused."""

import ast
import json
import pathlib
import shutil
import subprocess
import sys

from etils import epath
import jax
import numpy as np
import pytest

from recjax.decode.blend import Weights
from recjax.recommend import make_ranker
from recjax.schema.blend import Memory, Text
from recjax.sharding import mesh as mesh_lib
from recjax.workdir.export import bundle, folder, formats, loading
from recjax.workdir.request import Request
from tests.recjax.workdir.export import exports

# Packages of an environment with jax alone.
ALONE = ('jax', 'jaxlib', 'numpy', 'numpy.libs', 'scipy', 'scipy.libs', 'ml_dtypes', 'opt_einsum')


def write(out, config, dataset, weights=None, batches=(8,), beams=()):
  params, mesh = exports.random_params(config, dataset), mesh_lib.make_mesh(config.mesh)
  bundle.check(str(out), config, dataset)
  bundle.write(str(out), config, dataset, mesh, params, weights or Weights(), beams, batches)
  return params


def run(out, *arguments):
  """Runs rank.py of a bundle, then the program of its README.md, where no package is but jax and those that jax needs."""
  site = out.parent / 'site'
  if not site.exists():
    site.mkdir()
    for package in ALONE:
      (site / package).symlink_to(pathlib.Path(jax.__file__).parents[1] / package)
  paths = [str(site), str(out)]
  lines = (
    'import runpy, sys',
    f'sys.path[:0] = {paths}',
    'sys.argv = sys.argv[1:]',
    'runpy.run_path(sys.argv[0], run_name="__main__")',
    'exec(open("shown.py").read())',
  )
  readme = (out / 'README.md').read_text()
  block = readme[readme.index('    import pathlib') : readme.index('\n\n- loader.py')]
  (out.parent / 'shown.py').write_text(block.replace('\n    ', '\n').strip())
  command = [sys.executable, '-I', '-S', '-W', 'error', '-c', '; '.join(lines), out / 'rank.py']
  return subprocess.run(
    [*command, *arguments], cwd=out.parent, capture_output=True, text=True, check=False
  )


def assert_same(made, config, dataset, weights=None, batches=(8,), beams=(), atol=5e-5):
  """Asserts that a bundle, `out` in a folder, has the recommendations of recjax within a part of the items."""
  params = write(made / 'out', config, dataset, weights, batches, beams)
  within = [item['id'] for n, item in enumerate(dataset.items) if n % 5]
  (made / 'within.txt').write_text('\n'.join([*within, 'gone', '']))
  width = beams[-1] if beams else config.eval.beams
  config = exports.with_(config, 'eval', beams=width)
  ours = exports.recommended(made, config, dataset, params, weights, within)
  flags = (f'--beams={width}', f'--k={width}', f'--within={made / "within.txt"}')
  done = run(made / 'out', made / 'h.jsonl', made / 't.jsonl', *flags, '--skip_unknown')
  assert done.returncode == 0, done.stderr[-3000:]
  (made / 'shown.txt').write_text(done.stdout.partition('\n')[2])
  theirs = (made / 't.jsonl').read_text().splitlines()
  exports.assert_same(ours, list(map(json.loads, theirs)), atol)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A bundle with notes in its prompts and with items that share a SID, and what recjax recommends."""
  folder = tmp_path_factory.mktemp('bundle')
  config, dataset = exports.rated(gaps=True, events=True)
  config = exports.with_(config, 'eval', beam_widths=(5,))
  assert_same(folder, config, dataset, beams=(24, 12))
  return folder


def test_a_bundle_ranks_alike_with_jax_alone_and_holds_what_engines_read(made):
  out = made / 'out'  # the fixture has compared the recommendations
  lines = [json.loads(line) for line in (out / 'items.jsonl').read_text().splitlines()]
  table, sids = (json.loads((out / name).read_text()) for name in ('table.json', 'sid_vocab.json'))
  for line in lines:
    assert table[line['item']] == line['tokens']
    codes = [token.strip('<>').split('_')[1] for token in line['tokens']]
    assert line['item'] in sids[','.join(codes)]
  assert sorted(item for items in sids.values() for item in items) == sorted(table)
  # The weights are stored once: the searches hold less than a tenth of them.
  assert {path.name for path in out.glob('*.stablehlo')} == {
    'prepare.stablehlo',
    'search_8x5x24.stablehlo',
    'search_8x5x12.stablehlo',
  }
  info = json.loads((out / 'bundle.json').read_text())
  assert info['platforms'] == ['cpu', 'cuda', 'tpu']
  assert {'config.json', 'model.safetensors', 'tokenizer.json', 'recommend.py'} <= set(
    info['files']
  )


@pytest.mark.parametrize(
  ('name', 'change'),
  [
    ('model.safetensors', lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    ('bundle.json', lambda content: content.replace(b'"least": 64', b'"least": 65')),
    ('items.jsonl', None),
    ('SHA256SUMS', lambda content: content[content.index(b'\n') + 1 :]),
    ('prompt.json', lambda content: content.replace(b'"beams": 24', b'"beams": 23')),
  ],
)
def test_a_damaged_or_swapped_file_is_refused(made, tmp_path, name, change):
  out = shutil.copytree(made / 'out', tmp_path / 'out')
  if change is None:
    (out / name).unlink()
  else:
    (out / name).write_bytes(change((out / name).read_bytes()))
  sums = exports.module(out / 'sums.py')
  with pytest.raises(ValueError, match=r'must be the file that was exported') as caught:
    sums.check(out)
  first = json.loads((made / 'out' / 'bundle.json').read_text())['files'][0]
  assert f'{out / (first if name == "SHA256SUMS" else name)} ' in str(caught.value)
  assert '\n' not in str(caught.value)


def test_the_places_of_arrays_are_those_of_safetensors(made):
  from safetensors import numpy as safetensors

  info = json.loads((made / 'out' / 'bundle.json').read_text())
  expected = {}
  for name in ('model.safetensors', 'search.safetensors'):
    expected |= safetensors.load_file(made / 'out' / name)
  assert info['arrays'].keys() == expected.keys()
  for name, (file, first, dtype, shape) in info['arrays'].items():
    x = np.fromfile(made / 'out' / file, dtype, expected[name].size, offset=first).reshape(shape)
    np.testing.assert_array_equal(x, expected[name])


def test_the_loader_is_short_and_the_readme_of_a_bundle_shows_its_use(made):
  out = made / 'out'
  parsed = ast.parse((out / 'loader.py').read_text())
  statements = [each for each in ast.walk(parsed) if isinstance(each, ast.stmt)]
  names = [
    alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names
  ]
  assert names == ['json', 'math', 'jax', 'jax.export', 'numpy']
  is_text = [isinstance(each, ast.Expr | ast.Import) for each in statements]  # docstrings, imports
  assert len(statements) - sum(is_text) <= 22
  config, dataset = exports.rated(gaps=True, events=True)
  config = exports.with_(config, 'eval', beam_widths=(5,))
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh))
  params = exports.random_params(config, dataset)
  expected = ranker.rank(params, [np.arange(2, dtype=np.int32)], few_shapes=8)[0]
  assert (made / 'shown.txt').read_text().strip(' []\n').split() == list(
    map(str, expected[0].tolist())
  )
  rank = exports.module(out / 'rank.py').Recommender(check=False)
  ids = [item['item'] for item in rank.items]
  for arguments, message in (
    ({'beams': 8}, 'beams must be 24 or 12; got 8'),
    ({'beams': 12, 'k': 13}, 'k must be from 1 to 12, the beams of the search; got 13'),
    ({'within': ['gone']}, 'within must leave at least one item'),
    ({'within': []}, 'within must leave at least one item'),
    ({'times': [[0, 10**400]]}, 'times must be numbers of seconds'),
  ):
    with pytest.raises(ValueError, match=message):
      rank.recommend([ids[:2]], **arguments)


def test_the_files_are_checked_before_the_ranking(made, monkeypatch):
  rank = exports.module(made / 'out' / 'rank.py')
  monkeypatch.setattr(rank, 'Recommender', pytest.fail)
  for names, message in (
    (('h.jsonl', 'nowhere/t.jsonl'), 'NotADirectoryError: the folder of the output must exist'),
    (('h.jsonl.gz', 't.jsonl'), 'ValueError: the histories must be plain JSON lines'),
  ):
    monkeypatch.setattr('sys.argv', ['rank.py', *(str(made / name) for name in names)])
    with pytest.raises(SystemExit, match=message):
      rank.main()


def test_a_bundle_is_read_back_if_its_codes_rank_alone(made, tmp_path):
  data = loading.read(made / 'out')[0]
  assert [item['id'] for item in data.items] == [f'i{n:02}' for n in range(24)]
  info = json.loads((made / 'out' / 'bundle.json').read_text())
  for changed, message in (
    ({'weights': {'head': 0.0, 'memory': 0.7}}, 'has scores of memory. Run its rank.py'),
    ({'prepare': None}, 'has a model that transformers does not know. Run its rank.py'),
  ):
    (tmp_path / 'bundle.json').write_text(json.dumps(info | changed))
    with pytest.raises(ValueError, match=message):
      loading.read(tmp_path)


def test_the_format_of_a_command_chooses_the_writer(tmp_path, monkeypatch):
  config, dataset = exports.rated()
  params, mesh = exports.random_params(config, dataset), mesh_lib.make_mesh(config.mesh)
  written = []
  for module, name in ((bundle, 'bundle'), (folder, 'transformers')):
    monkeypatch.setattr(module, 'write', lambda *values, name=name: written.append((name, *values)))
  for name in ('transformers', 'bundle'):
    request = Request(
      config=config,
      mode='export',
      workdir=epath.Path(tmp_path),
      out=str(tmp_path / 'out'),
      format=name,
      beams=(20, 5) if name == 'bundle' else (),
    )
    formats.check(request, config, dataset)
    formats.write(request, config, dataset, mesh, params, 4)
  both = (request.out, config, dataset)
  assert written == [
    ('transformers', *both, params),
    ('bundle', *both, mesh, params, Weights(), (20, 5)),
  ]
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'of_another').touch()
  with pytest.raises(FileExistsError, match='--out must be a new or an empty folder'):
    formats.check(request, config, dataset)


def test_a_failed_bundle_leaves_nothing(tmp_path, monkeypatch):
  config, dataset = exports.rated()

  def fails(*_):
    assert list(tmp_path.iterdir())  # most of the folder has been written
    raise OSError('no space')

  monkeypatch.setattr(bundle.stablehlo, 'save', fails)
  for family in ('gemma', 'sasrec'):  # with and without the files of transformers
    with pytest.raises(OSError, match='no space'):
      write(tmp_path / 'out', exports.with_(config, 'model', family=family), dataset)
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.parametrize(
  ('counts', 'vectors'),
  [('none', 'none'), ('transitions', 'none'), ('neighbours', 'encoder'), ('none', 'encoder')],
)
def test_an_item_decoder_ranks_alike_with_its_head_and_lookups(tmp_path, counts, vectors):
  config, dataset = exports.rated('item_decoder', collisions='deduplicate', prompts=('{history}',))
  config = exports.with_(config, 'model', item_rows=True, item_head=True, kv_heads=2)
  memory, text = Memory(counts=counts, candidates=7), Text(vectors=vectors, candidates=5)
  config = exports.with_(config, 'eval', memory=memory, text=text, beams=11)
  is_used = {'memory': counts != 'none', 'text': vectors != 'none'}
  weights = Weights(0.6, **{name: 0.3 * is_used[name] for name in is_used})
  assert_same(tmp_path, config, dataset, weights, (1, 8))


@pytest.mark.soak
@pytest.mark.parametrize(
  'kind', ['gemma3', 'llama3', 'qwen2', 'qwen3', 'qwen3_5', 't5_v1_0', 'mt5']
)
def test_every_family_ranks_alike(tmp_path, kind):
  # The norm inside linear attention enlarges rounding errors.
  config, dataset = exports.pretrained(tmp_path, kind, kind == 'qwen3')
  assert_same(tmp_path, config, dataset, batches=(2, 8), atol=1e-3 if kind == 'qwen3_5' else 5e-5)


@pytest.mark.soak
@pytest.mark.parametrize(
  ('family', 'fields'),
  [
    ('gemma', {'show': 'both', 'learn': 'both', 'gaps': True, 'events': True}),
    ('t5', {'show': 'title', 'gaps': True}),
    ('gemma', {'context': ('view',), 'gaps': True}),
  ],
)
def test_titles_notes_and_context_are_read_alike(tmp_path, family, fields):
  config, dataset = exports.rated(family, **fields)
  config = exports.with_(config, 'eval', shared_sids='first' if 'learn' in fields else 'all')
  config = exports.with_(config, 'model', sid_softmax='full' if family == 't5' else 'level')
  assert_same(tmp_path, config, dataset)
