// How it learns: the curves of a training, its progress, a sample of what it says by now.

const CURVES = [["loss", "Loss", false], ["tokens", "Words known", true], ["known", "Passages known by heart", true]];
const EVERY = 2000;  // milliseconds between looks at a training

function clock(seconds) {
  const s = Math.max(0, Math.round(seconds)), two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

// a curve of [seconds, value] as a picture with its last value in words
function curve(label, points, isShare) {
  const figure = $("curve").content.firstElementChild.cloneNode(true), inWords = (value) => isShare ? `${Math.round(100 * value)} %` : value.toFixed(value < 0.1 ? 4 : 2);
  const top = isShare ? 1 : Math.max(...points.map(([, value]) => value), 1e-9), [right, last] = points.at(-1);
  figure.querySelector("polyline").setAttribute("points", points.map(([x, y]) => `${(100 * x / (right || 1)).toFixed(2)},${(97 - 94 * y / top).toFixed(2)}`).join(" "));
  figure.querySelector("svg").setAttribute("aria-label", `${label}: from ${inWords(points[0][1])} to ${inWords(last)}`);
  figure.querySelector("figcaption").textContent = `${label}: ${inWords(last)} after ${clock(right)}`;
  return figure;
}

function describeProgress(answer) {
  if (answer.state === "waiting") return "Training has not begun yet.";
  const words = [];
  if (answer.state === "ended") {
    words.push(`Training has ended, after ${clock(answer.seconds)}.`);
    if (book.watching) words.push(`To let it recite, type: ${book.command || "serve.py with the folder of this training"}`);
  } else {
    words.push(`Learning for ${clock(answer.seconds)}: ${answer.doing}.`);
    if (answer.left !== null) words.push(`About ${clock(answer.left)} left.`);
    if (answer.quiet > 120) words.push(`No news for ${clock(answer.quiet)}: perhaps it was interrupted.`);
  }
  return words.join(" ");
}

// looks at the training again and again while the page watches one
async function watch() {
  try {
    await showProgress();
  } catch (error) {
    if (!book.watching || !(error instanceof Problem)) throw error;
    $("progress").textContent = "The training has ended, or was stopped.";  // and this page's server with it
  }
  if (book.watching) setTimeout(() => watch().catch(complain), EVERY);
}

async function showProgress() {
  const answer = await (await ask("/watch")).json();
  if (answer.watching !== book.watching) location.reload();  // the model that was learned is served now
  $("learning").hidden = answer.state === "waiting" && !book.watching;
  if ($("learning").hidden) return;
  $("progress").textContent = describeProgress(answer);
  const found = CURVES.filter(([name]) => answer.curves[name]?.length > 1);
  $("curves").replaceChildren(...found.map(([name, label, isShare]) => curve(label, answer.curves[name], isShare)));
  $("drawn").hidden = !book.watching;
  if (answer.sample) $("drawn").textContent = `“${answer.sample.prompt}” … it goes on: “${answer.sample.text}”`;
  if (book.watching) await loadMap();
}
