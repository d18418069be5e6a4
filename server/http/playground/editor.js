// The text area with the colours of its tokens. A text area cannot colour parts of its text; so a layer under it, the ink,
// has the same letters at the same places, transparent, with backgrounds. Editing stays the browser's own.

class Editor {
  #area = byId("text");
  #ink = new Ink(byId("ink"));
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

  // Not on a phone, where its keyboard would slide over what there is to see.
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.#area.focus({ preventScroll: true });
  }

  show(state, colour) {
    this.#colour = colour;
    this.#showText(state.text);
    this.#ink.show(state.text, state.groups, colour, "\n");  // a last line that is empty has height only with something behind it
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

  #target(group) {
    return {
      groups: this.#ink.groups,
      group,
      anchor: (other) => this.#ink.elementOf(other) ?? this.#area,
      fork: this.fork,
      opener: this.#area,
    };
  }

  // The group under the pointer; the ink lies below the text area, but is there.
  #groupAt(event) {
    const node = document.elementsFromPoint(event.clientX, event.clientY).find((found) => found.matches("#ink .token"));
    return node && this.#ink.groupOf(node);
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
    const { groups } = this.#ink;
    const group = groups.find((one) => one.start <= at && at < one.end) ?? groups.findLast((one) => one.end === at);
    if (group) this.alternatives.open(this.#target(group), { pinned: true, focus: true });
  }
}
