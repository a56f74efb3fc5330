"""Amazon Scientific (2018) as one file of sequences, leave-one-out.

Command:   python -m recjax.main --config=configs/scientific.py:cpu --config.data.raw_dir=FOLDER
Hardware:  2 cores, or one accelerator without :cpu
Figure:    none yet.

FOLDER holds Scientific.inter.json and Scientific.item.json; any other data set of this layout goes by
`--config.data.category` and `--config.data.name`. A SID table published beside them is taken with
`--config.sids.quantizer=import --config.sids.table=FILE --config.sids.codes='(256,256,256,256)'`.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.experiment('sequences_json', 'scientific', variant, category='Scientific')
  config.data.k_core = 0  # the published sequences are cut already
  return config
