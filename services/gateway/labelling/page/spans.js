// Marks places in a text, by mouse or by keyboard. Places count code points, as the gateway does; a browser counts
// UTF-16 units, so a text is an array of its characters here.
class Marker {
  constructor(text, labels, spans, changed) {
    this.chars = Array.from(text);
    this.labels = labels;
    this.spans = spans;
    this.changed = changed;
    this.anchor = this.caret = 0;
    this.keyboard = false;
    this.element = make("div", { className: "text", tabIndex: 0, id: "text" });
    this.element.addEventListener("mousedown", () => { this.keyboard = false; });
    this.draw();
  }

  draw() {
    const [from, to] = this.range();
    const cuts = new Set([0, this.chars.length, ...this.spans.flatMap((span) => [span.start, span.end])]);
    if (this.keyboard) [from, to, this.caret].forEach((place) => cuts.add(place));
    const places = [...cuts].sort((a, b) => a - b);
    const pieces = [];
    for (let at = 0; at + 1 < places.length; at += 1) pieces.push(this.piece(places[at], places[at + 1], from, to));
    this.element.replaceChildren(...pieces);
  }

  piece(start, end, from, to) {
    const inside = this.spans.filter((span) => span.start <= start && end <= span.end);
    const ends = inside.filter((span) => span.end === end).map((span) => span.label);
    const element = make(inside.length ? "mark" : "span", { data: { start: String(start) } });
    element.textContent = this.chars.slice(start, end).join("");
    if (ends.length) element.dataset.label = ends.join(" ");
    if (inside.length) {
      const hue = colour(this.labels.indexOf(inside[inside.length - 1].label));
      element.style.setProperty("background", `hsl(${hue} 70% var(--mark))`);
      element.style.setProperty("border-color", `hsl(${hue} 60% 50%)`);
    }
    if (this.keyboard && from <= start && end <= to && from < to) element.classList.add("chosen");
    if (this.keyboard && start === this.caret) element.classList.add("caret");
    return element;
  }

  range() { return this.anchor < this.caret ? [this.anchor, this.caret] : [this.caret, this.anchor]; }

  /** The place of one end of the browser's own selection. */
  placeOf(node, offset) {
    if (node === this.element) return offset === 0 ? 0 : this.chars.length;
    const piece = (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest("[data-start]");
    const before = node.nodeType === Node.TEXT_NODE ? Array.from(node.data.slice(0, offset)).length : 0;
    return Number(piece.dataset.start) + before;
  }

  selected() {
    const selection = getSelection();
    if (!this.keyboard && selection.rangeCount && !selection.isCollapsed && this.element.contains(selection.anchorNode)
        && this.element.contains(selection.focusNode)) {
      const ends = [this.placeOf(selection.anchorNode, selection.anchorOffset),
        this.placeOf(selection.focusNode, selection.focusOffset)];
      return [Math.min(...ends), Math.max(...ends)];
    }
    return this.range();
  }

  mark(label) {
    const [start, end] = this.selected();
    if (start === end) return;
    const same = (span) => span.start === start && span.end === end && span.label === label;
    if (!this.spans.some(same)) this.spans.push({ start, end, label });
    this.anchor = this.caret = end;
    getSelection().removeAllRanges();
    this.draw();
    this.changed();
  }

  unmark() {
    const [start, end] = this.selected();
    const under = this.spans.findLastIndex((span) => span.start <= end && start <= span.end);
    this.spans.splice(under >= 0 ? under : this.spans.length - 1, 1);
    this.draw();
    this.changed();
  }

  move(step, extend) {
    this.keyboard = true;
    getSelection().removeAllRanges();
    this.caret = Math.max(0, Math.min(this.chars.length, this.caret + step));
    if (!extend) this.anchor = this.caret;
    this.draw();
  }
}

const colour = (number) => (number * 137 + 210) % 360;
