"""Unused stage folders are listed and removed."""

from data_prep import prepare, prune
from data_prep.encoders import stage as encoder_stage
from tests.data_prep.prepare_test import NEIGHBOURS, make_config, outcomes, random_rows, write_raw
from tests.folders import contents


def test_prune_removes_everything_that_the_config_does_not_use(tmp_path, capsys):
  write_raw(tmp_path / 'raw', random_rows())
  first = make_config(tmp_path)
  other = make_config(tmp_path, {'text_pieces': 280}, {'codes': (4, 4)}, tasks=NEIGHBOURS)
  root = prepare.prepare(first)
  assert prune.unused(root) == {} and not prune.describe_unused(root)
  alone = contents(root)
  other_prepared = prepare.prepare(other)
  (tmp_path / 'out' / '.keywords.answers.jsonl').write_text('')
  (tmp_path / 'out' / '.sids.0123abcd.partial').mkdir()
  (tmp_path / 'out' / f'.interactions.beam-{"0f" * 8}').mkdir()
  (tmp_path / 'out' / encoder_stage.PARTS).mkdir()
  (tmp_path / 'out' / '.snapshot').mkdir()
  (tmp_path / 'out' / '.snapshot' / 'note').write_text('of the user')
  unused = {other_prepared.folders[name] for name in ('relations', 'sids', 'texts', 'tokenizer')}
  assert set(prune.unused(root)) == unused
  line = prune.describe_unused(root)
  assert '4 folders of 0.' in line and ', '.join(sorted(unused)) in line and '--prune' in line
  removed = prune.prune(first, prepare.prepare(first))
  assert set(removed) == unused | {
    '.sids.0123abcd.partial',
    f'.interactions.beam-{"0f" * 8}',
    encoder_stage.PARTS,
  }
  assert removed[other_prepared.folders['sids']] > 1000
  assert contents(root) == alone | {
    '.keywords.answers.jsonl': b'',
    '.snapshot/note': b'of the user',
  }
  # If the config uses variants, the usual folders are removed.
  other_prepared = prepare.prepare(other)
  prune.prune(other, other_prepared)
  assert not (root / 'sids').exists()
  assert prepare.find(other) == other.prepared == other_prepared
  assert prepare.find(first) is None
  capsys.readouterr()
  assert prepare.prepare(first) == root
  ran = {name for name, outcome in outcomes(capsys).items() if outcome == 'done'}
  assert ran == {'sids', 'texts', 'tokenizer'}
