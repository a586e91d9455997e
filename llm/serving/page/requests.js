"use strict";
// Asks the server, waits while it is busy, and says in a reader's words what went wrong.

const $ = (id) => document.getElementById(id);
const WAITS = [1, 2, 4, 8, 15];  // seconds before another try

class Problem extends Error {}

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function headers() {
  // a header's characters are bytes: those of UTF-8, as curl sends them
  const key = String.fromCharCode(...new TextEncoder().encode($("key").value));
  return { "Content-Type": "application/json", ...(key && { Authorization: "Bearer " + key }) };
}

function say(words) { $("about").textContent = words; }

function complain(error) {
  if (error.name === "AbortError") return;
  $("error").textContent = error instanceof Problem ? error.message : "The page has a fault: " + error.message;
}

function serverHasEnded() {
  const again = book?.command ? `with: ${book.command}` : "as it was started before.";
  return new Problem(`The server has ended. Start it again ${again}`);
}

// the message for an answer with an error
function inWords(status, found) {
  if (status === 401) {
    $("key-box").hidden = false;
    document.body.classList.add("locked");
    return $("key").value ? "That is not this server's key." : "This server asks for its key: type it above.";
  }
  if (found.code === "wrong_keys") return "Too many wrong keys. Wait a few seconds, then try again.";
  if (status === 429 || status === 503) return "The server is still busy. Try again in a minute.";
  if (found.code === "context_length_exceeded" || status === 413) return "That is too long a beginning. A sentence is enough.";
  if (status >= 500) return "The server made a mistake: " + (found.message || status);
  return found.message || "The server answered " + status;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

// the server's answer to a GET, or to a POST of `body`; waits and tries again while the server is busy
async function ask(path, { body, signal } = {}) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  for (let tries = 0; ; tries++) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: headers(), signal });
    } catch (error) {
      throw error.name === "AbortError" ? error : serverHasEnded();
    }
    if (response.ok) return response;
    const found = (await response.json().catch(() => ({}))).error || {};
    const busy = (response.status === 429 || response.status === 503) && found.code !== "wrong_keys";
    if (!busy || tries === WAITS.length) throw new Problem(inWords(response.status, found));
    say(`The server is busy. Trying again in ${WAITS[tries]} s …`);
    await pause(WAITS[tries], signal);
  }
}

// each [sample, text] of a stream of completions, as the server sends them
async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : serverHasEnded();
      });
      if (done) return;
      const events = (held + value).split("\n\n");
      held = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Problem(inWords(500, chunk.error));
        yield [chunk.choices[0].index, chunk.choices[0].text];
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // who stops reading lets the server stop, too
  }
}
