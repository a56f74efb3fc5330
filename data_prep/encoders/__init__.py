"""Text encoders, which map item texts to unit vectors. `choice` lists the values of `sids.encoder`."""

from data_prep.encoders.choice import encode, input_files, is_minilm_installed, kind

__all__ = ['encode', 'input_files', 'is_minilm_installed', 'kind']
