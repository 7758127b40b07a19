// The answer so far, token by token, and the branches that were left. Pure.

const MOST_BRANCHES = 12;

/** Whether one list of tokens begins with another. */
function beginsWith(tokens, start) {
  return start.every(({ id }, place) => tokens[place]?.id === id);
}

/** Append a token. A branch that is continued again is no longer a branch. */
export function append(state, token) {
  const answer = [...state.answer, token];
  return { ...state, answer, branches: without(state.branches, answer) };
}

/** Go back to before a token; what is left becomes a branch. */
export function goBack(state, place) {
  const kept = state.answer;
  const answer = kept.slice(0, place);
  const others = state.branches.filter((branch) => !beginsWith(kept, branch));
  return { ...state, answer, branches: [kept, ...others].slice(0, MOST_BRANCHES) };
}

/** Go on with a branch; the present answer becomes one, unless the branch contains it. */
export function takeBranch(state, index) {
  const answer = state.branches[index];
  const others = state.branches.filter((_, at) => at !== index);
  const own = state.answer.length && !beginsWith(answer, state.answer) ? [state.answer] : [];
  return { ...state, answer, branches: [...own, ...others] };
}

/** Branches without those that an answer contains. */
function without(branches, answer) {
  return branches.filter((branch) => !beginsWith(answer, branch));
}

/** Where a branch leaves the answer: the number of tokens that both have at their beginning. */
export function parting(answer, branch) {
  let place = 0;
  while (place < answer.length && place < branch.length && answer[place].id === branch[place].id) place += 1;
  return place;
}

/** The text of tokens, whose pieces may be parts of characters. */
export function textOf(tokens) {
  return new TextDecoder().decode(new Uint8Array(tokens.flatMap(({ bytes }) => bytes)));
}

const SHOWN = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };

/** A piece with its white space visible, and bytes that are no text as hexadecimal numbers. */
export function visible({ piece, bytes }) {
  if (piece === "") return "∅";
  if (piece.includes("\ufffd")) return bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  return piece.replace(/[ \n\t\r]/g, (character) => SHOWN[character])
    .replace(/[\u0000-\u001f\u007f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (character) => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`);
}
