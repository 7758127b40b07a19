// Server-sent events from the body of a response. Pure: needs neither a page nor a network.

/**
 * Yield the events of a stream, and its comments as events of the name "comment".
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{event: string, data: string}>}
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      // A CR at the end may be the first half of a CRLF.
      const whole = rest.endsWith("\r") ? rest.slice(0, -1) : rest;
      const blocks = whole.split(/\r\n\r\n|\n\n|\r\r/);
      rest = blocks.pop() + rest.slice(whole.length);
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    // The consumer may have left early: end the response too.
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let event = "message";
  const data = [];
  const comments = []; // They keep the connection alive; some also say how a request waits.
  for (const line of block.split(/\r\n|\n|\r/)) {
    const colon = line.indexOf(":");
    if (colon === 0) {
      comments.push(line.slice(1).trim());
      continue;
    }
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") event = value;
    if (name === "data") data.push(value);
  }
  if (data.length) return { event, data: data.join("\n") };
  return comments.length ? { event: "comment", data: comments.join("\n") } : null;
}
