"""Writes the samples of docs/papers.md: one example of every component of the papers' `:tiny` configs.

python -m tests.goldens.make_papers
"""

import importlib
import pathlib
import re
import tempfile

from data_prep import prepare
from recjax import config as config_lib
from recjax import train
from recjax.data.dataset import Dataset
from tests.goldens.make_tasks import examples

PAGE = pathlib.Path(__file__).parents[2] / 'docs/papers.md'
PAPERS = ('iirg', 'rec_knowledge', 'ts_rec')


def samples(name: str, folder: pathlib.Path) -> str:
  """Returns the samples of a paper as Markdown: one line for the input and one for the answer of each component.

  Args:
    name: a config of `PAPERS`.
    folder: the folder of the prepared data of its `:tiny`; they are prepared if they are missing.
  """
  config_dict = importlib.import_module(f'configs.{name}').get_config('tiny')
  config_dict.data.prepared_dir = str(folder)
  config = config_lib.from_config_dict(config_dict)
  mix = train.make_mixture(config, Dataset.load(prepare.prepare(config)))
  lines = []
  for component, sample in examples(mix).items():
    lines += [f'{component:<24} {sample["inputs"]}', f'{"→":>24} {sample["targets"]}']
  return '\n'.join(lines)


def replaced(page: str, name: str, text: str) -> str:
  """Returns the page with the samples of a paper."""
  begin, end = f'<!-- samples of {name} -->\n```text\n', '\n```'
  pattern = re.compile(re.escape(begin) + '.*?' + re.escape(end), re.DOTALL)
  return pattern.sub(lambda _: begin + text + end, page)


def main() -> None:
  page = PAGE.read_text()
  with tempfile.TemporaryDirectory() as folder:
    for name in PAPERS:
      page = replaced(page, name, samples(name, pathlib.Path(folder)))
  PAGE.write_text(page)


if __name__ == '__main__':
  main()
