// The page: signs in, keeps items at hand before they are asked for, and hears the keyboard.
const AHEAD = 4, AGAIN_MS = 5000;
const state = { work: null, queue: "label", held: [], view: null, current: null, correcting: false, past: [], began: 0,
  done: 0, filling: null, auto: false, again: 0, answered: new Set() };

// What was not taken may be given out again.
outbox.refused = (id) => state.answered.delete(id);

async function open() {
  try {
    state.work = await call("GET", "");
    if (!state.work.labeller) throw new Refused(401, "");
  } catch (error) {
    return signIn(error instanceof Refused && sessionStorage.getItem(TOKEN) ? WORDS.wrong : error instanceof Refused ? "" : WORDS.offline);
  }
  document.title = `${state.work.project.name} · ${WORDS.title}`;
  find("name").textContent = state.work.project.name;
  find("who").textContent = state.work.labeller.name;
  find("leave").textContent = WORDS.leave;
  find("bar").hidden = find("keys").hidden = false;
  state.done = doneIn("label");
  outbox.keep();
  outbox.flush();
  showTabs();
  showKeys();
  return advance();
}

function signIn(wrong) {
  find("bar").hidden = find("keys").hidden = true;
  const token = make("input", { type: "password", id: "token", autocomplete: "off", placeholder: "hll_…", required: true,
    aria: { label: WORDS.token } });
  const form = make("form", { className: "card gate", on: { submit: (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, token.value.trim());
    open();
  } } }, make("h1", {}, WORDS.title), make("p", {}, WORDS.ask), token,
  make("button", { type: "submit", className: "main" }, WORDS.signIn), make("p", { className: "wrong", id: "wrong" }, wrong));
  find("main").replaceChildren(form);
  token.focus();
}

function showTabs() {
  const names = state.work.labeller.adjudicates ? ["label", "adjudication"] : [];
  find("tabs").replaceChildren(...names.map((name) => make("button", {
    type: "button", id: `tab-${name}`, aria: { selected: String(state.queue === name) },
    on: { click: () => turnTo(name) },
  }, WORDS[name])));
}

const doneIn = (queue) => state.work.progress[queue === "label" ? "labelled" : "adjudicated"];

function turnTo(queue) {
  Object.assign(state, { queue, held: [], past: [], answered: new Set(), done: doneIn(queue) });
  showTabs();
  showKeys();
  advance();
}

/** Ask for more before the last is shown. What was answered here is so, whatever the gateway has heard of it yet. */
function fill() {
  const { queue } = state;
  state.filling ??= call("POST", "/next", { queue, count: AHEAD })
    .then((page) => {
      if (queue !== state.queue) return;
      const known = new Set([state.current?.id, ...state.held.map((item) => item.id)]);
      state.held.push(...page.data.filter((item) => !known.has(item.id) && !state.answered.has(item.id) && !outbox.has(item.id)));
    })
    .finally(() => { state.filling = null; });
  return state.filling;
}

async function advance() {
  state.current = null;
  if (!state.held.length) {
    try {
      await fill();
      // All that the gateway gave out may be answered here already: it gives more once it has heard.
      if (!state.held.length && outbox.letters.length) await outbox.delivered();
      if (!state.held.length) await fill();
    } catch (error) { return lost(error); }
  }
  const next = state.held.shift();
  if (next) show(next, null); else finished();
  if (state.held.length < 2) fill().catch(() => {});
  return undefined;
}

function lost(error) {
  if (error instanceof Refused && error.status === 401) return signIn(WORDS.wrong);
  toast(error instanceof Refused && error.status < 500 ? error.message : WORDS.offline);
  setTimeout(() => { if (!state.current) advance(); }, 2000);
  return undefined;
}

function finished() {
  state.view = null;
  // There may soon be more: an import goes on, somebody's lease runs out, or two others disagree.
  clearTimeout(state.again);
  state.again = setTimeout(() => { if (state.work && !state.current) advance(); }, AGAIN_MS);
  const undo = state.past.length ? make("button", { type: "button", on: { click: undo_ } }, make("kbd", {}, "u"), ` ${WORDS.undo}`) : null;
  find("main").replaceChildren(make("div", { className: "done", id: "done" }, make("h2", {}, WORDS.done),
    make("p", {}, state.queue === "label" ? WORDS.doneMore : WORDS.doneJudge), undo));
  count();
}

