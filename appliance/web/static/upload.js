"use strict";

// The form works by itself; this adds dropping, folders that are dropped, progress, and outcomes without a new page.
const form = document.getElementById("upload");
const inputs = [...form.querySelectorAll('input[type="file"]')];
const button = form.querySelector("button");
const going = form.querySelector(".going");
const bar = going.querySelector("progress");
const said = going.querySelector("output");
const trouble = document.getElementById("trouble");
const outcomes = document.getElementById("outcomes");
const words = JSON.parse(document.getElementById("words").content.textContent);
const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);

const complain = (text) => {
  trouble.textContent = text;
  trouble.hidden = !text;
};

const element = (name, text, attributes = {}) => {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

const show = (found) => {
  const here = found.filter((each) => each.instance_id).length;
  document.getElementById("summary").textContent = fill(words.here, { here, all: found.length });
  outcomes.querySelector("tbody").replaceChildren(...found.map((each) => {
    const row = element("tr", "", { class: each.state });
    const outcome = element("td", "", { "data-label": words.outcome });
    outcome.append(each.instance_id
      ? element("a", words.states[each.state], { href: `/study/${each.instance_id}` })
      : element("b", words.states[each.state]));
    if (each.detail) outcome.append(`: ${each.detail}`);
    row.append(element("td", each.name, { "data-label": words.file }), outcome);
    return row;
  }));
  outcomes.hidden = false;
};

// All in one request: files that come together are judged together, so that a series is read once.
const send = (files) => {
  if (!files.length) return complain(words.none);
  complain("");
  const body = new FormData();
  for (const [path, file] of files) body.append("files", file, path);
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "application/json");
  request.responseType = "json";
  request.upload.addEventListener("progress", (event) => {
    bar.value = event.total ? event.loaded / event.total : 0;
    said.value = event.loaded < event.total ? fill(words.going, { percent: Math.round(bar.value * 100), count: files.length }) : words.storing;
  });
  request.addEventListener("loadend", () => {
    going.hidden = true;
    button.disabled = false;
    if (request.status === 200 && request.response) {
      show(request.response);
      form.reset();
    } else if (request.status === 413) complain(words.too_much);
    else if (request.status === 503) complain(words.busy);
    else if (request.responseURL.endsWith("/login")) location.reload();
    else complain(words.broken);
  });
  bar.value = 0;
  said.value = "";
  going.hidden = false;
  button.disabled = true;
  request.send(body);
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send(inputs.flatMap((input) => [...input.files].map((file) => [file.webkitRelativePath || file.name, file])));
});

const within = async (entry) => {
  if (entry.isFile) return [[entry.fullPath.slice(1), await new Promise((done, failed) => entry.file(done, failed))]];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed)); // a hundred at a time
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(within))).flat();
};

form.querySelector(".onto").hidden = false;
form.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
form.addEventListener("dragleave", () => form.classList.remove("over"));
form.addEventListener("drop", async (event) => {
  event.preventDefault();
  form.classList.remove("over");
  if (button.disabled) return;
  const dropped = [...event.dataTransfer.items].filter((item) => item.kind === "file").map((item) => {
    const entry = item.webkitGetAsEntry(); // what is no file of this computer has none
    const file = item.getAsFile();
    return entry ? within(entry) : [[file.name, file]];
  });
  try {
    send((await Promise.all(dropped)).flat());
  } catch {
    complain(words.unreadable);
  }
});
