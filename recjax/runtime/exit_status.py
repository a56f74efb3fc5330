"""Exit statuses of a run other than 0 and 1. Imports nothing, so launchers can use it without JAX."""

NO_GO = 3  # the verdict of --mode=refresh: the new model must not replace the old one
PREEMPTED = 75  # the run is saved and the same command resumes it (EX_TEMPFAIL of sysexits.h)
HUNG = 124  # the watchdog ended the run (timeout(1) uses the same status)
INTERRUPTED = 130  # Ctrl-C ended the run: 128 + SIGINT, as shells do; launchers do not restart it

RESTART_ON = (PREEMPTED, HUNG)
