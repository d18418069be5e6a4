// The panel that says of a token how likely it was, what else could have come, and forks from there.

class AlternativesPanel {
  #panel = byId("alternatives");
  #target = null;  // { groups, group, index, anchor: (group) => element, fork, opener }
  #pinned = false;
  #timer = 0;

  constructor() {
    this.#panel.addEventListener("mouseenter", () => clearTimeout(this.#timer));
    this.#panel.addEventListener("mouseleave", () => this.#pinned || this.closeSoon());
    this.#panel.addEventListener("keydown", (event) => this.#onKey(event));
    document.addEventListener("pointerdown", (event) => {
      if (this.isOpen && !this.#panel.contains(event.target)) this.close();
    });
    addEventListener("resize", () => this.close());
  }

  get isOpen() {
    return !this.#panel.hidden;
  }

  get isPinned() {
    return this.isOpen && this.#pinned;
  }

  // `target.group` is one of `target.groups`. Pinned it stays until it is closed, with `focus` for the keyboard.
  open(target, { pinned = false, focus = false } = {}) {
    clearTimeout(this.#timer);
    this.#pinned = pinned;
    this.#target = { index: target.group.tokens.length - 1, ...target };
    this.#render();
    if (focus) this.#focusFirst();
  }

  openSoon(target) {
    clearTimeout(this.#timer);
    if (this.isOpen && this.#target.group === target.group) return;
    this.#timer = setTimeout(() => this.open(target), this.isOpen ? 60 : 140);
  }

  closeSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.close(), 220);
  }

  close({ refocus = false } = {}) {
    clearTimeout(this.#timer);
    if (!this.isOpen) return;
    const opener = this.#target.opener;
    this.#panel.hidden = true;
    this.#mark(null);
    this.#target = null;
    if (refocus) opener?.focus();
  }

  #mark(anchor) {
    document.querySelectorAll(".token.current").forEach((token) => token.classList.remove("current"));
    anchor?.classList.add("current");
  }

  #render() {
    const { group, index } = this.#target;
    const token = group.tokens[index];
    const id = group.ids[group.first + index];
    const children = [
      element("div", { class: "head" },
        element("button", { type: "button", class: "quiet", "aria-label": "The token before", onclick: () => this.#step(-1) }, "‹"),
        element("h2", { id: "alternatives-title" }, visibleText(token.text)),
        element("button", { type: "button", class: "quiet", "aria-label": "The token behind", onclick: () => this.#step(1) }, "›"),
        element("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => this.close({ refocus: true }) }, "✕")),
      element("p", { class: "numbers" }, this.#numbers(token, id)),
    ];
    if (token.logprob !== null) children.push(...this.#choices(token));
    this.#panel.replaceChildren(...children);
    this.#panel.hidden = false;
    const anchor = this.#target.anchor(group);
    this.#mark(anchor);
    this.#place(anchor);
  }

  #numbers(token, id) {
    const name = id === undefined ? "" : `id ${id}`;
    if (token.logprob === null) return `${name}; nothing comes before it`;
    return `${formatPercent(Math.exp(token.logprob))} · ${formatNumber(bits(token.logprob))} bits · log p ${formatNumber(token.logprob, 3)} · ${name}`;
  }

  #choices(token) {
    const total = token.top.reduce((sum, [, logprob]) => sum + Math.exp(logprob), 0);
    const items = token.top.map(([text, logprob], rank) => {
      const share = element("span", { class: "share" });
      share.style.width = `${100 * Math.exp(logprob)}%`;
      const isChosen = text === token.text;
      return element("li", {},
        element("button", {
          type: "button", "aria-current": isChosen && "true", onclick: () => this.#fork(rank),
          "aria-label": `${visibleText(text)}, ${formatPercent(Math.exp(logprob))}${isChosen ? ", as it is" : ""}`,
        }, share, element("code", {}, visibleText(text)), element("span", { class: "percent" }, formatPercent(Math.exp(logprob)))));
    });
    const rest = element("p", { class: "rest" }, element("span", {}, "all others"), element("span", {}, formatPercent(Math.max(0, 1 - total))));
    const hint = element("p", { class: "hint" }, "Choose one to go on from it.");
    return [element("ul", {}, ...items), rest, hint];
  }

  // Below the token, or above it where there is no room; on a phone the style has it at the bottom.
  #place(anchor) {
    const box = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
    const panel = this.#panel.getBoundingClientRect();
    const left = Math.max(12, Math.min(box.left - 12, innerWidth - panel.width - 12));
    const below = box.bottom + 6;
    const top = below + panel.height > innerHeight && box.top - 6 - panel.height > 0 ? box.top - 6 - panel.height : below;
    this.#panel.style.left = `${left + scrollX}px`;
    this.#panel.style.top = `${top + scrollY}px`;
  }

  // To the token before or behind, through all groups.
  #step(by) {
    const { groups, group, index } = this.#target;
    const within = index + by;
    const next = group.tokens[within] ? group : groups[groups.indexOf(group) + by];
    if (!next) return;
    this.#target.group = next;
    this.#target.index = next === group ? within : by > 0 ? 0 : next.tokens.length - 1;
    this.#pinned = true;
    this.#render();
    this.#focusFirst();
  }

  #focusFirst() {
    (this.#panel.querySelector("li button") ?? this.#panel.querySelector("button")).focus();
  }

  #fork(rank) {
    const { group, index, fork } = this.#target;
    this.close({ refocus: true });
    fork(group, index, rank);
  }

  #onKey(event) {
    const choices = [...this.#panel.querySelectorAll("li button")];
    const at = choices.indexOf(document.activeElement);
    const moves = {
      ArrowDown: () => choices[Math.min(at + 1, choices.length - 1)]?.focus(),
      ArrowUp: () => choices[Math.max(at - 1, 0)]?.focus(),
      ArrowLeft: () => this.#step(-1),
      ArrowRight: () => this.#step(1),
      Escape: () => this.close({ refocus: true }),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    moves[event.key]();
  }
}
