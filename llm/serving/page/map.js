// The map: one strip of all windows of the book, coloured by what the model knows of them, and an enlarged piece of it.

const LENS = 61;  // windows in the enlarged piece
let starts = [], levels = [];  // of each window: its first character; 100 = by heart, -1 = not measured
let known = null;  // share of the measured windows that are known by heart
let spot = 0, pointed = null;  // the window that is chosen, and the one under the pointer
let shown = [];  // [from, to] characters of the book that are shown in the recitation
let previewTimer = 0;

async function loadMap() {
  const answer = await (await ask("/book/windows")).json();
  ({ starts, levels } = answer);
  const measured = levels.filter((level) => level >= 0);
  known = measured.length ? measured.filter((level) => level === 100).length / measured.length : null;
  $("map").setAttribute("aria-valuemax", Math.max(0, starts.length - 1));
  if (answer.obstacle) $("spot-text").textContent = "There is no map: " + answer.obstacle;
  describeBook();
  drawMap();
  if (answer.measuring) {
    const share = Math.floor(100 * measured.length / levels.length);
    $("legend").title = `measuring: ${share} %`;
    setTimeout(() => loadMap().catch(complain), 1500);
  }
}

function windowAt(position) {
  let low = 0, high = starts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (starts[middle] <= position) low = middle + 1; else high = middle;
  }
  return Math.max(0, low - 1);
}

// the colours of the style sheet, resolved for light or dark; level(0 to 100, or -1) is a window's
function palette() {
  const probe = make("i"), context = document.createElement("canvas").getContext("2d");
  document.body.append(probe);
  const resolved = (name) => {
    probe.style.color = `var(${name})`;
    context.fillStyle = getComputedStyle(probe).color;
    return context.fillStyle;
  };
  const colours = Object.fromEntries(["--known", "--unknown", "--paper", "--accent", "--ink", "--edge"].map((name) => [name, resolved(name)]));
  probe.remove();
  const channels = (colour) => [1, 3, 5].map((n) => parseInt(colour.slice(n, n + 2), 16));
  const dark = channels(colours["--known"]), light = channels(colours["--unknown"]);
  const mixed = (level) => {
    const share = level >= 100 ? 1 : 0.6 * level / 100;
    return `rgb(${dark.map((c, n) => Math.round(c * share + light[n] * (1 - share))).join(" ")})`;
  };
  const levelColours = Array.from({ length: 101 }, (_, level) => mixed(level));
  return { ...colours, level: (level) => level < 0 ? colours["--paper"] : levelColours[Math.round(level)] };
}

function prepared(canvas) {
  const scale = devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  if (book?.right_to_left) {  // the first page is at the right
    context.translate(canvas.width, 0);
    context.scale(-1, 1);
  }
  return [context, canvas.width, canvas.height, scale];
}

function drawMap() {
  if (!book?.parts.length) return;
  const colours = palette(), n = starts.length, at = pointed ?? spot;
  const [context, width, height, scale] = prepared($("strip"));
  const band = height - 12 * scale;  // below it: marks of what is shown
  context.fillStyle = colours["--paper"];
  context.fillRect(0, 0, width, height);
  for (let x = 0; x < width && n; x++) {
    const first = Math.floor(x * n / width), last = Math.max(first + 1, Math.floor((x + 1) * n / width));
    const here = levels.slice(first, last), some = here.filter((level) => level >= 0);
    context.fillStyle = colours.level(some.length ? some.reduce((sum, level) => sum + level, 0) / some.length : -1);
    context.fillRect(x, 0, 1, band);
    if (last - first > 1 && some.some((level) => level < 100) && some.some((level) => level === 100)) {
      context.fillStyle = colours["--unknown"];  // a window that is not known must not vanish among known ones
      context.fillRect(x, band - 6 * scale, 1, 6 * scale);
    }
  }
  const of = (position) => n ? windowAt(position) * width / n : 0;
  context.fillStyle = colours["--edge"];
  for (const one of book.parts.slice(1)) context.fillRect(Math.round(of(one.start)), 0, scale, band);
  context.strokeStyle = colours["--edge"];
  context.lineWidth = scale;
  context.strokeRect(scale / 2, scale / 2, width - scale, band - scale);
  context.fillStyle = colours["--accent"];
  for (const [from, to] of shown) {
    const left = of(from), right = Math.max(of(to), left + 2 * scale);
    context.fillRect(left, band + 2 * scale, right - left, 3 * scale);
    triangle(context, (left + right) / 2, band + 5 * scale, 6 * scale);
  }
  if (n) outline(context, at * width / n, 0, Math.max(width / n, 3 * scale), band, scale, colours);
  drawLens(colours, at);
}

