// What this browser remembers. Private windows and full disks refuse it; then memory has to do.

const PREFIX = "offgrid.";
const memory = new Map();

/** Return a remembered value, or another one if there is none. */
export function recall(name, otherwise = null) {
  if (memory.has(name)) return memory.get(name);
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/**
 * Remember a value that JSON can express; null forgets it.
 * @returns {boolean} whether it will be there after a reload
 */
export function remember(name, value) {
  try {
    if (value === null || value === undefined) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    memory.delete(name);
    return true;
  } catch {
    memory.set(name, value ?? null);
    return false;
  }
}

/** Return the names of all remembered values that begin with a prefix. */
export function remembered(prefix) {
  const names = [...memory.keys()];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(PREFIX)) names.push(key.slice(PREFIX.length));
    }
  } catch {
    // Only memory is left.
  }
  return names.filter((name) => name.startsWith(prefix));
}

/** Call a function when another tab changes a remembered value. Returns the function that ends it. */
export function onRemembered(name, tell) {
  const listen = (event) => {
    if (event.key === PREFIX + name || event.key === null) tell(recall(name));
  };
  addEventListener("storage", listen);
  return () => removeEventListener("storage", listen);
}
