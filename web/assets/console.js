// Renews the page, from where it says, every two seconds while it is looked at. Without it the
// page still works: it then reloads itself as a whole.
"use strict";

const script = document.currentScript.src; // tells where the console is

const live = document.getElementById("live");
const stale = document.getElementById("stale");
const staleAt = document.getElementById("stale-at");
let answeredAt = live.firstElementChild.dataset.at;

async function renew() {
  let answer;
  try {
    answer = await fetch(live.dataset.src, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  } catch {
    old();
    return;
  }
  if (answer.status === 404) {
    location.reload(); // it was deleted, and the page says so
    return;
  }
  if (answer.status === 401) {
    location.assign(new URL("../login", script)); // the session has ended
    return;
  }
  if (answer.status !== 200 && answer.status !== 503) {
    old();
    return;
  }
  const html = await answer.text().catch(() => "");
  if (!html.includes("data-title")) { // something in between answered
    old();
    return;
  }
  const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
  live.innerHTML = html;
  if (focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  document.title = live.firstElementChild.dataset.title;
  answeredAt = live.firstElementChild.dataset.at;
  stale.hidden = true;
}

function old() {
  if (stale.hidden) {
    staleAt.textContent = answeredAt;
    stale.hidden = false;
    document.title = "No answer – Sluice";
  }
}

async function loop() {
  // Rows change places; none may do so under a pointer that is about to press, nor
  // what is marked to be copied.
  if (!document.hidden && !live.querySelector(".do:hover, a:hover") && String(getSelection()) === "") {
    await renew();
  }
  setTimeout(loop, 2000);
}
setTimeout(loop, 2000);
