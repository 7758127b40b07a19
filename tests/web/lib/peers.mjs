// Two servers that know each other.

/** Where a server waits for other machines. */
export async function placeOf(server) {
  const { self } = await server.api("GET", "/v1/peers");
  return `127.0.0.1:${self.port}`;
}

/** Pair two servers, without a page. */
export async function pair(one, other) {
  const { code } = await other.api("POST", "/v1/peers/pair", {});
  return one.api("POST", "/v1/peers/pair", { address: await placeOf(other), code });
}