function show(item, value) {
  Object.assign(state, { current: item, correcting: value !== null, began: performance.now() });
  state.view = new ItemView(state.work.project, item, value, changed);
  const { guidelines } = state.work.project;
  const act = (name, key, heard, main) => make("button", { type: "button", id: name, className: main ? "main" : "",
    on: { click: heard } }, `${WORDS[name]} `, make("kbd", {}, key));
  find("main").replaceChildren(
    ...(guidelines ? [make("details", { open: state.done === 0 }, make("summary", {}, WORDS.guidelines), make("div", {}, guidelines))] : []),
    ...(state.correcting ? [make("p", { className: "note" }, WORDS.correcting)] : []),
    state.view.element,
    make("div", { className: "acts" }, act("submit", "⏎", submit, true), act("skip", "s", skip), act("undo", "u", undo_),
      autoBox()));
  state.view.field?.focus();
  changed(true);
  count();
}

function autoBox() {
  const { task, multiple } = state.work.project;
  if (multiple || !["classification", "preference"].includes(task)) return null;
  const box = make("input", { type: "checkbox", id: "auto", checked: state.auto });
  box.style.setProperty("width", "auto");
  box.addEventListener("change", () => { state.auto = box.checked; box.blur(); });
  return make("label", {}, box, ` ${WORDS.auto}`);
}

function changed(first) {
  find("submit").disabled = !state.view?.ready;
  find("skip").disabled = state.correcting;
  find("undo").disabled = !state.past.length;
  if (!first && state.auto && state.view.ready && state.view.value && !("text" in state.view.value)) submit();
}

function send(value) {
  const { current: item, queue } = state;
  const seconds = Math.min(86400, Math.round(performance.now() - state.began) / 1000);
  state.past = [...state.past.filter((one) => one.item.id !== item.id), { item, value }].slice(-100);
  if (!state.correcting && value) state.done += 1;
  state.answered.add(item.id);
  outbox.add({ id: item.id, body: value ? { queue, value, seconds } : { queue, skip: true, seconds } });
  advance();
}

function submit() {
  if (!state.view) return;
  if (!state.view.ready) { toast(state.view.field ? WORDS.write : WORDS.choose); return; }
  send(state.view.value);
}

function skip() { if (state.view && !state.correcting) send(null); }

function undo_() {
  const last = state.past.pop();
  if (!last) return;
  if (state.current && !state.correcting) state.held.unshift(state.current);
  show(last.item, last.value);
}

function count() {
  const { progress } = state.work;
  const total = state.queue === "label" ? progress.labelled + progress.open : progress.adjudicated + progress.adjudication;
  find("count").textContent = `${state.done} ${WORDS.today}`;
  find("meter").max = Math.max(1, total, state.done);
  find("meter").value = state.done;
}

function showKeys() {
  const { task } = state.work.project;
  const keys = task === "answer" || task === "text" ? [["Ctrl+⏎", "keysSend"]] : [["1–9", task === "spans" ? "keysMark" : "keysSelect"], ["⏎ ␣", "keysSend"]];
  if (task === "spans") keys.push(["← → ⇧", "keysMove"], ["⌫", "keysUnmark"]);
  if (state.queue === "adjudication") keys.push(["w", "own"]);
  keys.push(["s", "skip"], ["u", "undo"]);
  find("keys").replaceChildren(...keys.flatMap(([key, word]) => [make("kbd", {}, key), ` ${WORDS[word]}   `]));
}

document.addEventListener("keydown", (event) => {
  if (!state.work || event.isComposing || event.altKey || event.metaKey) return;
  if (event.target.matches("textarea, input:not([type=checkbox])")) {
    if (event.key === "Enter" && event.ctrlKey) { event.preventDefault(); submit(); }
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey) return;
  if (press(event)) event.preventDefault();
});

/** Do what a key means; says whether it means anything. */
function press(event) {
  const { view } = state, key = event.key;
  if (key === "u") { undo_(); return true; }
  if (!view) return false;
  if (key === "Enter" || key === " ") { submit(); return true; }
  if (key === "s") { skip(); return true; }
  if (key === "w" && view.item.labels) { view.write(); return true; }
  if (/^[1-9]$/.test(key)) {
    return view.item.labels && !view.writing ? view.propose(Number(key) - 1) : view.pick(Number(key) - 1);
  }
  if (!view.marker) return false;
  if (key === "ArrowLeft" || key === "ArrowRight") { view.marker.move(key === "ArrowLeft" ? -1 : 1, event.shiftKey); return true; }
  if (key === "Backspace" || key === "Delete") { view.marker.unmark(); return true; }
  return false;
}

find("leave").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  Object.assign(state, { work: null, held: [], past: [], current: null, view: null, queue: "label" });
  signIn("");
});
addEventListener("beforeunload", (event) => { if (outbox.letters.length) event.preventDefault(); });
open();
