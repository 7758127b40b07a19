// Whose a model is: this machine's, or that of a machine that was paired with it.

/** Whether a model of GET /v1/models is on this machine. */
export function isHere(model) {
  return model.peer === null;
}

/** Name of the machine that has a model of GET /v1/models; null for this machine. */
export function machineOf(model) {
  return isHere(model) ? null : model.owned_by;
}

/** Whether the machine that has a model cannot be reached now. */
export function isOutOfReach(model) {
  return !isHere(model) && model.status === "failed";
}

/** What a model is called in a list: with its machine, if that is another one. */
export function labelOf(model) {
  return isHere(model) ? model.id : `${model.id} (${machineOf(model)})`;
}
