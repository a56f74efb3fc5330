"""Amazon Industrial and Scientific (2018) with the split, the SIDs and the keywords of MiniOneRec and TS-Rec.

Command:   python -m recjax.main --config=configs/industrial.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none.

FOLDER holds train/, valid/, test/, index/ and, for `--config.model.sid_rows=sa_init`, semantics/. The split is
the published one (global time, 8:1:1), the catalogue the published table. The protocol is that of both papers: ten items
of history, items that share a published SID keep it, items of the history may be recommended (2.8 % of the test targets
are in their own history), 50 beams, cut-offs 1, 3, 5, 10, 20 and 50. The papers count hits of SIDs: compare
`sid_recall@k` and `sid_ndcg@k` with them, not `recall@k`, which counts hits of items.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.start_minionerec('industrial', 'Industrial_and_Scientific')
  config.eval.ks = (1, 3, 5, 10, 20, 50)
  config.eval.beams = 50
  return common.vary(common.flat(config, variant), variant)
