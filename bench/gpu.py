"""Everything that a GPU is measured by, part by part; the results name the card, the versions and the commit.

  attention              do the attention paths agree, and which is the fastest
  search                 users a second of the constrained search
  decode                 the search beside `generate` of transformers
  t5_base, gemma3_1b, …  training of a published size in bfloat16, packed rows of 1,024 tokens, beside transformers
                         eager and with torch.compile; share of the peak (MFU), peak memory
  resume                 seconds from a start or a resume to the first step, and of a save
  beauty, sports         the best recipe, as far as it comes in its time; the same command goes on where it ended
  profile                traces two steps of --profile_of, for the part that is too slow

Every part is a process of its own with a time limit (--limit, or LIMITS). A part that fails, or reaches its limit, is
recorded as such, and the next one runs. --out is written after each part. --remat=full trains with less memory.

Commands, in a checkout on a machine with JAX, PyTorch and transformers for its GPU:
  python -m bench.gpu --parts=attention,search,decode --out=kernels.json
  python -m bench.gpu --parts=t5_base,gemma2_2b,gemma3_1b --out=training.json
  python -m bench.gpu --parts=beauty --data=beauty=FOLDER --scratch=runs/gpu --out=beauty.json
  python -m bench.gpu --tiny --out=tiny.json      (all parts with small shapes, in minutes, also on CPU)
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

# Other processes need memory of the same GPU.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

from absl import app, flags

from bench.circumstances import circumstances, show, start_with_one_heap, write
from bench.train_step import SMALL
from recjax.models import families

RECIPES = ('beauty', 'sports')
PARTS = ('attention', 'search', 'decode', 't5_base', 'gemma2_2b', 'gemma3_1b', 'resume', *RECIPES)
LIMITS = {'beauty': 600, 'sports': 600}  # seconds; other parts have --limit

_PARTS = flags.DEFINE_list(
  'parts', list(PARTS), f'Parts to run, in this order: of {", ".join(PARTS)}, profile, or sizes.'
)
_TINY = flags.DEFINE_bool('tiny', False, 'Use small shapes, to test that all parts run.')
_LIMIT = flags.DEFINE_integer('limit', 230, 'Seconds of a part.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 8, 'Rows of a training batch.')
_DATA = flags.DEFINE_list(
  'data', [], 'Folders with the raw data of beauty and sports, as beauty=FOLDER.'
)
_SCRATCH = flags.DEFINE_string(
  'scratch',
  None,
  'Folder of prepared data and runs, which a later call goes on with; None: a temporary one.',
)
_PROFILE_OF = flags.DEFINE_string('profile_of', 'recjax:beauty:gpu', 'Config of the part profile.')


def command(part: str, scratch: pathlib.Path, out: pathlib.Path) -> list[str]:
  """Returns the words after `python -m` that run a part; its result is in `out`, or in the workdir of a recipe."""
  common = [f'--out={out}', '--commit=as above', *(['--tiny'] if _TINY.value else [])]
  if part in ('attention', 'search'):
    return ['bench.gpu_kernels', f'--parts={part}', *common]
  if part == 'decode':
    return ['bench.decode', '--parts=transformers', *common]
  if part == 'resume':
    config = '--config=configs/demo.py' + (':tiny' if _TINY.value else '')
    # The cache of compiled programs is one of the things that are measured.
    few = ['--saves=1', '--save_every=5'] if _TINY.value else ['--saves=3', '--save_every=10']
    prepared = f'--config.data.prepared_dir={scratch}/resume'
    # It must still train when it is asked to end.
    long = ['--config.num_train_steps=100000', '--config.eval_every_steps=100000']
    return ['bench.resume', config, *few, *common[:2], '--', prepared, *long]
  if part in (*RECIPES, 'profile'):
    return ['recjax.main', *_recipe(part, scratch)]
  shape = {'rows': _BATCH.value, 'row_length': 1024, 'decoder_row_length': 256, 'segments': 8}
  if _TINY.value:
    shape = {'rows': 2, 'row_length': 32, 'decoder_row_length': 16, 'segments': 2, 'steps': 1}
  shape |= {
    'models': SMALL if _TINY.value else part,
    'dtype': 'bfloat16',
    'remat': flags.FLAGS.remat,
  }
  return ['bench.train_step', *(f'--{flag}={value}' for flag, value in shape.items()), *common[:2]]


def _recipe(part: str, scratch: pathlib.Path) -> list[str]:
  """Returns the flags of a training of the best recipe."""
  folders = dict(pair.partition('=')[::2] for pair in _DATA.value)
  config = _PROFILE_OF.value if part == 'profile' else f'configs/{part}.py:gpu'
  if _TINY.value:
    config = 'configs/demo.py:tiny'
  arguments = [f'--config={config}', f'--workdir={scratch}/{part}']
  arguments.append(f'--config.data.prepared_dir={scratch}/{"data" if _TINY.value else part}_data')
  if (folder := folders.get(part)) is not None and not _TINY.value:
    arguments.append(f'--config.data.raw_dir={folder}')
  if part == 'profile':
    # The first steps compile; a trace of two is small enough to copy.
    arguments += ['--config.profile.steps=(8, 9)', '--config.num_train_steps=10']
  return arguments


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns what a recipe has reached: its metrics if it ended, the use of its time, its speed and peak memory."""
  found: dict[str, Any] = {}
  if (path := workdir / 'evaluation.json').exists():
    evaluation = json.loads(path.read_text())
    found |= {name: evaluation[name] for name in ('step', 'metrics', 'baselines')}
  if (path := workdir / 'goodput.json').exists():
    found['goodput'] = json.loads(path.read_text())['summary']
  if (path := workdir / 'metrics.jsonl').exists():
    rows = [json.loads(line) for line in path.read_text().splitlines()[:-1] if line]
    timed = [row for row in rows if 'tokens_per_sec' in row]
    names = ('step', 'loss', 'tokens_per_sec', 'host_peak_bytes', 'device_peak_bytes')
    found['last'] = {name: timed[-1][name] for name in names if timed and name in timed[-1]}
  return found


