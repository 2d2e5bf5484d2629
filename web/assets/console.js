// Renews the page by the events of where it says, every two seconds while it is looked at, and by
// asking where no events come. Without it the page still works: it then reloads itself as a whole.
"use strict";

const script = document.currentScript.src; // tells where the console is

const live = document.getElementById("live");
const stale = document.getElementById("stale");
const staleWhy = document.getElementById("stale-why");
const staleAt = document.getElementById("stale-at");
let answeredAt = live.firstElementChild.dataset.at;
let stream; // of events
let heard = Date.now(); // when the last came
let held = ""; // what came and is not shown yet

// Rows change places; none may do so under a pointer that is about to press, nor
// what is marked to be copied.
const busy = () => live.querySelector(".do:hover, a:hover") || String(getSelection()) !== "";

function show(html) {
  if (!html.includes("data-title")) { // something in between answered
    old();
    return;
  }
  const came = document.createElement("template");
  came.innerHTML = html;
  const fault = came.content.querySelector(".fault");
  if (fault && !live.querySelector(".fault")) { // what is known stays, and says of when it is
    old(fault.textContent + " ");
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
  live.classList.remove("old");
}

function old(why = "") {
  if (stale.hidden || staleWhy.textContent !== why) {
    staleWhy.textContent = why;
    staleAt.textContent = answeredAt;
    stale.hidden = false;
    live.classList.add("old");
    document.title = "No answer – Sluice";
  }
}

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
  } else if (answer.status === 401) {
    location.assign(new URL("../login", script)); // the session has ended
  } else if (answer.status !== 200 && answer.status !== 503) {
    old();
  } else {
    show(await answer.text().catch(() => ""));
  }
}

function listen() {
  stream = new EventSource(live.dataset.src);
  stream.addEventListener("page", (e) => {
    heard = Date.now();
    held = e.data;
    settle();
  });
  stream.addEventListener("away", () => old());
  stream.addEventListener("over", () => {
    stream.close();
    renew(); // tells why
  });
}

function settle() {
  if (held && !busy()) {
    show(held);
    held = "";
  }
}

// A browser has few connections to a server, so a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  stream?.close();
  if (!document.hidden) {
    listen();
  }
});
if (!document.hidden) {
  listen();
}
setInterval(settle, 500);

async function loop() {
  if (!document.hidden && Date.now() - heard > 5000 && !busy()) {
    if (stream?.readyState === EventSource.CLOSED) {
      listen();
    }
    await renew();
  }
  setTimeout(loop, 2000);
}
setTimeout(loop, 2000);
