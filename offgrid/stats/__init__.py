"""Statistics of the server: what requests used, how long they took, what the machine has left.

:mod:`~offgrid.stats.collected` adds up the records of requests. :mod:`~offgrid.stats.totals` keeps
those that survive a restart. :mod:`~offgrid.stats.machine` looks at processes and disks.
:mod:`~offgrid.stats.keeper` is the thread that does so, and that saves.
A request for the statistics waits for none of these.
"""
