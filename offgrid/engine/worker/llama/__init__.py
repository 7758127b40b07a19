"""Everything that calls llama.cpp: no module outside this package imports ``llama_cpp``.

:mod:`~offgrid.engine.worker.llama.model` is a loaded GGUF and uses the other modules:
:mod:`~offgrid.engine.worker.llama.weights` (file and metadata),
:mod:`~offgrid.engine.worker.llama.vocabulary` (text to tokens and back),
:mod:`~offgrid.engine.worker.llama.batch` (the tokens of a decode),
:mod:`~offgrid.engine.worker.llama.embedding` (vectors) and
:mod:`~offgrid.engine.worker.llama.vision` (images, with libmtmd).

llama.cpp trusts its caller: an id out of range, a batch that is too large or a sequence id that
does not exist aborts the process (``SIGABRT``) instead of raising an error. So this package checks
all arguments first. Function names in docstrings are those of ``llama.h`` and ``mtmd.h``.
"""

import llama_cpp.llama_cpp as _lc

# NOTE: importing llama_cpp installs a Python log callback, which takes the GIL inside llama.cpp's
# threads and can deadlock. NULL puts llama.cpp's own C function back, which writes to stderr.
_lc.llama_log_set(_lc.llama_log_callback(0), None)
