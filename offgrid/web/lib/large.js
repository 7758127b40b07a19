// What this browser remembers that is too large for lib/local.js. Private windows and full disks
// refuse it; then it ends with the page.

const NAME = "offgrid";
const STORE = "large";

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, use) {
  const transaction = (await open()).transaction(STORE, mode);
  const request = use(transaction.objectStore(STORE));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Return a remembered value; null if there is none. */
export async function recallLarge(name) {
  try {
    return await run("readonly", (store) => store.get(name)) ?? null;
  } catch {
    return null;
  }
}

/**
 * Remember a value; null forgets it.
 * @returns {Promise<boolean>} whether it will be there after a reload
 */
export async function rememberLarge(name, value) {
  try {
    await run("readwrite", (store) => (value === null ? store.delete(name) : store.put(value, name)));
    return true;
  } catch {
    return false;
  }
}
