// Speaks with the gateway. A label that was given is kept in the outbox until the gateway has said that it is stored.
const PROJECT = location.pathname.split("/")[2];
const WORK = `/v1/labelling/projects/${PROJECT}/work`;
const TOKEN = `heliu.label.${PROJECT}.token`, OUTBOX = `heliu.label.${PROJECT}.outbox`;

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function call(method, path, body) {
  const response = await fetch(WORK + path, {
    method,
    headers: { authorization: `Bearer ${sessionStorage.getItem(TOKEN) ?? ""}`, "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.error?.message ?? String(response.status));
  return answer;
}

const outbox = {
  letters: JSON.parse(sessionStorage.getItem(OUTBOX) ?? "[]"),
  busy: false,
  waiting: [],
  refused: () => {},
  keep() {
    sessionStorage.setItem(OUTBOX, JSON.stringify(this.letters));
    find("sent").textContent = this.letters.length ? `${this.letters.length} ${WORDS.sending}` : "";
  },
  has(id) { return this.letters.some((letter) => letter.id === id); },
  add(letter) { this.letters.push(letter); this.keep(); this.flush(); },
  /** One after the other, in the order in which they were given; again and again while nobody answers. */
  async flush() {
    if (this.busy) return;
    this.busy = true;
    let pause = 250;
    while (this.letters.length) {
      const { id, body } = this.letters[0];
      try {
        await call("POST", `/items/${encodeURIComponent(id)}/labels`, body);
      } catch (error) {
        if (!(error instanceof Refused) || error.status >= 500 || error.status === 429) {
          toast(WORDS.offline);
          await new Promise((resume) => setTimeout(resume, pause));
          pause = Math.min(5000, pause * 2);
          continue;
        }
        if (error.status === 401) break;
        this.refused(id);
        toast(error.status === 409 ? WORDS.taken : WORDS.refused + error.message);
      }
      this.letters.shift();
      this.keep();
    }
    this.busy = false;
    if (!this.letters.length) this.waiting.splice(0).forEach((heard) => heard());
  },
  delivered() { return new Promise((heard) => { this.waiting.push(heard); }); },
};
