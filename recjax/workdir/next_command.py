"""Commands that follow a run, in the form in which the user typed this one."""

import os
import shlex
import sys

from recjax.runtime.program import program
from recjax.workdir import refresh_file
from recjax.workdir.request import Request

_FILES = '--histories=histories.jsonl --out=ranked.jsonl'
_KEPT = {
  'train': 'the same command continues from what is saved',
  'prepare': 'finished stages are kept; the same command continues',
  'refresh': 'the same command continues from what is saved',
  'recommend': 'finished parts are kept; the same command continues',
}


def same() -> str:
  """Returns this command; of a launched process only words, since its launcher has the command."""
  if 'RECJAX_NUM_PROCESSES' in os.environ:
    return 'the same command of the launcher'
  return ' '.join([program(), *map(shlex.quote, sys.argv[1:])])


def interrupted(mode: str) -> str:
  """Returns the line of a process that Ctrl-C ended before a step was saved."""
  return f'interrupted: {_KEPT.get(mode, "nothing was written")}: {same()}'


def after(request: Request, status: int = 0) -> str:
  """Returns what to do after a finished mode, with a command if there is one.

  Args:
    request: the finished command.
    status: its exit status; not 0: a refresh with the verdict no-go.
  """
  workdir, out = request.workdir, request.out
  report = workdir / 'report.html'
  if request.mode == 'prepare':
    return training()
  if request.mode == 'recommend':
    return f'read {out}, or in Python recjax.load({str(workdir)!r})'
  if request.mode == 'serve':
    return same()
  if request.mode == 'export':
    if request.format == 'vectors':
      return f'train with {shlex.quote(f"--config.sids.item_vectors={out}")} and the same raw files'
    if request.format == 'bundle':
      script = shlex.quote(os.path.join(out, 'rank.py'))
      return f'python {script} histories.jsonl ranked.jsonl (needs jax)'
    script = shlex.quote(os.path.join(out, 'recommend.py'))
    return f'python {script} {_FILES} (needs torch and transformers)'
  if status:
    return f'keep {request.source}; {workdir / refresh_file.TEXT} names the reason'
  if request.mode in ('train', 'refresh'):
    return f'open {report}, or {_recommend(workdir)}'
  return f'open {report}'


def training() -> str:
  """Returns this command without its mode: it trains."""
  kept = []
  for before, argument in zip(['', *sys.argv[1:]], sys.argv[1:], strict=False):
    name = argument.lstrip('-').partition('=')[0]
    is_value = before.lstrip('-') in ('mode', 'out')
    if (argument.startswith('-') and name in ('mode', 'out', 'prune', 'noprune')) or is_value:
      continue
    kept.append(argument)
  return ' '.join([program(), *map(shlex.quote, kept)])


def _recommend(workdir: os.PathLike) -> str:
  return f'{program()} {shlex.quote(f"--workdir={workdir}")} --mode=recommend {_FILES}'
