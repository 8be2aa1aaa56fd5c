"use strict";

// The figures of the wall screen: asked for every five seconds. Where no answer comes, it says so instead of showing
// old figures as if they were new.
const board = document.getElementById("kiosk");
const lost = board.querySelector("[data-lost]");
let answeredAt = new Date();

const words = (seconds) => {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const found = [];
  for (const [unit, length] of units) {
    const count = Math.floor(seconds / length);
    seconds -= count * length;
    if (count || (unit === "s" && !found.length)) found.push(`${count} ${unit}`);
  }
  return found.slice(0, 2).join(" ");
};

const show = (figures) => {
  for (const each of board.querySelectorAll("[data-figure]")) {
    const count = figures[each.dataset.figure];
    each.textContent = count;
    const marked = ["first", "trouble", "undelivered"].includes(each.dataset.figure);
    each.closest("section").classList.toggle("some", marked && count > 0);
  }
  const oldest = figures.oldest_seconds;
  board.querySelector("[data-since]").textContent = oldest === null ? "" : board.dataset.oldest.replace("{time}", words(oldest));
  const alarms = board.querySelector("[data-alarms]");
  alarms.textContent = figures.alarms.join(" - ") || board.dataset.works;
  alarms.classList.toggle("calm", !figures.alarms.length);
};

const refresh = async () => {
  try {
    const answer = await fetch(board.dataset.source, { cache: "no-store" });
    if (answer.status === 401) location.reload();
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.json());
    answeredAt = new Date();
    lost.hidden = true;
  } catch {
    lost.querySelector("time").textContent = answeredAt.toLocaleTimeString(document.documentElement.lang);
    lost.hidden = false;
  }
};

const clock = board.querySelector("[data-clock]");
const tick = () => { clock.textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }); };
tick();
setInterval(tick, 1000);
setInterval(refresh, 5000);
