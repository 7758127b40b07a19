// Writes the requests with which the page imports a large file, as one JSON list.

globalThis.addEventListener = () => {}; // modules listen to the window
const page = "../../../offgrid/web/pages/chat";
const { MAX_TOKENS } = await import(`${page}/answer.js`);
const { parcels } = await import(`${page}/history/transfer.js`);

const others = Array.from({ length: 5 }, (_, n) => [`\u20ac${n}`, -1.25]);
const coloured = (id, parent, tokens) => ({
  id, parent, role: "assistant", content: "w", data: { tokens: Array.from({ length: tokens }, () => ["w", -0.5, others]) },
});
const chain = (name, length, tokens) =>
  Array.from({ length }, (_, n) => coloured(`${name}${n}`, n ? `${name}${n - 1}` : null, tokens));
const wide = Array.from({ length: 3 }, (_, n) => ({ id: `w${n}`, parent: null, role: "user", content: "\u20ac".repeat(1_040_000) }));
const conversations = [
  { id: "x", messages: chain("a", 2, MAX_TOKENS) }, { id: "y", messages: chain("b", 8, 1_000) }, { id: "z", messages: wide },
];
const file = { object: "history.export", version: 1, conversations };
process.stdout.write(JSON.stringify(parcels(file).map(({ body }) => body)));
