// Whose a model is: this machine's, or that of a machine that was paired with it.

const THIS_MACHINE = "offgrid-llm";

/** Name of the machine that has a model of GET /v1/models; null for this machine. */
export function machineOf(model) {
  return model.owned_by === THIS_MACHINE ? null : model.owned_by;
}

/** Whether a model of GET /v1/models is on this machine. */
export function isHere(model) {
  return machineOf(model) === null;
}
