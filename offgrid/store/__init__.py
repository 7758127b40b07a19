"""What is kept on disk. :mod:`~offgrid.store.catalogue` says which models there are,
:mod:`~offgrid.store.responses` keeps answered responses."""
