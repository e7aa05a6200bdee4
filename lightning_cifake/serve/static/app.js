// The page: pictures come in, cards show what the server says of them. No framework, no storage, one origin.

import { fillAbout } from "./about.js";
import { Asking } from "./asking.js";
import { Card } from "./card.js";
import { csvOf } from "./csv.js";
import { listen } from "./intake.js";
import { RequestError, getModel, useToken, where } from "./server.js";
import { bytes, percent, pictures, sentence, statementOf, summaryOf, verdictOf, withZone } from "./words.js";

const of = (id) => document.getElementById(id);
let cards = []; // as they stand on the page
let batch = []; // what came in since all was quiet: told of together
let busyFor = 0; // seconds

const page = {
  model: null,
  announce: (words) => (of("status").textContent = words),
  removed: remove,
};

const asking = new Asking({
  answered: (card, answer) => card.set("answered", withZone({ ...answer, path: card.file.name }, page.model)),
  refused: (card, reason) => card.set("refused", failed(card, reason)),
  unanswered: (some, error) => {
    for (const card of some) card.set("unanswered", null);
    askAgain(error);
  },
  waits: (seconds) => {
    busyFor = seconds;
  },
  needsToken: () => of("token").open || of("token").showModal(),
  changed: update,
});

const failed = (card, reason) => ({ path: card.file.name, verdict: null, prob_real: null, error: reason, warning: null });

function take(files) {
  if (!files.length) return;
  const most = fileLimit() ?? Infinity;
  const fresh = files.map((file) => new Card(file, page));
  cards = [...fresh, ...cards]; // what came last is read first
  of("cards").prepend(...fresh.map((card) => card.element));
  batch.push(...fresh);
  for (const card of fresh.filter((each) => each.file.size > most)) {
    card.set("refused", failed(card, `it has ${bytes(card.file.size)}, and this server takes at most ${bytes(most)}`));
  }
  asking.add(fresh.filter((each) => each.state === "waiting"));
  // on a phone the answers begin below the screen
  if (of("results").getBoundingClientRect().top > innerHeight / 2) of("results").scrollIntoView();
}

/** The most bytes of one file, if the server says so. */
const fileLimit = () => asking.limits.file_bytes ?? asking.limits.body_bytes;

function remove(card) {
  const at = cards.indexOf(card);
  cards.splice(at, 1);
  batch = batch.filter((each) => each !== card);
  card.close();
  asking.drop([card]);
  const next = cards[Math.min(at, cards.length - 1)];
  (next ? next.element.querySelector(".remove") : of("choose")).focus();
}

function update() {
  const waiting = cards.filter((card) => card.state === "waiting").length;
  of("results").hidden = cards.length === 0;
  document.body.classList.toggle("with-answers", cards.length > 0);
  of("progress").hidden = waiting === 0 || batch.length < 2;
  if (waiting) {
    const done = batch.length - batch.filter((card) => card.state === "waiting").length;
    of("progress-bar").max = batch.length;
    of("progress-bar").value = done;
    const busy = asking.pause ? ` The server is busy: trying again in ${Math.ceil(busyFor)} s.` : "";
    of("progress-words").textContent = `${done} of ${pictures(batch.length)} answered.${busy}`;
    if (asking.pause) of("progress").hidden = false;
  }
  of("summary").textContent = waiting ? "" : summaryOf(count());
  of("csv").disabled = !cards.some((card) => card.answer && card.state !== "waiting");
  if (!cards.some((card) => card.state === "unanswered")) of("again").hidden = true;
  if (waiting === 0 && batch.length) tell();
}

/** Says once, to who listens, what became of the pictures that came in together. */
function tell() {
  const done = batch.filter((card) => card.answer);
  batch = [];
  if (done.length === 1) {
    const [{ answer }] = done;
    page.announce(`${answer.path}: ${verdictOf(answer)}. ${statementOf(answer, page.model)}`);
  } else if (done.length) page.announce(`${pictures(done.length)} answered. ${summaryOf(count())}`);
}

function count() {
  const counts = { all: cards.length, REAL: 0, AI: 0, UNCERTAIN: 0, error: 0, waiting: 0 };
  for (const { answer } of cards) counts[!answer ? "waiting" : answer.error ? "error" : answer.verdict] += 1;
  return counts;
}