def run(part: str, scratch: pathlib.Path) -> Any:
  """Runs a part in a new process; returns its results, with `failed` if it did not end well."""
  limit = LIMITS.get(part, _LIMIT.value) if not flags.FLAGS['limit'].present else _LIMIT.value
  out = scratch / f'{part}.json'
  out.unlink(missing_ok=True)
  started = time.monotonic()
  words = [sys.executable, '-m', *command(part, scratch, out)]
  process = subprocess.Popen(words, start_new_session=True)
  try:
    status = process.wait(limit)
    failed = f'exit status {status}' if status else ''
  except subprocess.TimeoutExpired:
    failed = f'reached the limit of {limit} s'
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
  found: Any = json.loads(out.read_text()) if out.exists() else {}
  if part in ('attention', 'search') and part in found:
    found = found[part]
  if part in (*RECIPES, 'profile'):
    found = outcome(scratch / part)
  ended = {'seconds': time.monotonic() - started} | ({'failed': failed} if failed else {})
  return [*found, ended] if isinstance(found, list) else found | ended


def main(_) -> None:
  known = {*PARTS, 'profile', *families.sizes()}
  if unknown := [part for part in _PARTS.value if part not in known]:
    raise app.UsageError(
      f'--parts must be of {", ".join(PARTS)}, profile, or published sizes; got {", ".join(unknown)}'
    )
  results: dict[str, Any] = {'circumstances': circumstances()}
  show(results['circumstances'])
  with tempfile.TemporaryDirectory(prefix='recjax-gpu-') as folder:
    scratch = pathlib.Path(_SCRATCH.value or folder).absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    for part in _PARTS.value:
      print(f'-- {part}', flush=True)
      results[part] = run(part, scratch)
      write(results)  # after each part, so that an end of the machine loses one at most
      failed = results[part][-1] if isinstance(results[part], list) else results[part]
      if 'failed' in failed:
        print(f'{part}: {failed["failed"]}', flush=True)
  if not any(isinstance(r, list) or 'failed' not in r for n, r in results.items() if n in known):
    sys.exit('no part ended well')


if __name__ == '__main__':
  start_with_one_heap()
  app.run(main)
