"""Data on disk.

:mod:`~offgrid.store.catalogue` lists the models. :mod:`~offgrid.store.imports`,
:mod:`~offgrid.store.exports` and :mod:`~offgrid.store.packages` bring models in and out; they share
:mod:`~offgrid.store.search` (what is found) and :mod:`~offgrid.store.transfer` (how a file is
placed). :mod:`~offgrid.store.responses` holds the stored responses.
"""
