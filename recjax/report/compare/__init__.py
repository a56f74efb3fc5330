"""Compares finished runs with each other and with baselines, from the files in their workdirs."""
