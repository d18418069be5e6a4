// Several answers side by side, each with its colours, to compare and choose from.

class AnswersPanel {
  #list = byId("answers");
  #cards = [];  // { entry, root, text, ink, note }

  // choose(entry); fork(entry, group, index, rank). An entry is one of a state's answers.
  constructor({ alternatives, choose, fork, discard }) {
    Object.assign(this, { alternatives, choose, fork });
    byId("answers-close").addEventListener("click", discard);
  }

  show(entries, colour) {
    byId("answers-panel").hidden = entries.length === 0;
    const isSame = entries.length === this.#cards.length && entries.every((entry, i) => entry.answer === this.#cards[i].entry.answer);
    if (!isSame) {
      this.#cards = entries.map((entry, i) => this.#makeCard(entry, i));
      this.#list.replaceChildren(...this.#cards.map((card) => card.root));
    }
    for (const card of this.#cards) this.#showCard(card, colour);
  }

  #makeCard(entry, index) {
    const card = { entry };
    card.text = element("div", {
      class: "card-text", dir: "auto", tabindex: 0, role: "group", "aria-label": `Answer ${index + 1}`,
      onmousemove: (event) => this.#onMove(card, event), onmouseleave: () => this.alternatives.isPinned || this.alternatives.closeSoon(),
      onclick: (event) => this.#onClick(card, event), onkeydown: (event) => this.#onKey(card, event),
    });
    card.ink = new Ink(card.text);
    card.note = element("span", {});
    const keep = element("button", { type: "button", "aria-label": `Keep answer ${index + 1}`, onclick: () => this.choose(entry) }, "Keep");
    card.root = element("article", { class: "card", "aria-label": `Answer ${index + 1}` }, card.text, element("footer", {}, card.note, keep));
    return card;
  }

  #showCard(card, colour) {
    const { answer } = card.entry;
    const isOver = answer.finishReason !== null;
    if (card.numTokens !== answer.numTokens) card.text.scrollTop = card.text.scrollHeight;
    card.numTokens = answer.numTokens;
    card.ink.show(answer.text, answer.groups, colour);
    const { nats, count } = sumLogprobs(answer.groups);
    const mean = count === 0 ? "" : ` · ${formatNumber(bits(nats) / count)} bits each`;
    card.note.textContent = `${formatCount(answer.numTokens, "token")}${mean}${isOver ? ` · ${answer.finishReason}` : " …"}`;
  }

  #target(card, group) {
    return {
      groups: card.ink.groups,
      group,
      anchor: (other) => card.ink.elementOf(other) ?? card.text,
      fork: (...where) => this.fork(card.entry, ...where),
      opener: card.text,
    };
  }

  #groupAt(card, event) {
    return card.ink.groupOf(event.target);
  }

  #onMove(card, event) {
    if (event.buttons !== 0 || this.alternatives.isPinned) return;
    const group = this.#groupAt(card, event);
    if (group) this.alternatives.openSoon(this.#target(card, group));
    else this.alternatives.closeSoon();
  }

  #onClick(card, event) {
    const group = this.#groupAt(card, event);
    if (group && getSelection().isCollapsed) this.alternatives.open(this.#target(card, group), { pinned: true });
  }

  #onKey(card, event) {
    const opens = event.key === "Enter" || (event.altKey && event.key === "ArrowDown");
    if (!opens || event.ctrlKey || event.metaKey || card.ink.groups.length === 0) return;
    event.preventDefault();
    this.alternatives.open(this.#target(card, card.ink.groups[0]), { pinned: true, focus: true });
  }
}
