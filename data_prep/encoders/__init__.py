"""Text encoders, which map item texts to unit vectors. `choice` lists the values of `sids.encoder`."""

from data_prep.encoders.choice import encode, input_files, kind

__all__ = ['encode', 'input_files', 'kind']
