"""Drafts: proposed tokens that a step computes beside the last one, and verifies exactly.

Sources (:mod:`~offgrid.engine.worker.drafts.source`) propose the tokens that may come next. The
step decodes them as further rows of their sequence, and each row is sampled as if it were alone:
the sampled token is the answer, and the first difference ends the draft.
"""
