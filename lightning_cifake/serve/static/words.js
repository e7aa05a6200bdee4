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

/** The probability as a statement, true of pictures like those it was held against and said to be no more. */
export function statementOf(answer, model) {
  if (answer.error) return sentence(answer.error);
  const photograph = answer.verdict !== "AI";
  const share = photograph ? answer.prob_real : 1 - answer.prob_real;
  const { method, images, error } = model?.calibration ?? {};
  const said = [];
  if (method === "temperature" || method === "isotonic") {
    const kind = photograph ? "photographs" : "AI-generated";
    const count = about(inHundred(share));
    if (images) said.push(`Of the pictures it was calibrated on, ${count} with this answer are ${kind}.`);
    else if (isUnlike(answer)) said.push(`Of test pictures with this answer, ${count} are ${kind}.`);
    else said.push(`${capital(count)} test pictures with this answer are ${kind}.`);
    said.push(onThreshold(answer, share, model));
    if (isUnlike(answer)) said.push(`${images ? "If this one is unlike them," : "This one is unlike them, so"} take that as a hint at most.`);
  } else {
    said.push(`The model’s own number: ${inHundred(share)} for ${photograph ? "a photograph" : "AI-generated"}.`);
    if (method) said.push(`On ${pictures(images)} such numbers were off by ${(100 * error).toFixed(1)} in 100 on average.`);
    else said.push("Nobody has checked how often that is right.");
    said.push(onThreshold(answer, share, model));
  }
  return said.filter(Boolean).join(" ");
}

/** What a probability does not say by itself: that it is too close to say, or that the threshold decided otherwise. */
function onThreshold(answer, share, model) {
  const even = typeof model?.threshold !== "number" || model.threshold === 0.5;
  if (answer.verdict === "UNCERTAIN") return `That is too close to ${even ? "" : `the threshold, ${percent(model.threshold)}, to `}say.`;
  if (even || share >= 0.5) return "";
  return `It is called ${answer.verdict === "AI" ? "that" : "a photograph"} all the same: the threshold is set at ${percent(model.threshold)}.`;
}

/** How the probabilities were made and held against known pictures. */
export function calibrationWords(model) {
  const { method, images, data, error } = model.calibration ?? {};
  const where = images ? `${pictures(images)}${data ? ` (${data})` : ""}` : "pictures that were not trained on";
  if (method === "temperature") return `temperature ${model.temperature.toFixed(3)}, fitted on ${where}`;
  if (method === "isotonic") return `a curve, fitted on ${where}`;
  if (method) return `as the network gives them; off by ${(100 * error).toFixed(1)} in 100 on average on ${where}`;
  if (model.temperature === 1) return "as the network gives them; nobody has checked how often they are right";
  return `temperature ${model.temperature.toFixed(3)}; nobody has checked how often they are right`;
}

/** Where the threshold lies, and by which rule of `calibrate` it was chosen. */
export function thresholdWords(model) {
  const [rule, rate] = (model.calibration?.rule ?? "").split("=");
  const most = `${Number((100 * Number(rate)).toFixed(2))} %`;
  const why = {
    accuracy: "for the most right answers",
    youden: "for the best mean of both recalls",
    false_alarms: `so that at most ${most} of photographs are called AI-generated`,
    recall: `so that at least ${most} of AI-generated pictures are found`,
  }[rule];
  return `a photograph above ${percent(model.threshold)}${why ? `, chosen ${why}` : ""}`;
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
