// Recitation: a text is drawn in legs (the first one, and one for each "go on"), in one column or several.
// A link holds the prompt, the settings and how far each leg went, which is all that the text depends on.

const MAX_PROMPT = 2000;  // characters of a long text that are sent for it to go on; the model sees fewer
const COMPARE_AFTER = 400;  // milliseconds between looks into the book
let going = null;  // the AbortController of what is being drawn
let recital = null;  // what is shown: { prompt, settings, legs, columns }

function moodOf(temperature) {
  if (temperature === 0) return "recite: always the likeliest word";
  if (temperature <= 0.4) return "mostly the book's words";
  if (temperature <= 0.8) return "strays now and then";
  return "dreams: the book's words in new sentences, or none";
}

function showMood() {
  const mood = moodOf(Number($("temperature").value));
  $("mood").textContent = mood;
  $("temperature").setAttribute("aria-valuetext", mood);
}

function readSettings() {
  const value = (id) => $(id).value === "" ? null : Number($(id).value);
  return {
    temperature: value("temperature"), max_tokens: value("max_tokens") ?? 200, top_p: value("top_p") ?? 1,
    seed: value("seed") ?? Math.floor(Math.random() * 1e6), end: $("end").value, book: $("book").value,
    samples: Math.min(Math.max(value("samples") ?? 1, 1), 4), before: $("before").checked,
  };
}

// the end of a text, from the beginning of a word on
function tail(text) {
  if (text.length <= MAX_PROMPT) return text;
  const end = text.slice(-MAX_PROMPT), word = end.search(/\s\S/);
  return word < 0 ? end : end.slice(word + 1);
}

function newColumns(settings) {
  const columns = [], several = settings.samples > 1 || settings.before;
  const add = (label, before) => {
    const article = make("article", { dir: "auto", ariaLabel: label || "The text" }), note = make("p", { className: "hidden" });
    columns.push({ label, before, article, note, text: "", pieces: [], compared: 0, limit: Infinity });
    $("columns").append(make("div", {}, ...(several ? [make("h3", { textContent: label })] : []), article));
  };
  $("columns").replaceChildren();
  for (let n = 1; n <= settings.samples; n++) add(settings.samples > 1 ? `Sample ${n}` : settings.before ? "Now" : "", false);
  if (settings.before) add("Before it learned the book", true);
  return columns;
}

// draws the next leg of all columns; limits: characters of each column to stop at, which a link states
async function drawLeg(one, limits, signal) {
  const number = one.legs.length, { settings } = one;
  one.legs.push(limits);
  const from = one.columns.map((column) => column.text.length);
  const request = (columns) => {
    const body = { stream: true, max_tokens: settings.max_tokens, temperature: settings.temperature, top_p: settings.top_p, seed: settings.seed + number };
    if (settings.end) body.stop = settings.end;
    if (settings.book) body.book = settings.book;
    if (number === 0) {
      body.prompt = one.prompt;
      body.n = columns.length;
      if (!one.prompt.trim() && book?.books.length) [body.prompt, body.book] = ["", settings.book || book.books[0]];
    } else body.prompt = columns.length === 1 ? tail(one.prompt + columns[0].text) : columns.map((c) => tail(one.prompt + c.text));
    return body;
  };
  const draw = async (path, columns) => {
    if (!columns.length) return;
    const response = await ask(path, { body: request(columns), signal });
    say("");
    for (const column of columns) column.article.classList.add("going");
    for await (const [index, text] of pieces(response)) {
      const column = columns[index], n = one.columns.indexOf(column);
      const room = limits?.[n] == null ? Infinity : from[n] + limits[n] - column.text.length;
      column.text += text.slice(0, Math.max(0, room));
      show(one, column);
      if (limits && columns.every((c) => { const k = one.columns.indexOf(c); return limits[k] != null && c.text.length >= from[k] + limits[k]; })) return;
      if (!column.comparing && Date.now() - (column.comparedAt ?? 0) > COMPARE_AFTER) compareColumn(one, column).catch(() => {});
    }
  };
  try {
    await Promise.all([
      draw("/v1/completions", one.columns.filter((column) => !column.before)),
      draw("/before/completions", one.columns.filter((column) => column.before)),
    ]);
  } catch (error) {
    // what is shown is what a link must reproduce
    one.legs[number] = one.columns.map((column, n) => column.text.length - from[n]);
    if (number && one.columns.every((column, n) => column.text.length === from[n])) one.legs.pop();
    throw error;
  }
}

