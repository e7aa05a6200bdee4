// What the page says, from what the server answers. Pure functions: nothing here touches the page.

const VERDICTS = { REAL: "Looks like a photograph", AI: "Looks AI-generated", UNCERTAIN: "Not sure" };

const SIZE = /^(\d+)x(\d+), trained on (\d+)x(\d+): (.+)$/;
const REASONS = [
  [/so far that/, "Shrunk this far, most of what a generator leaves behind is lost."],
  [/^scaled down$/, "It is shrunk, and fine detail is lost."],
  [/^scaled up$/, "It is enlarged, which adds detail that was never there."],
  [/^squeezed to a square$/, "It is not square, and is squeezed until it is."],
  [/^(\d+) tiles of that size vote$/, (found) => `${found[1]} small squares of it vote. The picture as a whole is not looked at.`],
  [/^its middle alone is looked at$/, "The small square in its middle is all that is looked at."],
];

/** @returns {string} the verdict of an answer, or what became of it. */
export function verdictOf(answer) {
  return answer.error ? "No answer" : (VERDICTS[answer.verdict] ?? String(answer.verdict));
}

/** An answer, its verdict "not sure" where its probability lies in the model's zone of doubt. */
export function withZone(answer, model) {
  const [low, high] = model?.unsure ?? [2, 2];
  return answer.error || answer.prob_real < low || answer.prob_real > high ? answer : { ...answer, verdict: "UNCERTAIN" };
}

/** Whether an answer's warning says that the picture has another size than those of training. */
export function isUnlike(answer) {
  return parts(answer.warning).some((part) => SIZE.test(part));
}

/** A share of 0 to 1 as people count: "97 in 100", "more than 99 in 100". */
export function inHundred(share) {
  if (share > 0.995) return "more than 99 in 100";
  if (share < 0.005) return "fewer than 1 in 100";
  return `${Math.round(100 * share)} in 100`;
}

export function percent(share) {
  return `${Number((100 * share).toFixed(1))} %`;
}

/** The probability as a statement, true of pictures like those of the test and said to be no more. */
export function statementOf(answer, model) {
  if (answer.error) return sentence(answer.error);
  const photograph = answer.verdict !== "AI";
  const share = inHundred(photograph ? answer.prob_real : 1 - answer.prob_real);
  const kind = photograph ? "photographs" : "AI-generated";
  const close = answer.verdict === "UNCERTAIN" ? " That is too close to say." : "";
  const calibrated = typeof model?.temperature === "number" && model.temperature !== 1;
  if (!calibrated) {
    return `The model’s own number: ${share} for ${photograph ? "a photograph" : "AI-generated"}. Nobody has checked how often that is right.${close}`;
  }
  if (isUnlike(answer)) {
    return `Of test pictures with this answer, ${about(share)} are ${kind}.${close} This one is unlike them, so take that as a hint at most.`;
  }
  return `${capital(about(share))} test pictures with this answer are ${kind}.${close}`;
}

/** Sentences on why an answer deserves less trust; what is not known here is said as it came. */
export function doubtsOf(answer) {
  const doubts = [];
  for (const part of parts(answer.warning)) {
    const size = SIZE.exec(part);
    if (size) {
      const [, width, height, sideways, down, reasons] = size;
      doubts.push(`It has ${width}×${height} pixels. The model was trained on ${sideways}×${down}.`);
      doubts.push(...reasons.split(", ").map(reasonOf));
    } else {
      const named = /^named (\S+) but holds (\S+)$/.exec(part);
      doubts.push(named ? `Its name ends in ${named[1]}, but it holds ${named[2]}: somebody converted or renamed it.` : sentence(/^(is|has) /.test(part) ? `it ${part}` : part));
    }
  }
  return doubts;
}

/** What a screen reader hears of the bar. */
export function barLabel(answer, model) {
  const words = [`Probability of a photograph: ${percent(answer.prob_real)}`, `threshold at ${percent(model.threshold)}`];
  if (model.unsure) words.push(`not sure from ${percent(model.unsure[0])} to ${percent(model.unsure[1])}`);
  return `${words.join(", ")}.`;
}

/** "5 pictures: 2 look like photographs, 2 AI-generated, 1 not sure." */
export function summaryOf(counts) {
  const said = [];
  if (counts.REAL) said.push(`${counts.REAL} ${counts.REAL === 1 ? "looks like a photograph" : "look like photographs"}`);
  if (counts.AI) said.push(`${counts.AI} ${counts.AI === 1 ? "looks" : "look"} AI-generated`);
  if (counts.UNCERTAIN) said.push(`${counts.UNCERTAIN} not sure`);
  if (counts.error) said.push(`${counts.error} without an answer`);
  if (counts.waiting) said.push(`${counts.waiting} not asked yet`);
  return `${pictures(counts.all)}${said.length ? `: ${said.join(", ")}` : ""}.`;
}

export function pictures(count) {
  return count === 1 ? "1 picture" : `${count.toLocaleString("en")} pictures`;
}

export function bytes(count) {
  if (count >= 2 ** 20) return `${Number((count / 2 ** 20).toFixed(1))} MB`;
  return count >= 1024 ? `${Math.round(count / 1024)} kB` : `${count} bytes`;
}

export function sentence(words) {
  const said = capital(String(words).trim());
  return /[.!?]$/.test(said) ? said : `${said}.`;
}

const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);
const parts = (warning) => (warning ? warning.split("; ") : []);
const about = (share) => (/^\d/.test(share) ? `about ${share}` : share);

function reasonOf(reason) {
  for (const [pattern, words] of REASONS) {
    const found = pattern.exec(reason);
    if (found) return typeof words === "string" ? words : words(found);
  }
  return sentence(reason);
}
