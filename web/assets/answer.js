// Writes an answer down as it comes, by the events of its job, and shows the page anew once
// it is whole. Without it the page reloads itself.
"use strict";

const text = document.getElementById("text");
const badge = document.getElementById("status");
const stream = new EventSource(text.dataset.src);
let attempt = 0; // whose text is shown

stream.addEventListener("delta", (e) => {
  const delta = JSON.parse(e.data);
  if (delta.attempt !== attempt || delta.offset === 0) {
    attempt = delta.attempt;
    text.textContent = "";
  }
  text.append(delta.text);
});
stream.addEventListener("status", (e) => {
  const { status } = JSON.parse(e.data);
  badge.textContent = status;
  badge.className = "badge " + status;
});
stream.addEventListener("done", () => {
  stream.close();
  location.reload();
});