// asks which words of a column stand in the book, and where
async function compareColumn(one, column) {
  const text = one.prompt + column.text;
  column.comparing = true;
  try {
    const answer = await (await ask("/compare", { body: { text, first: one.prompt.length } })).json();
    if (recital !== one) return;
    Object.assign(column, { pieces: answer.pieces, compared: text.length, recited: answer.recited, words: answer.words });
    show(one, column);
    shown = one.columns.flatMap((c) => c.pieces).filter((piece) => piece.at !== undefined && piece.text.trim().length > 30)
      .map((piece) => [piece.at, piece.at + piece.text.length]);
    drawMap();
  } finally {
    column.comparing = false;
    column.comparedAt = Date.now();
  }
}

// the text of a column: what was typed in grey, what was invented marked, the book's wording beside it
function show(one, column) {
  const typed = one.prompt.length, page = document.createDocumentFragment(), text = one.prompt + column.text;
  const all = column.compared < text.length ? [...column.pieces, { text: text.slice(column.compared) }] : column.pieces;
  let at = 0, expected = -1;  // where the next recited words stand if the passage goes on
  all.forEach((piece, n) => {
    const border = Math.max(0, Math.min(piece.text.length, typed - at)), fresh = at >= column.compared
      || going && piece.text.length < 80 && at + piece.text.length >= column.compared;  // perhaps a passage begins
    for (const [words, mine] of [[piece.text.slice(0, border), true], [piece.text.slice(border), false]]) {
      if (!words) continue;
      const invented = piece.at === undefined && !fresh && !mine && column.recited !== null && words.trim();
      const node = make(invented ? "mark" : "span", { className: invented ? "invented" : mine ? "typed" : "" });
      if (invented) node.append(make("span", { className: "hidden", textContent: " invented: " }));
      node.append(words);
      if (piece.at !== undefined) {
        node.classList.add("recited");
        node.dataset.at = piece.at;
        node.dataset.length = piece.text.length;
      }
      page.append(node);
    }
    if (piece.wording && at + piece.text.length >= typed) {
      const words = (piece.text.trim() ? "the book: " : "the book goes on: ") + "“" + piece.wording + "”";
      page.append(make("span", { className: "wording", dir: "auto", textContent: words }));
    }
    if (piece.at !== undefined && piece.text.trim()) {
      const goesOn = Math.abs(piece.at - expected) < 400 && expected >= 0;
      if (!goesOn) column.passage = { at: piece.at, from: piece.at };
      expected = piece.at + piece.text.length;
      const following = all.slice(n + 1).find((later) => later.at !== undefined && later.text.trim());
      if (!following || Math.abs(following.at - expected) >= 400) {
        const passage = column.passage.from, length = Math.max(1, expected - passage);
        const button = make("button", { type: "button", className: "quiet place", textContent: placeOf(passage) });
        button.setAttribute("aria-label", "Read it in the book: " + placeOf(passage));
        Object.assign(button.dataset, { at: passage, length });
        page.append(button);
      }
    }
    at += piece.text.length;
  });
  if (column.article.contains(document.activeElement)) {  // a place's button that has the focus keeps it
    const { at: place } = document.activeElement.dataset;
    column.article.replaceChildren(page);
    column.article.querySelector(`button[data-at="${place}"]`)?.focus();
  } else column.article.replaceChildren(page);
}

function describe(one) {
  const [column] = one.columns;
  if (column.recited === null) return "The book itself is not on this machine, so nothing can be compared with it.";
  const invented = column.words - column.recited;
  const words = column.words === 0 ? "Nothing was drawn."
    : invented === 0 ? `All ${column.words} words stand in the book.`
    : `${column.recited} of ${column.words} words stand in the book, ${invented} are invented.`;
  const same = one.settings.samples > 1 && one.settings.temperature === 0 ? " At “recite”, all samples are the same." : "";
  return (one.columns.length > 1 ? one.columns[0].label + ": " : "") + words + same;
}

function setGoing(controller) {
  going = controller;
  $("go").textContent = controller ? "Stop" : "Recite";
  for (const id of ["more", "copy", "link"]) $(id).setAttribute("aria-disabled", Boolean(controller) || !recital);
}

// draws legs with these limits (null: to the end), one after the other, and keeps the address up to date
async function perform(one, limits) {
  const mine = new AbortController();
  $("error").textContent = "";
  setGoing(mine);
  say("Reciting …");
  try {
    for (const limit of limits) await drawLeg(one, limit, mine.signal);
  } catch (error) {
    mine.abort();  // the other column's request, too
    complain(error);
  } finally {
    for (const column of one.columns) column.article.classList.remove("going");
    if (recital === one) {
      try {
        while (one.columns.some((column) => column.comparing)) await pause(0.02);
        if (one.columns.some((column) => column.text)) await Promise.all(one.columns.map((column) => compareColumn(one, column)));
        say(one.columns.some((column) => column.text) ? describe(one) : "");
        history.replaceState(null, "", addressOf(one));
      } catch (error) { complain(error); }
    }
    if (going === mine) setGoing(null);
  }
}

