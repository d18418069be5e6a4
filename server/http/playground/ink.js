// A text whose tokens are coloured, as elements: a span for each group of tokens, plain text between them. Showing it again
// makes only what is new, so that an answer may come at any speed.

class Ink {
  #root;
  #colour = null;
  #shown = [];  // { part, node }: what is there, in order
  #groups = [];

  constructor(root) {
    this.#root = root;
  }

  // `end` is put behind the text.
  show(text, groups, colour, end = "") {
    this.#groups = groups.filter((group) => group.end > group.start);
    const parts = partsOf(text, this.#groups, end);
    let same = 0;
    if (colour === this.#colour) {
      while (same < parts.length && same < this.#shown.length && looksTheSame(parts[same], this.#shown[same].part)) ++same;
    }
    this.#colour = colour;
    for (const { node } of this.#shown.splice(same)) node.remove();
    for (const part of parts.slice(same)) {
      const node = part.group ? tokenElement(part, colour) : document.createTextNode(part.text);
      this.#root.append(node);
      this.#shown.push({ part, node });
    }
  }

  // Those that show something, in order.
  get groups() {
    return this.#groups;
  }

  groupOf(node) {
    const found = this.#shown.find((one) => one.node === node);
    return found?.part.group && this.#groups.find((group) => group.start === found.part.group.start);
  }

  elementOf(group) {
    return this.#shown.find((one) => one.part.group?.start === group.start)?.node;
  }
}

function partsOf(text, groups, end) {
  const parts = [];
  let at = 0;
  for (const group of groups) {
    if (group.start > at) parts.push({ text: text.slice(at, group.start) });
    parts.push({ text: text.slice(group.start, group.end), group, numTokens: group.tokens.length });
    at = group.end;
  }
  const rest = text.slice(at) + end;
  if (rest) parts.push({ text: rest });
  return parts;
}

// Groups are made anew with every event, their lists of ids are not. A group may get more tokens without more text.
function looksTheSame(one, other) {
  return one.text === other.text && one.numTokens === other.numTokens && one.group?.ids === other.group?.ids && one.group?.first === other.group?.first;
}

function tokenElement({ text, group }, colour) {
  return element("span", { class: "token", "data-level": colourLevel(groupLogprob(group), colour) }, text);
}
