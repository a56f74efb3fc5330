"""Amazon Industrial and Scientific (2018) as MiniOneRec and TS-Rec cut it, with their SIDs and keywords.

Command:   python -m recjax.main --config=configs/industrial.py:cpu --config.data.raw_dir=FOLDER
Hardware:  2 cores, or one accelerator without :cpu
Figure:    none yet.

FOLDER holds train/, valid/, test/, index/ and, for `--config.model.sid_rows=sa_init`, semantics/. The split
is the published one (global time, 8:1:1, at most ten items of history), the catalogue the published table.
Items that share a published SID are told apart by one level more; `--config.sids.collisions=keep` lets
them share it.
"""

from configs import common

_CATEGORY = 'Industrial_and_Scientific'


def get_config(variant: str = ''):
  config = common.experiment('minionerec', 'industrial', variant, category=_CATEGORY)
  config.data.k_core = 0
  config.data.split = 'source'
  config.data.catalogue = 'all'
  config.sids.quantizer = 'import'
  config.sids.table = f'index/{_CATEGORY}.index.json'
  config.sids.codes = (256, 256, 256)
  config.keywords.teacher = 'import'
  config.keywords.file = f'semantics/{_CATEGORY}.description_keywords.json'
  return config
