"""The statuses that a process of a run ends with, apart from 0 and 1; without JAX, for the launchers."""

PREEMPTED = 75  # everything is saved and the same command continues; EX_TEMPFAIL of sysexits.h
HUNG = 124  # ended by the watchdog; timeout(1) has the same

RESTART_ON = (PREEMPTED, HUNG)
