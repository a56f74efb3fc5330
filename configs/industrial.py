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
  small = variant in common.SMALL  # for two cores
  config = common.start_minionerec('industrial', 'Industrial_and_Scientific')
  config.eval.ks = (1, 3, 5, 10, 20, 50)
  config.eval.beams = 50
  config.model.depth = 4
  config.model.width = 128
  config.model.ff_width = 512
  config.model.heads = 4
  config.model.dropout = 0.2
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 64 if small else 256
  config.num_train_steps = 2000 if small else 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return common.vary(config, variant)
