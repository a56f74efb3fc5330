"""Fakes of gcloud, kubectl, sbatch, srun and scontrol: they record their calls and return planned answers."""

import json
import os
import pathlib
import subprocess
import sys

from tests.folders import ROOT

# Each call takes the next answer of the first entry whose words are all among the arguments. The last answer of
# an entry is repeated. `then` of an answer changes the plan for later calls.
_PROGRAM = """\
#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
stdin = '' if sys.stdin is None or sys.stdin.isatty() or name != 'sbatch' else sys.stdin.read()
with (folder / 'calls.jsonl').open('a') as file:
  file.write(json.dumps([name, *arguments, stdin]) + '\\n')
plan = json.loads((folder / 'plan.json').read_text())
for key, answers in plan.items():
  if all(word in (name, *arguments) for word in key.split()):
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    (folder / 'plan.json').write_text(json.dumps(plan | answer.get('then', {{}})))
    print(answer.get('out', ''))
    print(answer.get('err', ''), file=sys.stderr)
    sys.exit(answer.get('status', 0))
sys.exit('no plan for ' + ' '.join([name, *arguments]))
"""


class Fakes:
  """A folder of fakes that is first on PATH."""

  def __init__(self, folder: pathlib.Path, *names: str, plan: dict[str, list[dict]]):
    self._folder = folder
    (folder / 'plan.json').write_text(json.dumps(plan))
    (folder / 'calls.jsonl').touch()
    for name in names:
      path = folder / name
      path.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
      path.chmod(0o755)
    self.env = os.environ | {'PATH': f'{folder}:{os.environ["PATH"]}'}

  def run(self, *command: str, cwd: pathlib.Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """Runs a command with the fakes on PATH."""
    return subprocess.run(
      command, cwd=cwd, env=self.env | env, capture_output=True, text=True, timeout=120, check=False
    )

  def calls(self) -> list[list[str]]:
    """Returns name, arguments and standard input of every call so far."""
    lines = (self._folder / 'calls.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def shellcheck(script: str, tmp_path: pathlib.Path, shell: str = 'bash') -> None:
  """Asserts that shellcheck and bash accept the script."""
  path = tmp_path / 'script.sh'
  path.write_text(script)
  checker = pathlib.Path(sys.executable).with_name('shellcheck')
  for command in (['bash', '-n', path], [checker, f'--shell={shell}', path]):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
