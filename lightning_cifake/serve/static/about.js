// The dialog about the model: its figures and its card.

import { made } from "./card.js";
import { calibrationWords, percent, thresholdWords } from "./words.js";

const KEPT = new Set(
  "A B BLOCKQUOTE BR CODE DD DL DT EM H1 H2 H3 H4 H5 H6 HR I LI OL P PRE STRONG SUB SUP TABLE TBODY TD TH THEAD TR UL".split(" "),
);

export function fillAbout(body, model) {
  const facts = made("dl", "", "facts");
  const fact = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    facts.append(made("dt", name), made("dd", String(value), name === "SHA-256" ? "digest" : ""));
  };
  const figures = model.figures ?? {};
  fact("Name", model.name);
  fact("Looks at", `${model.image_size}×${model.image_size} pixels`);
  fact("Trained on", model.trained_on);
  if (typeof figures.accuracy === "number") fact("Accuracy", `${percentOf(figures.accuracy)}${testedOn(figures)}`);
  if (typeof figures.auroc === "number") fact("AUROC", figures.auroc.toFixed(4));
  fact("Threshold", thresholdWords(model));
  if (model.unsure) fact("Not sure", `from ${percent(model.unsure[0])} to ${percent(model.unsure[1])}`);
  if (typeof model.temperature === "number") fact("Probabilities", calibrationWords(model));
  fact("File", model.file);
  fact("SHA-256", model.sha256);
  body.replaceChildren(facts);
  if (typeof model.card === "string" && model.card) {
    const card = made("div", "", "model-card");
    card.append(...cleaned(new DOMParser().parseFromString(model.card, "text/html").body));
    body.append(card);
  } else {
    body.append(made("p", "No card lies beside this model.", "quiet"));
  }
}

const percentOf = (share) => `${(100 * share).toFixed(2)} %`;

function testedOn(figures) {
  if (typeof figures.images !== "number") return "";
  return ` of ${figures.images.toLocaleString("en")} test pictures${figures.data ? ` (${figures.data})` : ""}`;
}

/** Copies of a node's children: text, and elements of an allowed name without attributes, but for links to the web. */
function cleaned(node) {
  const found = [];
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) found.push(child.cloneNode());
    else if (child.nodeType === Node.ELEMENT_NODE && !["SCRIPT", "STYLE", "TEMPLATE"].includes(child.nodeName)) {
      if (!KEPT.has(child.nodeName)) found.push(...cleaned(child));
      else {
        // the dialog has the page's second heading: the card's own begin below it
        const name = child.nodeName.replace(/^H([1-6])$/, (_, level) => `H${Math.min(6, Number(level) + 2)}`);
        const copy = document.createElement(name);
        if (name === "A" && /^https?:\/\//.test(child.getAttribute("href") ?? "")) {
          copy.href = child.getAttribute("href");
          copy.rel = "noopener noreferrer";
          copy.target = "_blank";
        }
        if (["PRE", "TABLE"].includes(name)) copy.tabIndex = 0; // they scroll sideways, by the keyboard too
        copy.append(...cleaned(child));
        found.push(copy);
      }
    }
  }
  return found;
}
