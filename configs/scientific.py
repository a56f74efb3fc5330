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
  small = variant in common.SMALL  # for two cores
  config = common.start('sequences_json', 'scientific', category='Scientific')
  config.data.k_core = 0  # the published sequences are already filtered
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
