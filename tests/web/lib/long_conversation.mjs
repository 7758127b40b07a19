// A conversation with everything that takes time to draw.

const CODE = "```python\ndef total(prices):\n    \"\"\"Add up.\"\"\"\n    return sum(prices)\n```";
const TABLE = "| Name | Price |\n|---|---|\n| tea | 2.50 |\n| bread | 3.20 |\n| cheese | 7.90 |";
const FORMULA = "The sum is $\\sum_{i=1}^{n} p_i$, and\n\n$$\\sqrt{a^2 + b^2} = c$$";
const LIST = "1. First, *look*.\n2. Then **think**.\n   - about this\n   - and that\n3. Then act.";
const KINDS = [CODE, TABLE, FORMULA, LIST, "A plain paragraph. ".repeat(12)];

/** The body of POST /v1/history with this many messages. */
export function longConversation(count, title = "A long conversation") {
  const messages = Array.from({ length: count }, (_, index) => ({
    id: `m${index}-${title.length}`,
    parent: index ? `m${index - 1}-${title.length}` : null,
    role: index % 2 ? "assistant" : "user",
    content: index % 2 ? `Answer ${index}.\n\n${KINDS[index % KINDS.length]}`
      : `Question ${index}: what about this?`,
    status: "done",
  }));
  return { title, messages };
}