function triangle(context, x, y, size) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x - size, y + size);
  context.lineTo(x + size, y + size);
  context.fill();
}

function outline(context, x, y, width, height, scale, colours) {
  context.strokeStyle = colours["--accent"];
  context.lineWidth = 2 * scale;
  context.strokeRect(x, y + scale, width, height - 2 * scale);
}

function lensFirst(at) {
  return Math.max(0, Math.min(at - (LENS >> 1), starts.length - LENS));
}

function drawLens(colours, at) {
  const [context, width, height, scale] = prepared($("lens"));
  const n = Math.min(LENS, starts.length), first = lensFirst(lensSpot), cell = width / Math.max(1, n);
  for (let k = 0; k < n; k++) {
    context.fillStyle = colours.level(levels[first + k]);
    const left = Math.round(k * cell);
    context.fillRect(left, 0, Math.round((k + 1) * cell) - left - scale, height);
  }
  if (n) outline(context, (at - first) * cell + scale, 0, cell - 2 * scale, height, scale, colours);
}

function windowUnder(event) {
  const canvas = event.target.closest("canvas");
  if (!canvas || !starts.length) return null;
  const box = canvas.getBoundingClientRect();
  let share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999999);
  if (book.right_to_left) share = 1 - share - 0.000001;
  if (canvas.id === "strip") return Math.floor(share * starts.length);
  return lensFirst(lensSpot) + Math.floor(share * Math.min(LENS, starts.length));
}

let lensSpot = 0;  // around which the enlarged piece lies; it stays while the pointer is in it

function inWordsOf(level) {
  if (level < 0) return "not measured yet";
  if (level === 100) return "known by heart";
  return level ? `known for ${level} %, then it slips` : "not known";
}

// says where a window is and how it begins; hovering does not change what is chosen
function describeSpot(n) {
  const words = `${placeOf(starts[n])} · ${inWordsOf(levels[n])}`;
  clearTimeout(previewTimer);
  $("spot-text").replaceChildren(make("b", { textContent: words }));
  previewTimer = setTimeout(async () => {
    try {
      const text = await textBetween(starts[n], starts[n] + 180);
      if (n !== (pointed ?? spot)) return;
      $("spot-text").replaceChildren(make("b", { textContent: words }), make("br"), "… " + text.trim().replace(/\s+/g, " ") + " …");
      if (pointed === null) $("map").setAttribute("aria-valuetext", `${words}: ${text.trim().replace(/\s+/g, " ").slice(0, 80)}`);
    } catch (error) { complain(error); }
  }, 60);
}

function choose(n) {
  if (!starts.length) return;
  spot = Math.min(Math.max(n, 0), starts.length - 1);
  pointed = null;
  lensSpot = spot;
  $("map").setAttribute("aria-valuenow", spot);
  $("map").setAttribute("aria-valuetext", `${placeOf(starts[spot])} · ${inWordsOf(levels[spot])}`);
  describeSpot(spot);
  drawMap();
}

function readAtSpot(focus) {
  if (starts.length) openAt(starts[spot], { length: (starts[spot + 1] ?? book.characters) - starts[spot], focus }).catch(complain);
}

function listenToMap() {
  $("map").addEventListener("pointermove", (event) => {
    const n = windowUnder(event);
    if (n === null || n === pointed) return;
    pointed = n;
    describeSpot(n);
    if (event.target.id === "strip") lensSpot = n;
    drawMap();
  });
  $("map").addEventListener("pointerleave", () => {
    if (pointed === null) return;
    pointed = null;
    lensSpot = spot;
    describeSpot(spot);
    drawMap();
  });
  $("map").addEventListener("click", (event) => {
    const n = windowUnder(event);
    if (n === null) return;
    choose(n);
    if (matchMedia("(min-width: 58rem)").matches) readAtSpot(false);
  });
  $("map").addEventListener("focus", () => starts.length && describeSpot(spot));
  $("map").addEventListener("keydown", (event) => {
    const forward = book.right_to_left ? -1 : 1, page = Math.max(1, Math.round(starts.length / 20));
    const steps = {
      ArrowRight: forward, ArrowLeft: -forward, ArrowUp: 1, ArrowDown: -1,
      PageUp: page, PageDown: -page, Home: -starts.length, End: starts.length,
    };
    if (event.key in steps) choose(spot + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") readAtSpot(true);
    else return;
    event.preventDefault();
  });
  $("spot-read").addEventListener("click", () => readAtSpot(true));
  $("spot-recite").addEventListener("click", () => starts.length && reciteFrom(starts[spot]).catch(complain));
  new ResizeObserver(drawMap).observe($("map"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
}
