// Live parts: figures that are drawn anew, and events as they come. Everything else works without.
"use strict";

const main = document.getElementById("main");
const stale = document.getElementById("stale");
const every = Number(main && main.dataset.live) * 1000;
if (every) {
  const draw = async () => {
    if (document.visibilityState === "visible") {
      let fresh = null;
      try {
        // What went wrong is a page too, and says what.
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
      } catch {
        // The program may be starting again: the next round tells.
      }
      if (fresh) main.replaceChildren(...fresh.childNodes);
      stale.hidden = fresh !== null;
    }
    setTimeout(draw, every);
  };
  setTimeout(draw, every);
}

const table = document.getElementById("events");
if (table) {
  const status = document.getElementById("stream");
  const section = document.getElementById("happens");
  const only = table.dataset.handle;
  const rows = table.tBodies[0];
  const source = new EventSource(table.dataset.stream);
  const cell = (row, text) => {
    const td = row.insertCell();
    td.textContent = text;
    return td;
  };
  const say = (text) => status && (status.textContent = text);
  source.onopen = () => say("Listening.");
  source.onerror = () => say("The stream was cut off; it is tried again.");
  const show = (message) => {
    const event = JSON.parse(message.data);
    if (only && event.handle !== only && !("lost" in event)) return;
    const row = rows.insertRow(0);
    if ("lost" in event) {
      cell(row, "");
      cell(row, event.lost === null ? "some events were lost" : `${event.lost} events were lost`).colSpan = 2;
    } else {
      cell(row, new Date(event.at).toLocaleTimeString());
      cell(row, event.event.replaceAll("_", " ") + (event.reason ? ` (${event.reason})` : ""));
      const link = document.createElement("a");
      link.href = `/session/${event.handle}`;
      link.textContent = event.session_key;
      cell(row, "").append(link);
    }
    while (rows.rows.length > 500) rows.deleteRow(-1);
    if (section) section.hidden = false;
  };
  source.onmessage = show;
  source.addEventListener("lost", show);
}
