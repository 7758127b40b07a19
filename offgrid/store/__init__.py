"""Data on disk. :mod:`~offgrid.store.catalogue` lists the models,
:mod:`~offgrid.store.responses` holds the stored responses."""
