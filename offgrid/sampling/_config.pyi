from offgrid.sampling.params import RANGES as RANGES

INSTRUCTION_SETS: tuple[str, ...]

def instruction_sets() -> tuple[str, ...]: ...
