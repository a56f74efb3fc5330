"""Amazon Scientific (2018) as one file of sequences, leave-one-out.

Command:   python -m recjax.main --config=configs/scientific.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none.

FOLDER holds Scientific.inter.json and Scientific.item.json. For another data set of this layout set
`--config.data.category` and `--config.data.name`. For a SID table that was published with the data, set
`--config.sids.quantizer=import --config.sids.table=FILE --config.sids.codes='(256,256,256,256)'`.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.start('sequences_json', 'scientific', category='Scientific')
  config.data.k_core = 0  # the published sequences are already filtered
  config.sids.codes = (256, 256, 256)
  return common.vary(common.flat(config, variant), variant)
