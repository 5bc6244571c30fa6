// One item on the page: what it says, what can be said of it, and what has been chosen so far.
class ItemView {
  /** `value` is what was said before, when a label is changed. */
  constructor(project, item, value, changed) {
    this.project = project;
    this.item = item;
    this.changed = changed;
    this.value = value ? structuredClone(value) : null;
    this.marker = null;
    this.field = null;
    this.writing = !item.labels;
    this.element = make("div");
    this.draw();
  }

  get choices() {
    return this.project.task === "preference" ? ["a", "b", "tie"] : this.project.labels;
  }

  draw() {
    const parts = [this.content()];
    if (this.item.labels) parts.push(this.proposals());
    if (this.writing) parts.push(...this.inputs());
    this.element.replaceChildren(...parts.filter(Boolean));
  }

  content() {
    const { data } = this.item;
    if (this.project.task === "spans") {
      const spans = this.value?.spans ?? [];
      this.value = { spans };
      this.marker = new Marker(data.text, this.project.labels, spans, () => this.changed());
      return make("section", { className: "card" }, this.marker.element);
    }
    const shown = data.messages
      ? data.messages.map((turn) => make("div", { className: "turn" }, make("b", {}, turn.role), turn.content))
      : [data.text ?? ""];
    return make("section", { className: "card" }, make("div", { className: "text", id: "text" }, ...shown));
  }

  proposals() {
    const cards = this.item.labels.map((said, at) => make("button", {
      type: "button",
      className: `card ${sameValue(said, this.value) ? "picked" : ""}`,
      on: { click: () => this.propose(at) },
    }, make("h3", {}, make("kbd", {}, String(at + 1)), ` ${WORDS.opinion} ${at + 1}`),
    make("div", { className: "text" }, describe(said, this.item.data))));
    const own = make("button", { type: "button", on: { click: () => this.write() } }, make("kbd", {}, "w"), ` ${WORDS.own}`);
    return make("section", {}, make("p", { className: "note" }, WORDS.proposals),
      make("div", { className: "pair", id: "proposals" }, ...cards), make("p", {}, own), this.pairOf(false));
  }

  /** The two answers of a preference; to choose from, or only to read. */
  pairOf(active) {
    if (this.project.task !== "preference") return null;
    const cards = ["a", "b"].map((side, at) => make(active ? "button" : "div", {
      className: `card ${active && this.value?.choice === side ? "picked" : ""}`,
      ...(active ? { type: "button", on: { click: () => this.pick(at) } } : {}),
    }, make("h3", {}, active ? make("kbd", {}, String(at + 1)) : null, ` ${WORDS[side]}`),
    make("div", { className: "text" }, this.item.data[side])));
    return make("div", { className: "pair" }, ...cards);
  }

  inputs() {
    const { task } = this.project;
    if (task === "answer" || task === "text") {
      this.field = make("textarea", { id: "field", placeholder: WORDS.answer });
      this.field.value = this.value?.text ?? this.item.data.draft ?? "";
      this.field.addEventListener("input", () => { this.value = { text: this.field.value }; this.changed(); });
      this.value = this.field.value ? { text: this.field.value } : null;
      return [this.field];
    }
    const buttons = this.choices.map((choice, at) => make("button", {
      type: "button",
      className: this.has(choice) ? "picked" : "",
      aria: { pressed: String(this.has(choice)) },
      on: { mousedown: (event) => event.preventDefault(), click: () => this.pick(at) },
    }, at < 9 ? make("kbd", {}, String(at + 1)) : null, this.swatch(at),
    make("span", {}, task === "preference" ? WORDS[choice] : choice)));
    if (task === "preference") {
      return [this.item.labels ? null : this.pairOf(true), make("div", { className: "labels" }, ...(this.item.labels ? buttons : buttons.slice(2)))];
    }
    return [make("div", { className: "labels", id: "labels" }, ...buttons)];
  }

  swatch(at) {
    if (this.project.task !== "spans") return null;
    const box = make("span", { className: "swatch" });
    box.style.setProperty("background", `hsl(${colour(at)} 60% 55%)`);
    return box;
  }

  has(choice) {
    const value = this.value ?? {};
    return value.label === choice || value.choice === choice || Boolean(value.labels?.includes(choice));
  }

  /** The choice with this number, from 0: of several labels it toggles, of spans it marks. Says whether it was one. */
  pick(at) {
    const choice = this.choices[at];
    if (choice === undefined) return false;
    const { task, multiple } = this.project;
    if (task === "spans") { this.marker.mark(choice); return true; }
    if (task === "preference") this.value = { choice };
    else if (multiple) {
      const before = this.value?.labels ?? [];
      this.value = { labels: before.includes(choice) ? before.filter((one) => one !== choice) : [...before, choice] };
    } else this.value = { label: choice };
    this.draw();
    this.changed();
    return true;
  }

  propose(at) {
    const said = this.item.labels[at];
    if (!said) return false;
    this.value = structuredClone(said);
    this.draw();
    this.changed();
    return true;
  }

  write() {
    this.writing = true;
    this.draw();
    this.field?.focus();
  }

  /** Whether there is anything to send. */
  get ready() {
    if (this.project.task === "spans") return true;
    if (this.project.multiple) return this.value !== null;
    return this.value !== null && (this.value.text === undefined || this.value.text.trim() !== "");
  }
}

const sameValue = (one, two) => JSON.stringify(one) === JSON.stringify(two);

/** A value in words. */
function describe(value, data) {
  if (value.spans) {
    const chars = Array.from(data.text ?? "");
    const lines = value.spans.map((span) => `${chars.slice(span.start, span.end).join("")} → ${span.label}`);
    return lines.join("\n") || WORDS.none;
  }
  if (value.labels) return value.labels.join(", ") || WORDS.none;
  if (value.choice) return WORDS[value.choice];
  return value.label ?? value.text;
}
