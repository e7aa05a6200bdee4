// One picture's card: thumbnail, verdict, bar, doubts, and on request what the network saw.

import { RequestError, explain } from "./server.js";
import { barLabel, bytes, doubtsOf, sentence, statementOf, verdictOf } from "./words.js";

const template = document.getElementById("card-template");
let numbers = 0;

export class Card {
  /** `page`: {model, announce(words), removed(card)}. */
  constructor(file, page) {
    this.file = file;
    this.page = page;
    this.answer = null;
    this.state = "waiting";
    this.element = template.content.firstElementChild.cloneNode(true);
    this.id = `card-${(numbers += 1)}`;
    this.part(".name").textContent = file.name;
    this.part("h3").id = this.id;
    this.element.setAttribute("aria-labelledby", this.id);
    this.showThumbnail();
    const remove = this.part(".remove");
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => page.removed(this));
    this.explainButton = this.part(".explain");
    this.explainButton.setAttribute("aria-label", `What it saw in ${file.name}`);
    this.explainButton.addEventListener("click", () => this.toggleExplained());
    this.show();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  showThumbnail() {
    const image = this.part("img");
    this.url = URL.createObjectURL(this.file);
    image.addEventListener("load", () => {
      const size = `${image.naturalWidth}×${image.naturalHeight}, ${bytes(this.file.size)}`;
      this.part(".thumb").title = size;
      // a picture of a few pixels is shown as it is, not smoothed
      image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
    });
    image.addEventListener("error", () => {
      image.hidden = true;
      this.part(".no-thumb").hidden = false;
    });
    image.src = this.url;
  }

  /** The state: waiting, asked (an answer may be there already), answered, refused, unanswered. */
  set(state, answer = this.answer) {
    this.state = state;
    this.answer = answer;
    this.show();
  }

  show() {
    const { answer, state } = this;
    const { model } = this.page;
    const settled = answer !== null && !["waiting", "unanswered"].includes(state);
    this.element.setAttribute("aria-busy", String(state === "waiting"));
    this.element.dataset.verdict = settled ? (answer.error ? "error" : answer.verdict) : state;
    this.part(".verdict").textContent = settled
      ? verdictOf(answer)
      : { waiting: "Looking…", unanswered: "Not asked yet" }[state];
    const known = settled && !answer.error;
    this.part(".statement").textContent = settled ? statementOf(answer, model) : "";
    this.part(".bar").hidden = !known;
    if (known) this.showBar(answer, model);
    const doubts = known ? doubtsOf(answer) : [];
    this.part(".doubts").hidden = doubts.length === 0;
    this.part(".doubts ul").replaceChildren(...doubts.map((words) => made("li", words)));
    this.explainButton.hidden = !known;
  }

  showBar(answer, model) {
    const track = this.part(".track");
    track.setAttribute("aria-label", model ? barLabel(answer, model) : "");
    const at = (selector, share) => (this.part(selector).style.left = `${100 * share}%`);
    at(".track .dot", answer.prob_real);
    this.part(".track .tick").hidden = typeof model?.threshold !== "number";
    if (typeof model?.threshold === "number") at(".track .tick", model.threshold);
    const zone = this.part(".track .zone");
    zone.hidden = !model?.unsure;
    if (model?.unsure) {
      at(".track .zone", model.unsure[0]);
      zone.style.width = `${100 * (model.unsure[1] - model.unsure[0])}%`;
    }
  }

  async toggleExplained() {
    const panel = this.part(".explained");
    const open = panel.hidden;
    panel.hidden = !open;
    this.explainButton.setAttribute("aria-expanded", String(open));
    if (!open || panel.dataset.state === "shown" || panel.dataset.state === "asked") return;
    panel.dataset.state = "asked";
    panel.replaceChildren(made("p", "Covering one patch after another…", "quiet"));
    try {
      panel.replaceChildren(...this.explanation(await explain(this.file)));
      panel.dataset.state = "shown";
      this.page.announce(`Shown: what the network saw in ${this.file.name}, and its map.`);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      panel.dataset.state = "failed";
      const again = made("button", "Try again");
      again.type = "button";
      again.addEventListener("click", () => {
        panel.hidden = true;
        this.toggleExplained();
        this.explainButton.focus();
      });
      const words = error.busy ? "The server is busy." : sentence(error.message);
      panel.replaceChildren(made("p", words), again);
      this.page.announce(words);
    }
  }

  explanation(found) {
    const size = `${this.page.model?.image_size ?? 32}`;
    const parts = [
      picture(found.view, `${this.file.name} at ${size}×${size} pixels`, `All that the network sees: ${size}×${size} pixels.`),
      picture(found.overlay, `Map of what speaks for which answer in ${this.file.name}`, ""),
    ];
    // the map is laid over the picture in grey, so that its colours are the map's alone
    const below = parts[0].firstChild.cloneNode();
    below.alt = "";
    const stack = made("div", "", "stack");
    stack.append(below, parts[1].firstChild);
    parts[1].prepend(stack);
    parts[1].lastChild.append(
      made("span", "Blue", "for-real"), " speaks for a photograph, ", made("span", "orange", "for-ai"), " for AI-generated.",
    );
    const note =
      "Patch after patch was covered, and the model asked again. The map says where its answer comes from, not why, and not whether it is right.";
    const shrunk = found.answer?.warning?.includes("trained on") ? " Both show the whole picture, shrunk." : "";
    const figures = made("div", "", "figures");
    figures.append(...parts);
    return [figures, made("p", note + shrunk, "quiet")];
  }

  close() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}

function picture(source, alt, caption) {
  const figure = made("figure");
  const image = made("img");
  image.alt = alt;
  // nothing but a picture that came with the answer: no address is ever fetched for it
  if (typeof source === "string" && source.startsWith("data:image/png;base64,")) image.src = source;
  figure.append(image, made("figcaption", caption));
  return figure;
}

/** An element with words in it, as text. */
export function made(name, words = "", kind = "") {
  const element = document.createElement(name);
  if (words) element.textContent = words;
  if (kind) element.className = kind;
  return element;
}
