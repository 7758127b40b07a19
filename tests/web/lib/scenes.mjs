// What the pictures of docs/UI.md show: a route, what the server must have for it, and what is done.
import { answers, button } from "./chat.mjs";
import { pair } from "./peers.mjs";
import { startServer, text } from "./servers.mjs";

const QUESTION = "How do I add up the prices of a shopping list in Python? Show the formula, too.";
const ANSWER = `Use \`sum\` with a generator:

\`\`\`python
prices = {"tea": 2.50, "bread": 3.20, "cheese": 7.90}

total = sum(price for price in prices.values())
print(f"{total:.2f}")  # 13.60
\`\`\`

For $n$ prices that is

$$\\text{total} = \\sum_{i=1}^{n} p_i$$

| Item | Price |
|---|---:|
| tea | 2.50 |
| bread | 3.20 |
| cheese | 7.90 |
`;
const WEATHER = { id: "call_1", type: "function",
  function: { name: "get_weather", arguments: '{"city": "Oslo"}' } };

const message = (id, parent, role, content, more = {}) =>
  ({ id, parent, role, content, status: "done", ...more });

const CONVERSATIONS = [
  { title: "Words for rain", messages: [message("r1", null, "user", "Words for rain?"),
    message("r2", "r1", "assistant", "Drizzle, shower, downpour.")] },
  { title: "Weather in Oslo", messages: [
    message("w1", null, "user", "Do I need an umbrella in Oslo?"),
    message("w2", "w1", "assistant", "", { tool_calls: [WEATHER], reasoning: "I should look at the weather." }),
    message("w3", "w2", "tool", '{"weather": "rain", "degrees": 8}', { tool_call_id: "call_1" }),
    message("w4", "w3", "assistant", "Yes: it rains in Oslo, at 8 degrees.")] },
  { title: "A letter to the landlord", messages: [message("l1", null, "user", "Write a letter")] },
  { title: "Add up a shopping list", settings: { model: "writer" }, messages: [
    message("s1", null, "user", QUESTION),
    message("s2", "s1", "assistant", ANSWER, {
      model: "writer", reasoning: "Prices are numbers, so sum is enough.",
      data: { reasoning_ms: 2400, timings: { predicted_n: 118, predicted_per_second: 24.6,
        predicted_ms: 4797, prompt_n: 12, cache_n: 31, prompt_ms: 190 } } })] },
];

/** Put conversations into the history; the id of the last one. */
async function converse(server) {
  let last;
  for (const one of CONVERSATIONS) last = await server.api("POST", "/v1/history", one);
  await server.api("POST", `/v1/history/${last.id}`, { pinned: true });
  return last.id;
}

/** Let the server work, so that there is something to see. */
async function work(server) {
  const body = { model: "offgrid-starter", messages: [{ role: "user", content: "Once upon a time" }], max_tokens: 80 };
  for (let round = 0; round < 6; round += 1) await server.api("POST", "/v1/chat/completions", body);
}

/** Pair the server with two other machines. */
async function pairTwo(server) {
  for (const peers of ["workshop", "living-room"]) await pair(server, await startServer({ peers }));
}

export const SCENES = [
  { name: "chat", route: "/chat", prepare: converse, onTablet: true,
    act: async (page) => {
      await page.locator("math").first().waitFor();
      await (await answers(page)).first().waitFor();
    } },
  { name: "chat-settings", route: "/chat",
    act: async (page) => (await button(page, "chat.settings")).click() },
  { name: "models", route: "/models",
    prepare: async (server) => {
      await server.addToStick("story-teller.gguf", { model: "writer" });
      await server.addToStick("large.gguf", { size: 4_700_000_000 });
      for (const id of ["hostile", "talker"]) {
        await server.api("POST", `/v1/models/${id}/remove`, { confirm: id });
      }
    },
    act: async (page) => page.getByRole("button", { name: "Import story-teller" }).waitFor() },
  { name: "machine", route: "/machine", prepare: work, onTablet: true },
  { name: "peers", route: "/machine", prepare: pairTwo,
    act: async (page) => {
      const section = page.locator("section.peers");
      await section.getByText(await text("peers.state.connected")).first().waitFor();
      await section.evaluate((element) => element.scrollIntoView({ block: "start" }));
    } },
  { name: "lab", route: "/lab",
    act: async (page, size) => {
      await page.getByRole("textbox", { name: await text("lab.text"), exact: true }).fill("Once upon a time");
      const tokens = page.getByRole("button", { name: /go back to this choice/ });
      for (const count of [1, 2, 3]) {
        await page.getByRole("button", { name: await text("lab.likeliest"), exact: true }).click();
        await tokens.nth(count - 1).waitFor();
      }
      await page.locator('main [aria-busy="true"]').first().waitFor({ state: "detached" });
      const heading = page.getByRole("heading", { name: await text(size === "phone" ? "lab.final" : "lab.prompt"), exact: true });
      await heading.evaluate((element) => element.scrollIntoView({ block: "start" }));
    } },
  { name: "keys", route: "/keys",
    prepare: async (server) => {
      await server.createKey("anna");
      await server.createKey("workshop tablet", ["inference", "history", "stats"]);
    },
    act: async (page) => page.getByText("workshop tablet").first().waitFor() },
  { name: "settings", route: "/settings",
    act: async (page) => page.getByText(await text("settings.about")).waitFor() },
];
