// Pictures on their way in: dropped (folders too), pasted, chosen, photographed.

/** Calls `take(files)` for each way; returns what opens the chooser. */
export function listen(take) {
  const chooser = document.getElementById("files");
  const camera = document.getElementById("camera");
  for (const input of [chooser, camera]) {
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // the same file may be chosen again
    });
  }
  document.getElementById("choose").addEventListener("click", () => chooser.click());
  const photograph = document.getElementById("photograph");
  photograph.hidden = !matchMedia("(pointer: coarse)").matches; // elsewhere it would be another file chooser
  photograph.addEventListener("click", () => camera.click());

  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (on) => document.body.classList.toggle("dragging", on);
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    mark(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(false);
    take(await dropped(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files.map(named));
  });
}

let pasted = 0;

/** Browsers call every picture that is pasted image.png. */
function named(file) {
  if (file.name && file.name !== "image.png") return file;
  pasted += 1;
  return new File([file], `pasted-${pasted}.${file.type.split("/")[1] ?? "png"}`, { type: file.type });
}

async function dropped(transfer) {
  // entries are gone after the first await
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => below(entry, true)))).flat();
}

/** The files of an entry; in folders, pictures alone, and nothing hidden. */
async function below(entry, top = false) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed)).catch(() => null);
    return file && (top || (file.type.startsWith("image/") && !file.name.startsWith("."))) ? [file] : [];
  }
  const reader = entry.createReader();
  const found = [];
  // it gives a hundred at a time
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed)).catch(() => []);
    if (!some.length) break;
    found.push(...some);
  }
  found.sort((one, other) => one.name.localeCompare(other.name));
  return (await Promise.all(found.map((each) => below(each)))).flat();
}
