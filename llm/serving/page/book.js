// The book: its title and contents, its text chapter by chapter, a passage in its context.

let book = null;  // what /book says; its parts are chapters
let part = -1;  // the number of the one that is shown
let here = 0;  // the character at which the reader is
const texts = new Map();  // of parts that were shown

const number = new Intl.NumberFormat("en");

function showBook(answer) {
  book = answer;
  $("title").textContent = answer.title;
  document.title = answer.title + " · Read it back";
  describeBook();
  document.body.classList.toggle("bookless", !answer.parts.length);
  document.body.classList.toggle("watching", answer.watching);
  if (!answer.watching) {  // how it learned is of less interest than what it knows
    document.querySelector("main").append($("learning"));
    $("learning-title").textContent = "How it learned";
  }
  const severalBooks = answer.books.length > 1;
  $("part").replaceChildren(...answer.parts.map((one, n) => new Option(severalBooks ? `${one.book}: ${one.title}` : one.title, n)));
  $("book").replaceChildren(new Option("any", ""), ...answer.books.map((title) => new Option(title)));
  $("book-box").hidden = !severalBooks;
  $("before-box").hidden = !answer.before;
  if (!answer.parts.length) say(answer.reason);
}

function describeBook() {
  const words = book.parts.length ? [`${number.format(book.words)} words`] : ["its text is not on this machine"];
  if (book.author) words.unshift("by " + book.author);
  if (book.parts.length > 1) words.push(`${number.format(book.parts.length)} chapters`);
  if (known !== null) words.push(`${Math.floor(100 * known)} % known by heart`);
  if (book.watching) words.push("learning");
  $("byline").textContent = words.join(" · ");
}

function partAt(position) {
  return Math.max(0, book.parts.findLastIndex((one) => one.start <= position));
}

// "CHAPTER II, 34 %"
function placeOf(position) {
  const one = book.parts[partAt(position)];
  const percent = Math.round(100 * position / Math.max(1, book.characters));
  return [book.books.length > 1 ? one.book : "", book.parts.length > 1 ? one.title : "", percent + " %"].filter(Boolean).join(", ");
}

async function textBetween(start, end) {
  start = Math.max(0, start);
  end = Math.min(end, book.characters);
  if (start >= end) return "";
  return (await (await ask(`/book/text?start=${start}&end=${end}`)).json()).text;
}

async function textOfPart(n) {
  if (!texts.has(n)) texts.set(n, await textBetween(book.parts[n].start, book.parts[n].end));
  return texts.get(n);
}

// the paragraphs of a text that begins at character `start` of the book; characters from..to are marked
function paragraphs(text, start, from, to) {
  const found = [];
  for (const match of text.matchAll(/\S[^]*?(?=\n\s*\n|\s*$)/g)) {
    const paragraph = make("p", { dir: "auto" }), at = start + match.index, words = match[0];
    const begin = Math.min(Math.max(from - at, 0), words.length), end = Math.min(Math.max(to - at, 0), words.length);
    paragraph.dataset.at = at;
    if (begin < end) paragraph.append(words.slice(0, begin), make("mark", {}, words.slice(begin, end)), words.slice(end));
    else paragraph.textContent = words;
    found.push(paragraph);
  }
  return found;
}

// shows the part that holds a character, with `length` characters marked from there on
async function openAt(position, { length = 0, focus = false } = {}) {
  const n = partAt(position), one = book.parts[n];
  const text = await textOfPart(n);
  part = n;
  here = position;
  $("part").value = n;
  $("part-title").textContent = one.title + (book.books.length > 1 ? ` (${one.book})` : "");
  $("previous").setAttribute("aria-disabled", n === 0);
  $("next").setAttribute("aria-disabled", n === book.parts.length - 1);
  $("text").replaceChildren(...paragraphs(text, one.start, position, position + length));
  if (length || focus) showView("book");
  const mark = $("text").querySelector("mark");
  if (mark) {
    mark.tabIndex = -1;
    if (focus) mark.focus({ preventScroll: true });
    mark.scrollIntoView({ block: "center" });
  } else {
    $("text").scrollTop = 0;
    if (focus) $("part-title").focus();
  }
  drawMap();
}

function showView(name) {
  document.body.dataset.view = name;
  for (const view of ["recite", "book"]) $("view-" + view).setAttribute("aria-pressed", view === name);
}

function isEnabled(button) { return button.getAttribute("aria-disabled") !== "true"; }

// the beginning of a passage as a prompt: about twelve words from the first whole word, or the first sentence, on
async function promptFrom(position, { sentence = false } = {}) {
  const before = position > 0 ? 1 : 0, text = await textBetween(position - before, position + 700);
  const spaced = /\s\S+\s/.test(text);
  let start = before;
  if (spaced && before && /\S/.test(text[0])) start += Math.max(0, text.slice(before).search(/\s/));
  if (sentence) {
    // not after Mr. and J., which end no sentence
    const found = text.slice(0, 400).match(/(?:(?<!\b\p{Lu}\p{L}{0,2})[.!?…]["'”’»)]*\s+|\n\s*\n\s*)(?=["'“‘«(]?\p{Lu})/u);
    if (found) start = found.index + found[0].length;
  }
  const rest = text.slice(start).trimStart();
  if (!spaced) return rest.slice(0, 24);
  return rest.split(/(?<=\S)(?=\s)/).slice(0, 12).join("");
}

// where the reader is: a selected word, the marked passage, else the first paragraph that is visible
function readingPosition() {
  const selection = getSelection(), node = selection.anchorNode?.parentElement?.closest("#text p");
  if (node && !selection.isCollapsed) {
    const range = document.createRange();
    range.setStart(node, 0);
    range.setEnd(selection.getRangeAt(0).startContainer, selection.getRangeAt(0).startOffset);
    return Number(node.dataset.at) + range.toString().length;
  }
  if ($("text").querySelector("mark")) return here;
  const top = Math.max($("text").getBoundingClientRect().top, 0);
  const shown = [...$("text").children].find((one) => one.getBoundingClientRect().bottom > top + 10);
  return shown ? Number(shown.dataset.at) : here;
}

function listenToBook() {
  $("part").addEventListener("change", () => openAt(book.parts[$("part").value].start).catch(complain));
  const turn = (step) => (event) => {
    if (isEnabled(event.currentTarget)) openAt(book.parts[part + step].start).catch(complain);
  };
  $("previous").addEventListener("click", turn(-1));
  $("next").addEventListener("click", turn(1));
  $("from-here").addEventListener("click", () => reciteFrom(readingPosition()).catch(complain));
  $("view-recite").addEventListener("click", () => showView("recite"));
  $("view-book").addEventListener("click", () => showView("book"));
}