async function recite(settings = readSettings(), limits = [null]) {
  going?.abort();
  const prompt = $("prompt").value;
  if (!prompt.trim() && !book?.books.length) {
    $("error").textContent = "Type how a passage begins: a few words are enough, eight or more are best.";
    $("prompt").focus();
    return;
  }
  recital = { prompt: prompt.trim() ? prompt : "", settings, legs: [], columns: newColumns(settings) };
  shown = [];
  showView("recite");
  if (matchMedia("(max-width: 58rem)").matches) $("after").scrollIntoView({ block: "start" });
  await perform(recital, limits);
}

async function reciteFrom(position, options) {
  const prompt = await promptFrom(position, options);
  $("prompt").value = prompt;
  if (book.books.length > 1) $("book").value = book.books[bookIndexAt(position)];
  showView("recite");
  $("go").focus();
  await recite();
}

function bookIndexAt(position) {
  const titles = [...new Set(book.parts.map((one) => one.book))];
  return Math.max(0, titles.indexOf(book.parts[partAt(position)].book));
}

// a passage that is known, from somewhere in the book
async function surprise() {
  const knownOnes = starts.map((_, n) => n).filter((n) => levels[n] === 100 && (levels[n + 1] ?? 100) === 100);
  const from = knownOnes.length ? knownOnes : starts.map((_, n) => n);
  const n = from[Math.floor(Math.random() * from.length)];
  if (n !== undefined) choose(n);
  await reciteFrom(n === undefined ? Math.floor(Math.random() * 0.9 * book.characters) : starts[n], { sentence: true });
}

// the page's address for a text: prompt, settings, and how far each leg went ("" = to its end)
function addressOf(one) {
  const { settings } = one, values = new URLSearchParams({ prompt: one.prompt, seed: settings.seed, t: settings.temperature, n: settings.max_tokens });
  if (settings.top_p !== 1) values.set("p", settings.top_p);
  if (settings.samples > 1) values.set("samples", settings.samples);
  if (settings.before) values.set("before", 1);
  for (const name of ["end", "book"]) if (settings[name]) values.set(name, settings[name]);
  values.set("legs", one.legs.map((limits) => limits ? limits.join(".") : "").join(","));
  return "#" + values;
}

// fills the form from an address, and recites what it says
async function replay() {
  const values = new URLSearchParams(location.hash.slice(1));
  if (!values.has("prompt")) return;
  const fields = { prompt: "prompt", seed: "seed", t: "temperature", n: "max_tokens", p: "top_p", samples: "samples", end: "end", book: "book" };
  for (const [name, id] of Object.entries(fields)) if (values.has(name)) $(id).value = values.get(name);
  $("before").checked = values.has("before") && book.before;
  showMood();
  const limits = (values.get("legs") || "").split(",").slice(0, 50).map((leg) => leg ? leg.split(".").map(Number) : null);
  await recite(readSettings(), limits);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // without https, or if it is not allowed
    const field = make("textarea", { value: text, className: "hidden" });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

function listenToRecital() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (going) going.abort(); else recite();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!going) recite();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && going) going.abort(); });
  $("surprise").addEventListener("click", () => { if (book) surprise().catch(complain); });
  $("more").addEventListener("click", (event) => { if (isEnabled(event.currentTarget)) perform(recital, [null]); });
  $("copy").addEventListener("click", (event) => {
    const texts = recital?.columns.map((column) => (column.label ? column.label + ":\n" : "") + recital.prompt + column.text);
    if (isEnabled(event.currentTarget)) copy(texts.join("\n\n"), event.currentTarget);
  });
  $("link").addEventListener("click", (event) => { if (isEnabled(event.currentTarget)) copy(location.href, event.currentTarget); });
  $("wording").addEventListener("change", () => $("columns").classList.toggle("without-wording", !$("wording").checked));
  $("temperature").addEventListener("input", showMood);
  $("columns").addEventListener("click", (event) => {
    const place = event.target.closest("[data-at]");
    if (!place || !getSelection().isCollapsed) return;
    openAt(Number(place.dataset.at), { length: Number(place.dataset.length), focus: place.tagName === "BUTTON" }).catch(complain);
  });
}
