"""Runs recjax on the GPUs of a Slurm cluster, one process per GPU; preempted jobs are requeued.

  python -m launch.slurm --nodes=4 --gpus_per_node=8 --time=24:00:00 --config=configs/sports.py --workdir=W

writes a batch script and submits it with sbatch; --dry_run prints the script. Options that the launcher does not
know are passed to the program. See docs/slurm.md.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import re
import shlex
import subprocess
import sys

from launch.options import flag, not_negative, parse, positive
from recjax.runtime import exit_status

_NOTICE = 120  # seconds between SIGTERM and the time limit

# Without the trap, SIGTERM would end the shell before srun. With --kill-on-bad-exit=1, srun would kill the other
# processes as soon as the first one has saved; instead, the watchdog and --wait end remaining processes.
_SCRIPT = """\
#!/bin/bash
{directives}

set -uo pipefail
trap : TERM
cd {folder} || exit 1
echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${{SLURM_RESTART_COUNT:-0}}"

{nodes}srun --cpus-per-task={cpus} --kill-on-bad-exit=0 --wait=300{placement} {command}
status=$?

case $status in
  {restart_on})
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
      echo "status $status: the job is requeued and resumes"
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$status"
"""


# A part of the script of a job that may run on fewer nodes.
_ELASTIC = """\
nodes=$SLURM_JOB_NUM_NODES
if [ "$nodes" -lt {most} ]; then
  nodes=$({python} -m launch.elastic --workdir={workdir} --at_most="$nodes" --processes={processes}) || exit 1
  if [ "$nodes" -lt {least} ]; then
    echo "the run could go on with $nodes nodes, less than --min_nodes={least}"
    exit 1
  fi
  echo "the run goes on with $nodes of {most} nodes"
fi
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Submits the batch script; returns sbatch's exit status."""
  options, program = _parse(sys.argv[1:] if argv is None else argv)
  script = batch_script(options, program)
  if options.dry_run:
    print(script, end='')
    return 0
  pathlib.Path(options.logs).mkdir(parents=True, exist_ok=True)
  return subprocess.run(['sbatch'], input=script, text=True, check=False).returncode


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    'python -m launch.slurm', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--nodes', type=positive, default=1)
  parser.add_argument(
    '--min_nodes', type=positive, help='run on this many nodes or more while others are missing'
  )
  parser.add_argument('--gpus_per_node', type=positive, required=True)
  parser.add_argument('--cpus_per_gpu', type=positive, default=8)
  parser.add_argument(
    '--time', type=_time, required=True, help='time limit of one job, such as 24:00:00'
  )
  parser.add_argument('--name', default='recjax')
  parser.add_argument('--partition')
  parser.add_argument('--account')
  parser.add_argument(
    '--sbatch', action='append', default=[], help='additional directive, such as --sbatch=--mem=0'
  )
  parser.add_argument('--restarts', type=not_negative, default=100)
  parser.add_argument(
    '--logs', default='runs/slurm', help='folder of the logs; one file for each job'
  )
  parser.add_argument('--python', default=sys.executable, help='Python interpreter on the nodes')
  parser.add_argument('--dry_run', action='store_true', help='print the script and submit nothing')
  options, program = parse(parser, argv)
  options.logs = os.path.expanduser(options.logs)
  if flag(program, 'grace') is not None:
    parser.error(
      f'--grace is no option here: a job has {_NOTICE} seconds from SIGTERM to its time limit; leave it out'
    )
  if flag(program, 'workdir') is None:
    parser.error('--workdir must be a folder that all nodes share; it is missing')
  if options.min_nodes is not None and options.min_nodes > options.nodes:
    parser.error(f'--min_nodes must be at most --nodes={options.nodes}; got {options.min_nodes}')
  return options, program


def _time(text: str) -> str:
  """An argparse type: a time limit as sbatch reads it."""
  if not re.fullmatch(r'([0-9]+-)?[0-9]+(:[0-9]+){0,2}|infinite|unlimited', text, re.IGNORECASE):
    raise argparse.ArgumentTypeError(
      f'must be a time limit such as 24:00:00, 2-12 (days and hours) or 90 (minutes); got {text!r}'
    )
  return text


def batch_script(options: argparse.Namespace, program: list[str]) -> str:
  """Returns the batch script for sbatch."""
  is_elastic, nodes, placement = options.min_nodes is not None, '', ''
  if is_elastic:
    placement = f' --nodes="$nodes" --ntasks="$((nodes * {options.gpus_per_node}))"'
    nodes = _ELASTIC.format(
      most=options.nodes,
      least=options.min_nodes,
      python=shlex.quote(options.python),
      workdir=shlex.quote(flag(program, 'workdir')),
      processes=options.gpus_per_node,
    )
  directives = {
    'job-name': options.name,
    'nodes': f'{options.min_nodes}-{options.nodes}' if is_elastic else options.nodes,
    'ntasks-per-node': options.gpus_per_node,
    'gpus-per-node': options.gpus_per_node,
    'cpus-per-task': options.cpus_per_gpu,
    'time': options.time,
    'partition': options.partition,
    'account': options.account,
    'output': os.path.abspath(f'{options.logs}/%x-%j.log'),
    'open-mode': 'append',
    'signal': f'TERM@{_NOTICE}',
  }
  given = {name: shlex.quote(str(value)) for name, value in directives.items() if value is not None}
  lines = [f'--{name}={value}' for name, value in given.items()]
  command = [options.python, '-m', 'recjax.main', *program]
  return _SCRIPT.format(
    directives='\n'.join(f'#SBATCH {line}' for line in [*lines, '--requeue', *options.sbatch]),
    folder=shlex.quote(os.getcwd()),
    cpus=options.cpus_per_gpu,
    nodes=nodes,
    placement=placement,
    command=shlex.join(command),
    restart_on=' | '.join(map(str, exit_status.RESTART_ON)),
    restarts=options.restarts,
  )


if __name__ == '__main__':
  sys.exit(main())
