"""Finds the number of threads that llama.cpp computes with, by measuring the steps of the loop.

- :mod:`~offgrid.engine.worker.threads.control`: the number for each kind of step;
- :mod:`~offgrid.engine.worker.threads.tuner`: finds one number;
- :mod:`~offgrid.engine.worker.threads.trial`: compares two numbers;
- :mod:`~offgrid.engine.worker.threads.neighbours`: how busy other programs are.

All but the last are pure: callers pass the measured times. The section "Threads of llama.cpp" of
``docs/engine.md`` describes the method.
"""
