"""Memory of other machines for models that are larger than one machine: ggml's RPC over TLS.

A machine *lends* memory with ``offgrid rpc-worker``; another one *borrows* it for a model.
llama.cpp's RPC has no authentication, no encryption and no time limits, and it ends its process
when something is wrong. So it only ever speaks to a port of the same machine that the other end of
a tunnel in this package has opened. Both processes of the server import this package, and so does
the RPC worker.

- :mod:`~offgrid.rpc.endpoint`: a server that lends, as settings and commands name it
- :mod:`~offgrid.rpc.messages`: what both ends of a TLS connection say before ggml speaks
- :mod:`~offgrid.rpc.probe`: ggml's own handshake, spoken from Python
- :mod:`~offgrid.rpc.relay`: copies bytes between two sockets
- :mod:`~offgrid.rpc.own`: which sockets belong to this process
- :mod:`~offgrid.rpc.seed`: tensors for ggml's cache
- :mod:`~offgrid.rpc.connection`, :mod:`~offgrid.rpc.tunnel`: the machine that borrows
- :mod:`~offgrid.rpc.lender`, :mod:`~offgrid.rpc.newcomers`, :mod:`~offgrid.rpc.session`,
  :mod:`~offgrid.rpc.child`: the machine that lends
"""
