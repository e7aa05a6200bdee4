// A file's bytes -> rows of its pixels, by the policy of docs/data.md: upright by EXIF, colours converted to sRGB, the first
// frame, transparency dropped. What remains different from Python's decoder is said in README.md.

const ROWS = 256; // that are read from the canvas at once, at most

const KINDS = [
  ["JPEG", [".jpg", ".jpeg", ".jpe", ".jfif"], (b) => b[0] === 0xff && b[1] === 0xd8],
  ["PNG", [".png"], (b) => b[0] === 0x89 && b[1] === 0x50 && b[2] === 0x4e && b[3] === 0x47],
  ["GIF", [".gif"], (b) => b[0] === 0x47 && b[1] === 0x49 && b[2] === 0x46],
  ["WEBP", [".webp"], (b) => b[0] === 0x52 && b[1] === 0x49 && b[8] === 0x57 && b[9] === 0x45],
  ["BMP", [".bmp"], (b) => b[0] === 0x42 && b[1] === 0x4d],
];

/**
 * @returns {Promise<object>} `width`, `height`, `warning`, `transparent`; `rows(first, end)` gives (end - first) x width x 3
 *   bytes of RGB; `close()` lets go of it.
 */
export async function decode(file) {
  if (!file.size) throw new Error("empty file");
  const start = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  const kind = KINDS.find(([, , fits]) => fits(start));
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" });
  } catch {
    throw new Error("not an image, or of a format that this browser does not read");
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, Math.min(height, ROWS));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  context.imageSmoothingEnabled = false;

  const suffix = /\.[^./\\]+$/.exec(file.name.toLowerCase())?.[0];
  const misnamed = kind && KINDS.some(([, suffixes]) => suffixes.includes(suffix)) && !kind[1].includes(suffix);
  return {
    width,
    height,
    transparent: false, // known when all rows have been read
    warning: misnamed ? `named ${suffix} but holds ${kind[0]}` : null,
    rows(first, end) {
      const found = new Uint8Array((end - first) * width * 3);
      for (let top = first; top < end; top += ROWS) {
        const count = Math.min(ROWS, end - top);
        context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
        const { data } = context.getImageData(0, 0, width, count);
        let to = (top - first) * width * 3;
        for (let from = 0; from < data.length; from += 4) {
          found[to++] = data[from];
          found[to++] = data[from + 1];
          found[to++] = data[from + 2];
          if (data[from + 3] !== 255) this.transparent = true;
        }
      }
      return found;
    },
    close: () => bitmap.close(),
  };
}
