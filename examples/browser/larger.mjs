// What the model is given of a picture of another size: as lightning_cifake/data/resize.py and deploy/larger.py.

const TILES = 16;

/**
 * A picture -> {data, height, width, count}: what the model is given, `count` images of RGB one behind the other.
 * `warning` says why a picture of this size deserves less trust.
 */
export function prepare(picture, size, larger) {
  const grid = larger === "resize" ? null : gridOf(picture, size, larger === "crop" ? 1 : TILES);
  if (!grid) return { ...thin(picture, size), count: 1, warning: warningOf(picture, size) };
  const [rows, columns] = grid;
  const count = rows.length * columns.length;
  const data = new Uint8Array(count * size * size * 3);
  rows.forEach((top, row) => {
    const band = picture.rows(top, top + size);
    columns.forEach((left, column) => {
      for (let y = 0; y < size; y += 1) {
        const line = band.subarray((y * picture.width + left) * 3, (y * picture.width + left + size) * 3);
        data.set(line, ((row * columns.length + column) * size + y) * size * 3);
      }
    });
  });
  const own = picture.width === size && picture.height === size;
  const what = count > 1 ? `${count} tiles of that size vote` : "its middle alone is looked at";
  return { data, height: size, width: size, count, warning: own ? null : `${sizes(picture, size)}: ${what}` };
}

/** Fewer than 4 S pixels a side, of which the model's graph makes what it makes of the whole, to the last bit. */
export function thin(picture, size) {
  const { width, height } = picture;
  if (Math.max(width, height) < 4 * size) return { data: picture.rows(0, height), height, width };
  const down = sampled(height, size);
  const across = sampled(width, size);
  const data = new Uint8Array(down.length * across.length * 3);
  let first = 0;
  while (first < down.places.length) {
    // neighbours that stay neighbours, together
    let last = first;
    while (last + 1 < down.places.length && down.places[last + 1][0] === down.places[last][0] + 1 && last - first < 63) last += 1;
    const rows = picture.rows(down.places[first][0], down.places[last][0] + 1);
    for (let at = first; at <= last; at += 1) {
      const from = (down.places[at][0] - down.places[first][0]) * width;
      const to = down.places[at][1] * across.length;
      for (const [source, target] of across.places) {
        for (let channel = 0; channel < 3; channel += 1) {
          data[(to + target) * 3 + channel] = rows[(from + source) * 3 + channel];
        }
      }
    }
    first = last + 1;
  }
  return { data, height: down.length, width: across.length };
}

/** [place in the picture, place in what is made of it] of what is looked at, and the length of the latter. */
function sampled(length, size) {
  if (length < 4 * size) return { places: Array.from({ length }, (_, place) => [place, place]), length };
  const thinned = 2 * size + (length % (2 * size));
  const places = [];
  for (let place = 0; place < size; place += 1) {
    const at = (whole) => Math.floor(((2 * place + 1) * whole - size) / (2 * size));
    places.push([at(length), at(thinned)], [at(length) + 1, at(thinned) + 1]);
  }
  return { places, length: thinned };
}

/** Where tiles begin, down and across; null where none fits. */
function gridOf({ width, height }, size, most) {
  if (Math.min(width, height) < size) return null;
  const down = Math.ceil(height / size);
  const across = Math.ceil(width / size);
  let best = null;
  for (let rows = 1; rows <= Math.min(down, most); rows += 1) {
    const columns = Math.min(across, Math.floor(most / rows));
    const shape = -Math.abs(Math.log((height * columns) / (width * rows)));
    const better = best === null || rows * columns > best.count || (rows * columns === best.count && shape > best.shape);
    if (better) best = { count: rows * columns, shape, rows, columns };
  }
  return [offsets(height, size, best.rows), offsets(width, size, best.columns)];
}

function offsets(length, size, count) {
  return Array.from({ length: count }, (_, place) =>
    count > 1 && count * size >= length
      ? Math.floor((place * (length - size)) / (count - 1))
      : Math.floor((Math.floor(((2 * place + 1) * length) / count) - size) / 2),
  );
}

const sizes = ({ width, height }, size) => `${width}x${height}, trained on ${size}x${size}`;

function warningOf(picture, size) {
  const short = Math.min(picture.width, picture.height);
  const long = Math.max(picture.width, picture.height);
  if (short === size && long === size) return null;
  const reasons = [];
  if (short > 4 * size) reasons.push("scaled down so far that what generators leave behind is mostly lost");
  else reasons.push(short < size ? "scaled up" : "scaled down");
  if (long > 1.25 * short) reasons.push("squeezed to a square");
  return `${sizes(picture, size)}: ${reasons.join(", ")}`;
}
