"""Other OffGrid machines on the network: who they are, and how this one talks to them.

The libraries of ``offgrid-llm[peers]`` are imported by the functions that need them, so that the
package can be imported without them.
"""
