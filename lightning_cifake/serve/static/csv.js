// The answers as a file: the columns of `predict --csv --csv_safe`.

const COLUMNS = ["path", "verdict", "prob_real", "error", "warning"];
const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

/** Answers -> CSV with a header, in which no spreadsheet takes a cell for a formula. */
export function csvOf(answers) {
  const rows = answers.map((answer) => COLUMNS.map((column) => cell(answer[column])).join(","));
  return [COLUMNS.join(","), ...rows, ""].join("\n");
}

function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
