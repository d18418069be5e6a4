// The text area with the colours of its tokens. A text area cannot colour parts of its text; so a layer under it, the ink,
// has the same letters at the same places, transparent, with backgrounds. Editing stays the browser's own.

class Editor {
  #area = byId("text");
  #ink = byId("ink");
  #shown = [];  // what the ink has: { key, node }, key being a group or a plain text
  #groupOf = new WeakMap();
  #elementOf = new Map();
  #state = emptyState;
  #colour = "none";

  // onEdit(text); fork(group, index, rank).
  constructor({ alternatives, onEdit, fork }) {
    this.alternatives = alternatives;
    this.fork = fork;
    this.#area.addEventListener("input", () => onEdit(this.#area.value));
    this.#area.addEventListener("mousemove", (event) => this.#onMove(event));
    this.#area.addEventListener("mouseleave", () => alternatives.isPinned || alternatives.closeSoon());
    this.#area.addEventListener("mousedown", (event) => this.#onPress(event));
    this.#area.addEventListener("click", (event) => this.#onClick(event));
    this.#area.addEventListener("keydown", (event) => {
      if (!event.altKey || event.key !== "ArrowDown") return;
      event.preventDefault();
      this.#openAtCursor();
    });
  }

  focus() {
    this.#area.focus({ preventScroll: true });
  }

  show(state, colour) {
    this.#state = state;
    this.#showText(state.text);
    this.#showInk(colour);
  }

  // While an answer comes only its end is new: the selection and the place of the reader stay as they are.
  #showText(text) {
    const old = this.#area.value;
    if (old === text) return;
    const paper = byId("paper");
    const wasAtEnd = paper.scrollHeight - paper.scrollTop - paper.clientHeight < 40;
    if (text.length > old.length && text.startsWith(old)) {
      const cursorWasAtEnd = this.#area.selectionStart === old.length;
      this.#area.setRangeText(text.slice(old.length), old.length, old.length, "preserve");
      if (cursorWasAtEnd) this.#area.setSelectionRange(text.length, text.length);
    } else {
      this.#area.value = text;
    }
    requestAnimationFrame(() => {
      if (wasAtEnd) paper.scrollTop = paper.scrollHeight;
    });
  }

  // Keeps what is the same at the beginning, makes the rest anew.
  #showInk(colour) {
    const { text, groups } = this.#state;
    const keys = [];
    let end = 0;
    for (const group of groups) {
      if (group.start > end) keys.push(text.slice(end, group.start));
      if (group.end > group.start) keys.push(group);
      end = Math.max(end, group.end);
    }
    keys.push(`${text.slice(end)}\n`);  // a last line that is empty has height only with something behind it
    let same = 0;
    if (colour === this.#colour) {
      while (same < keys.length && same < this.#shown.length && sameInk(keys[same], this.#shown[same].key)) ++same;
    }
    this.#colour = colour;
    for (const { key, node } of this.#shown.splice(same)) {
      this.#elementOf.delete(key.start);
      node.remove();
    }
    for (const key of keys.slice(same)) this.#appendInk(key);
  }

  #appendInk(key) {
    const isText = typeof key === "string";
    const node = isText ? document.createTextNode(key) : tokenElement(key, this.#state.text.slice(key.start, key.end), this.#colour);
    if (!isText) {
      this.#groupOf.set(node, key);
      this.#elementOf.set(key.start, node);
      key = { start: key.start, end: key.end, ids: key.ids, first: key.first, count: key.tokens.length };
    }
    this.#ink.append(node);
    this.#shown.push({ key, node });
  }

  #target(group) {
    return {
      groups: this.#state.groups.filter((other) => other.end > other.start),
      group,
      anchor: (other) => this.#elementOf.get(other.start) ?? this.#area,
      fork: this.fork,
      opener: this.#area,
    };
  }

  // The group under the pointer; the ink lies below the text area, but is there.
  #groupAt(event) {
    const node = document.elementsFromPoint(event.clientX, event.clientY).find((found) => this.#groupOf.has(found));
    return node && this.#state.groups.find((group) => group.start === this.#groupOf.get(node).start && group.end > group.start);
  }

  #onMove(event) {
    if (event.buttons !== 0 || this.alternatives.isPinned || this.#colour === "none") return;
    const group = this.#groupAt(event);
    if (group) this.alternatives.openSoon(this.#target(group));
    else this.alternatives.closeSoon();
  }

  // A finger on a token asks about it; the keyboard of the phone stays away, unless one is writing.
  #onPress(event) {
    const byTouch = event.sourceCapabilities?.firesTouchEvents ?? matchMedia("(pointer: coarse)").matches;
    if (byTouch && document.activeElement !== this.#area && this.#colour !== "none" && this.#groupAt(event)) event.preventDefault();
  }

  #onClick(event) {
    const isSelecting = this.#area.selectionStart !== this.#area.selectionEnd;
    const group = this.#colour === "none" || isSelecting ? undefined : this.#groupAt(event);
    if (group) this.alternatives.open(this.#target(group), { pinned: true });
  }

  #openAtCursor() {
    const at = this.#area.selectionStart;
    const groups = this.#state.groups.filter((group) => group.end > group.start);
    const group = groups.find((one) => one.start <= at && at < one.end) ?? groups.findLast((one) => one.end === at);
    if (group) this.alternatives.open(this.#target(group), { pinned: true, focus: true });
  }
}

// Whether what is shown for `shown` is what `key` would look like.
function sameInk(key, shown) {
  if (typeof key === "string" || typeof shown === "string") return key === shown;
  return key.start === shown.start && key.end === shown.end && key.ids === shown.ids && key.first === shown.first && key.tokens.length === shown.count;
}
