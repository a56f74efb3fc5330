"""Writes papers.json: one sample of each task of each paper, in our form, beside the published fact; and docs/papers.md's tables.

  python -m tests.goldens.make_papers

The facts are those of the papers and of the authors' code. The world is the small rated world of the tests.
"""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.tasks import TASKS
from recjax.data.tasks.base import Draw
from tests.recjax.data import rated_world

FILE = pathlib.Path(__file__).with_name('papers.json')
PAGE = pathlib.Path(__file__).parents[2] / 'docs/papers.md'
END = '<!-- end of the samples -->'
UNIT = 11  # its history has several items, its user more than one rating
IIRG = {'show': 'both', 'learn': 'both'}
CAO = {'show': 'both', 'max_items': 5}


@dataclasses.dataclass(frozen=True)
class Sample:
  """A kind of sample of a paper.

  Attributes:
    paper: the paper, with its arXiv number.
    name: the paper's name of the task.
    task: ours.
    settings: fields of our component that follow the paper.
    published: the published fact.
    ours: the part that is not published.
    is_encoder_decoder: whether the paper's model is one.
  """

  paper: str
  name: str
  task: str
  settings: dict[str, Any]
  published: str
  ours: str
  is_encoder_decoder: bool = False


def _iirg(name: str, task: str, settings: dict[str, Any], published: str, ours: str) -> Sample:
  return Sample('IIRG, 2606.17276', name, task, settings, published, ours)


def _cao(name: str, task: str, settings: dict[str, Any], published: str, ours: str) -> Sample:
  return Sample('Cao et al., 2404.00245', name, task, CAO | settings, published, ours, True)


def _ts_rec(name: str, task: str, settings: dict[str, Any], published: str, ours: str) -> Sample:
  return Sample('TS-Rec, 2602.22632; MiniOneRec, 2510.24431', name, task, settings, published, ours)


SAMPLES = (
  _iirg(
    'stage A: title to SID', 'title_to_sid', {},
    'title → SID of every item; only the new rows are trained', 'the wordings',
  ),
  _iirg(
    'stage B: next item', 'next_item', IIRG | {'max_items': 20},
    'the first item line of the last 20 items → all later lines of the training part, SID and title tokens in the '
    'loss; one sample a user',
    'the form of a line; a longer history gives overlapping windows; the search continues the same lines (theirs puts '
    'them into the user turn)',
  ),
  _iirg(
    'stage B: collaborative neighbours', 'collaborative_neighbours', IIRG | {'k': 5},
    'item line → 5 item lines, most often bought together first; one sample an item', 'the wordings',
  ),
  _iirg(
    'stage B: semantic neighbours', 'semantic_neighbours', IIRG | {'k': 5},
    'item line → 5 item lines, most similar first; one sample an item', 'the wordings',
  ),
  _cao(
    'retrieval', 'next_item', {},
    'purchases in order, each as id and title → the next item', 'the answer is the SID, so that the search ranks it',
  ),
  _cao(
    'ranking', 'ranking', {'candidates': 4},
    'trained as a task; the number of candidates is not known', 'the best of the candidates as SID',
  ),
  _cao('rating prediction', 'rating', {}, 'trained as a task', 'history with ratings → the number'),
  _cao(
    'MIM', 'mim', {'learn': 'both'},
    'random items replaced by a mask → the masked items as id and title', 'the share of masked items',
  ),
  _cao(
    'MLM', 'mlm', {'sentinels': 't5'},
    'span masking as in T5 over the text of the purchase sequence', 'rate and length of spans are those of T5',
  ),
  _cao(
    'BPR', 'bpr', {},
    'a liked and a not liked item of one user → the liked one', 'how the other item is drawn; the answer is the SID',
  ),
  _ts_rec(
    'SID history to SID', 'next_item', {'max_items': 11},
    'at most 10 items of history → SID of the next item; loss on the answer alone',
    'a decoder learns every position of a window at once; no line break and no end after the SID',
  ),
  _ts_rec('title to SID', 'title_to_sid', {}, 'title → SID', 'one sample for every item; theirs, one for every distinct title'),
  _ts_rec('SID to title', 'sid_to_title', {}, 'SID → title', 'one sample for every item; theirs, one for every distinct SID'),
  _ts_rec(
    'SID history to title', 'history_to_title', {'max_items': 11},
    'at most 10 items of history → title of the next item', 'the wordings',
  ),
  _ts_rec(
    'TS-Align: token to description', 'token_to_description', {},
    "one SID token → the teacher's description of its items", 'the wordings',
  ),
  _ts_rec(
    'TS-Align: description to token', 'description_to_token', {},
    "the teacher's description → its SID token", 'the wordings',
  ),
  _ts_rec(
    'title history to SID (MiniOneRec alone)', 'next_item', {'max_items': 11, 'show': 'title'},
    'history of titles → SID of the next item', 'the wordings',
  ),
  _ts_rec(
    'title history to title (MiniOneRec alone)', 'history_to_title', {'max_items': 11, 'show': 'title'},
    'history of titles → title of the next item', 'the wordings',
  ),
)  # fmt: skip


def samples(dataset: Dataset) -> list[dict[str, Any]]:
  """Returns every sample with its facts and its text."""
  corpora = {kind: Corpus(dataset, is_encoder_decoder=kind) for kind in (False, True)}
  found = []
  for sample in SAMPLES:
    corpus, component = corpora[sample.is_encoder_decoder], TASKS[sample.task](**sample.settings)
    unit = UNIT % component.num_units(corpus)
    example = component.example(corpus, unit, Draw(0, 0))
    all_learnt = np.ones(len(example.targets), bool)
    learnt = example.targets[all_learnt if example.learnt is None else example.learnt]
    read = dataset.vocabulary.decode
    text = {
      name: ' '.join(read(ids).split())
      for name, ids in (
        ('inputs', example.inputs),
        ('targets', example.targets),
        ('learnt', learnt),
      )
    }
    found.append(dataclasses.asdict(sample) | text)
  return found


def with_tables(page: str, found: list[dict[str, Any]]) -> str:
  """Returns a page with the samples of each paper between its marker and `END`."""
  for paper in dict.fromkeys(sample['paper'] for sample in found):
    rows = [
      f'| {sample["name"]} | {sample["published"]} | {sample["ours"]} | `{sample["inputs"]}` | `{sample["targets"]}` |'
      for sample in found
      if sample['paper'] == paper
    ]
    head = ['| sample | published | ours | input | answer |', '|---|---|---|---|---|']
    begin = f'<!-- samples of {paper}: python -m tests.goldens.make_papers -->'
    start, end = page.index(begin) + len(begin), page.index(END, page.index(begin))
    page = page[:start] + '\n' + '\n'.join([*head, *rows]) + '\n' + page[end:]
  return page


def main() -> None:
  with tempfile.TemporaryDirectory() as folder:
    dataset = rated_world.prepared(pathlib.Path(folder))[1]
    found = samples(dataset)
  FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n')
  PAGE.write_text(with_tables(PAGE.read_text(), found))


if __name__ == '__main__':
  main()
