"""Amazon Industrial and Scientific (2018) with the split, the SIDs and the keywords of MiniOneRec and TS-Rec.

Command:   python -m recjax.main --config=configs/industrial.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none.

FOLDER holds train/, valid/, test/, index/ and, for `--config.model.sid_rows=sa_init`, semantics/. The split is
the published one (global time, 8:1:1, at most ten items of history), the catalogue the published table. Items
that share a published SID get an additional level; with `--config.sids.collisions=keep` they share it.
"""

from configs import common

_CATEGORY = 'Industrial_and_Scientific'


def get_config(variant: str = ''):
  small = variant in common.SMALL  # for two cores
  config = common.start('minionerec', 'industrial', category=_CATEGORY)
  config.data.k_core = 0
  config.data.split = 'source'
  config.data.catalogue = 'all'
  config.keywords.teacher = 'import'
  config.keywords.file = f'semantics/{_CATEGORY}.description_keywords.json'
  config.sids.quantizer = 'import'
  config.sids.table = f'index/{_CATEGORY}.index.json'
  config.sids.codes = (256, 256, 256)
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
