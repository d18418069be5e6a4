// The text that is being written, with what is known of its tokens, and its history. States are never changed, only
// replaced, so that undo is going back to an earlier one.
//   { text, groups, ids, answers }: groups as in answer.js, of the parts of the text that are known; ids: exactly this text,
//   or null; answers: those that wait to be chosen, { answer, base }, base being the state they go on from; score: what
//   Score found out about this very text, or undefined.

const emptyState = { text: "", groups: [], ids: null, answers: [] };
const historyLimit = 200;

const shiftGroups = (groups, by) => groups.map((group) => ({ ...group, start: group.start + by, end: group.end + by }));

// `base` with an answer behind it.
function withAnswer(base, answer) {
  if (answer.echoes) return { text: answer.text, groups: [...answer.groups], ids: answer.isExact ? [...answer.ids] : null, answers: [] };
  return {
    text: base.text + answer.text,
    groups: [...base.groups, ...shiftGroups(answer.groups, base.text.length)],
    ids: answer.isExact ? [...answer.ids] : null,
    answers: [],
  };
}

// After an edit: what is known of tokens before it still holds, of those behind it no more, because they depend on it.
function withEdit(state, text) {
  const limit = Math.min(text.length, state.text.length);
  let same = 0;
  while (same < limit && text.charCodeAt(same) === state.text.charCodeAt(same)) ++same;
  if (same === text.length && same === state.text.length) return state;
  return { ...state, text, groups: state.groups.filter((group) => group.end <= same), ids: null };
}

// Whether the ids end with a part of a character, which the text does not show yet: what goes on completes it.
function endsInsideCharacter({ text, ids, groups }) {
  const last = groups.at(-1);
  if (ids === null || !last) return false;
  const isHeldBack = last.first + last.tokens.length < ids.length;
  return isHeldBack || (last.tokens.at(-1).text.startsWith("bytes:") && (last.start === last.end || text.endsWith("\ufffd")));
}

// The state up to the beginning of a group.
function upTo(state, group) {
  return { text: state.text.slice(0, group.start), groups: state.groups.filter((other) => other.end <= group.start), ids: null, answers: [] };
}

class History {
  #past = [];
  #future = [];
  #typedAt = -Infinity;

  constructor(state) {
    this.state = state;
  }

  // Remembers the state as it is, before something changes it.
  keep() {
    if (this.#past.at(-1) !== this.state) this.#past.push(this.state);
    if (this.#past.length > historyLimit) this.#past.shift();
    this.#future = [];
    this.#typedAt = -Infinity;
  }

  // Likewise before a keystroke; those that follow each other within a second are one step.
  keepTyping(now) {
    const goesOn = now - this.#typedAt < 1000;
    if (!goesOn) this.keep();
    this.#typedAt = now;
  }

  get canUndo() {
    return this.#past.some((state) => state !== this.state);
  }

  get canRedo() {
    return this.#future.some((state) => state !== this.state);
  }

  undo() {
    this.#move(this.#past, this.#future);
  }

  redo() {
    this.#move(this.#future, this.#past);
  }

  // What changed nothing, a request that failed for example, is no step.
  #move(from, to) {
    while (from.at(-1) === this.state) from.pop();
    if (from.length === 0) return;
    to.push(this.state);
    this.state = from.pop();
    this.#typedAt = -Infinity;
  }
}