function askAgain(error) {
  const why = {
    0: "The server cannot be reached. Has it stopped? Your pictures are still here.",
    429: "The server has too much to do just now. Your pictures are still here.",
    503: "The server has too much to do just now. Your pictures are still here.",
  };
  of("again").hidden = false;
  of("again-words").textContent = why[error?.status] ?? (error ? `Something went wrong: ${sentence(error.message)}` : "Stopped.");
  if (error) page.announce(of("again-words").textContent);
}

function ask(some) {
  if (!some.length) return;
  for (const card of some) card.set("waiting");
  batch.push(...some);
  of("again").hidden = true;
  asking.add(some);
}

async function loadModel() {
  try {
    page.model = await getModel();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.status === 401) return of("token").showModal();
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Try again";
    again.addEventListener("click", loadModel);
    of("alert").replaceChildren(`The server does not say which model it asks: ${sentence(error.message)} `, again);
    return;
  }
  of("alert").replaceChildren();
  showModel(page.model);
  for (const card of cards) card.show();
}

function showModel(model) {
  asking.limits = model.limits ?? {};
  for (const each of document.querySelectorAll("[data-size]")) each.textContent = `${model.image_size}×${model.image_size}`;
  of("legend-threshold").textContent = `the threshold, ${percent(model.threshold)}`;
  of("legend-unsure").hidden = !model.unsure;
  if (model.unsure) of("legend-zone").textContent = `not sure, ${percent(model.unsure[0])} to ${percent(model.unsure[1])}`;
  for (const radio of document.getElementsByName("larger")) {
    radio.disabled = Array.isArray(model.larger) && !model.larger.includes(radio.value);
  }
  const most = fileLimit();
  of("limits").textContent = `One or many${most ? `, up to ${bytes(most)} each` : ""}.`;
  if (!["temperature", "isotonic"].includes(model.calibration?.method)) {
    of("probability").textContent = "“97 in 100” is what this model says of its own answer. Such numbers are often too sure.";
  }
  if (model.trained_on) {
    of("trained-on").textContent = `It was trained on ${model.trained_on}. What it says of other generators and other pictures is untested.`;
  }
  of("footer").textContent = `Answers by ${model.name}${model.version ? `, lightning_cifake ${model.version}` : ""}.`;
  fillAbout(of("about-body"), model);
}

function sayWhereItGoes() {
  const { hostname, host } = location;
  const here = hostname === "localhost" || hostname === "[::1]" || /^127\./.test(hostname);
  of("api").hidden = where !== null;
  of("privacy").textContent = where ?? (here
    ? "Nothing is kept, and nothing leaves this machine: pictures go to the program that serves this page, and no further."
    : `Nothing is kept. Pictures go to ${host}, which serves this page, and no further.`);
}

function download() {
  const answers = cards.filter((card) => card.answer && card.state !== "waiting").map((card) => card.answer);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvOf(answers)], { type: "text/csv;charset=utf-8" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

listen(take);
of("csv").addEventListener("click", download);
of("clear").addEventListener("click", () => {
  asking.stop();
  for (const card of cards) card.close();
  cards = [];
  batch = [];
  update();
  page.announce("All pictures are cleared.");
  of("choose").focus();
});
of("stop").addEventListener("click", () => {
  for (const card of asking.stop()) card.set(card.answer ? "answered" : "unanswered");
  if (cards.some((card) => card.state === "unanswered")) askAgain(null);
  update();
  (of("again").hidden ? of("choose") : of("retry")).focus();
});
of("retry").addEventListener("click", () => {
  ask(cards.filter((card) => card.state === "unanswered").map((card) => Object.assign(card, { alone: false })));
  of("results").querySelector(".card").focus({ preventScroll: true });
});
of("policy").addEventListener("change", (event) => {
  const unanswered = new Set(asking.stop()); // some may be on their way by the policy of before
  asking.larger = event.target.value;
  batch = batch.filter((card) => !unanswered.has(card));
  // a picture of the model's own size has the same answer by every policy
  const other = (card) => card.state === "answered" && card.answer.warning?.includes("trained on");
  ask(cards.filter((card) => unanswered.has(card) || other(card)));
});
of("about-open").addEventListener("click", () => of("about").showModal());
of("about-close").addEventListener("click", () => of("about").close());
of("about").addEventListener("click", (event) => event.target === of("about") && of("about").close());
of("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(of("token-value").value.trim());
  of("token-value").value = "";
  of("token").close();
  loadModel();
  asking.resume();
});
sayWhereItGoes();
await loadModel();
