// Opens the page: asks for the book, then for its map and its first chapter.

async function start() {
  const answer = await (await ask("/book")).json();
  $("key-box").hidden = true;
  $("error").textContent = "";
  document.body.classList.remove("locked");
  showBook(answer);
  if (book.parts.length) {
    await openAt(0);
    if (!book.watching) await loadMap();
  }
  if (book.watching || book.parts.length) watch().catch(complain);
  if (!book.watching) await replay();
}

listenToBook();
listenToMap();
listenToRecital();
showMood();
$("use-key").addEventListener("click", () => start().catch(complain));
$("key").addEventListener("keydown", (event) => { if (event.key === "Enter") start().catch(complain); });
window.addEventListener("hashchange", () => replay().catch(complain));
start().catch(complain);
