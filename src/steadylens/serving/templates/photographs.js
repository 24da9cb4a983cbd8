// The page for photographs: sends a file, compares before and after, and fetches the file to download.
"use strict";

const part = (id) => document.getElementById(id);
const narrow = () => window.innerWidth < 900;
const dpr = () => window.devicePixelRatio || 1;
const LARGEST_ENLARGEMENT = 8; // of a small image that is shown whole, in device pixels
const COVERED = 90; // pixels from the edge at which the boundary covers a label

const state = { request: null, file: null, done: null, zoom: "fit", split: 0.5, size: null, urls: [] };

// What is shown

function show(name) {
  const working = name === "working", result = name === "result";
  part("main").classList.toggle("open", working || result);
  part("drop").hidden = working || result;
  part("viewer").hidden = part("panel").hidden = !(working || result);
  part("working").hidden = !working;
  part("viewer").classList.toggle("working", working);
  for (const id of ["result", "clip", "divider", "label-before", "label-after", "zooms"]) part(id).hidden = !result;
  arrange();
}

function complain(text) {
  part("problem").textContent = text;
  part("problem").hidden = !text;
}

function say(text, share) {
  part("stage-name").textContent = text;
  if (share === undefined) part("progress").removeAttribute("value");
  else part("progress").value = share;
}

function source(image, url) {
  return new Promise((resolve, reject) => {
    image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
    image.onerror = () => reject(new Error("the browser cannot show it"));
    image.src = url;
  });
}

function url(blob) {
  const made = URL.createObjectURL(blob);
  state.urls.push(made);
  return made;
}

// From a file to its restoration

function open(file) {
  abandon();
  complain("");
  const most = Number(document.body.dataset.mostBytes);
  if (file.size > most || !file.size) {
    const size = `${(file.size / 2 ** 20).toFixed(0)} MiB`;
    const problem = file.size ? `has ${size}; at most ${most / 2 ** 20} MiB are read, choose a smaller one` : "is empty; choose another file";
    show("start");
    complain(`${file.name || "The file"} ${problem}`);
    return;
  }
  state.file = file;
  state.zoom = "fit";
  state.size = null;
  part("before").removeAttribute("src");
  show("working");
  const shown = url(file);
  source(part("before"), shown).then((size) => {
    if (state.file === file && !state.done) {
      state.size = size;
      arrange();
    }
  }, () => part("before").removeAttribute("src"));
  send(file).then((done) => present(file, done)).catch((error) => {
    if (error.name === "AbortError" || state.file !== file) return;
    abandon();
    show("start");
    complain(error.message);
  });
}

// An XMLHttpRequest and not fetch, because it tells how much has been sent.
function send(file) {
  return new Promise((resolve, reject) => {
    const request = (state.request = new XMLHttpRequest());
    request.open("POST", `photographs/restored?name=${encodeURIComponent(file.name || "pasted")}`);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = (event) => say("Sending", event.loaded / event.total);
    request.upload.onload = () => say("Reading");
    request.onprogress = () => told(lines(request).pop());
    request.onabort = () => reject(Object.assign(new Error("cancelled"), { name: "AbortError" }));
    request.onerror = () => reject(new Error("The connection to the server is lost; try again."));
    request.onload = () => {
      const last = lines(request).pop() || {};
      if (last.state === "restored") resolve(last);
      else reject(new Error(sentence(last.error || "the server gave no result; try again")));
    };
    say("Sending", 0);
    request.send(file);
  });
}

function lines(request) {
  const text = request.responseText;
  const whole = request.readyState === XMLHttpRequest.DONE ? text : text.slice(0, text.lastIndexOf("\n") + 1);
  return whole.split("\n").filter(Boolean).map((line) => {
    try { return JSON.parse(line); } catch { return {}; }
  });
}

function told(line) {
  if (!line) return;
  if (line.state === "waiting") say(line.ahead ? "Waiting for another photograph" : "Reading");
  else if (line.state === "restoring") say(`Restoring, ${Math.round((100 * line.done) / line.total)} %`, line.done / line.total);
}

function sentence(text) {
  const named = /^\S*\.\S/.test(text); // it begins with the name of a file
  return (named ? text : text.charAt(0).toUpperCase() + text.slice(1)) + (/[.!?]$/.test(text) ? "" : ".");
}

async function present(file, done) {
  say("Fetching the result");
  const views = await Promise.all(["before", "after"].map((which) => fetched(`photographs/${done.key}/${which}`)));
  if (state.file !== file) {
    forget(done.key);
    return;
  }
  await Promise.all([source(part("before"), url(views[0])), source(part("after"), url(views[1]))]);
  if (state.done) forget(state.done.key);
  state.done = done;
  state.request = null;
  state.size = [done.width, done.height];
  state.split = 0.5;
  part("name").textContent = done.name;
  const kind = done.formats[0].format.replace("WEBP", "WebP");
  part("size").textContent = `${done.width.toLocaleString("en")} x ${done.height.toLocaleString("en")} pixels, ${kind}, ${done.bits} bits${done.grey ? ", grey" : ""}`;
  estimate(done);
  part("format").replaceChildren(...done.formats.map(({ format }) => {
    const option = document.createElement("option");
    option.value = format;
    option.textContent = format.replace("WEBP", "WebP");
    return option;
  }));
  part("notes").replaceChildren(...done.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = sentence(note);
    return item;
  }));
  setStrength(done.clean ? 0 : 1);
  named();
  show("result");
}

function estimate(done) {
  const noise = part("noise");
  noise.textContent = done.noise === null ? "unknown " : `${done.noise.toFixed(1)} `;
  const unit = document.createElement("small");
  unit.textContent = done.noise === null ? "" : "of 255";
  noise.append(unit);
  part("noise-hint").textContent = done.noise === null
    ? "The photograph is too small to tell."
    : done.estimate.includes(" if ") ? sentence(done.estimate) : "Standard deviation in grey levels.";
  part("clean").hidden = !done.clean;
  part("coarse").hidden = !done.coarse;
}

async function fetched(address) {
  const response = await fetch(address, { cache: "no-store" }).catch(() => {
    throw new Error("The connection to the server is lost; try again.");
  });
  if (response.ok) return response.blob();
  const told = await response.json().catch(() => ({}));
  throw Object.assign(new Error(sentence(told.error || "the server gave no result; try again")), { status: response.status });
}

function forget(key) {
  navigator.sendBeacon(`photographs/${key}/forget`);
}

// Drops the photograph that is shown or on its way, here and on the server.
function abandon() {
  if (state.request) state.request.abort();
  if (state.done) forget(state.done.key);
  for (const each of state.urls) URL.revokeObjectURL(each);
  Object.assign(state, { request: null, file: null, done: null, size: null, urls: [] });
}

function leave() {
  abandon();
  complain("");
  part("file").value = "";
  show("start");
}

// Before and after

function arrange(centre = [0.5, 0.5]) {
  const stage = part("stage"), picture = part("picture"), room = part("viewer").clientWidth;
  stage.classList.toggle("blank", !state.size);
  if (!state.size || !room) {
    stage.style.width = stage.style.height = picture.style.width = picture.style.height = "";
    return;
  }
  const [width, height] = state.size, most = Math.max(240, window.innerHeight * (narrow() ? 0.55 : 0.72));
  const whole = Math.min(room / width, most / height, LARGEST_ENLARGEMENT / dpr());
  const scale = state.zoom === "fit" ? whole : Number(state.zoom) / dpr();
  const across = Math.max(1, width * scale), down = Math.max(1, height * scale);
  picture.style.width = `${across}px`;
  picture.style.height = `${down}px`;
  stage.style.width = `${Math.min(room, across)}px`;
  stage.style.height = `${Math.min(most, down)}px`;
  stage.classList.toggle("zoomed", across > room + 1 || down > most + 1);
  picture.classList.toggle("large", scale * dpr() >= 2);
  const scroller = part("scroller");
  scroller.scrollLeft = centre[0] * across - scroller.clientWidth / 2;
  scroller.scrollTop = centre[1] * down - scroller.clientHeight / 2;
  for (const button of part("zooms").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.zoom === state.zoom));
  const reduced = state.zoom === "fit" && whole * dpr() < 0.95;
  part("hint").textContent = reduced ? `shown at ${Math.max(1, Math.round(100 * whole * dpr()))} %, which hides noise` : "";
  divide();
}

function divide() {
  const width = part("stage").clientWidth, across = state.split * width;
  part("clip").style.clipPath = `inset(0 0 0 ${across + part("scroller").scrollLeft}px)`;
  part("divider").style.left = `${across}px`;
  part("divider").setAttribute("aria-valuenow", String(Math.round(100 * state.split)));
  part("label-before").classList.toggle("covered", across < COVERED);
  part("label-after").classList.toggle("covered", across > width - COVERED);
}

function split(share) {
  state.split = Math.min(1, Math.max(0, share));
  divide();
}

function zoom(value, centre) {
  state.zoom = value;
  arrange(centre);
}

// The place of a pointer in the picture, as shares of its width and height.
function place(event) {
  const box = part("picture").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function seen() {
  const scroller = part("scroller"), picture = part("picture");
  return [
    (scroller.scrollLeft + scroller.clientWidth / 2) / picture.clientWidth,
    (scroller.scrollTop + scroller.clientHeight / 2) / picture.clientHeight,
  ];
}

// The boundary follows the pointer: from its handle always, from anywhere if the whole picture is seen.
function dragged(element, applies, begin, move) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button || !applies(event)) return;
    const started = begin(event);
    element.setPointerCapture(event.pointerId);
    const moved = (next) => move(next, started);
    const ended = () => {
      element.removeEventListener("pointermove", moved);
      element.removeEventListener("pointerup", ended);
      element.removeEventListener("pointercancel", ended);
    };
    element.addEventListener("pointermove", moved);
    element.addEventListener("pointerup", ended);
    element.addEventListener("pointercancel", ended);
  });
}

const zoomed = () => part("stage").classList.contains("zoomed");
const follow = (event) => {
  const box = part("stage").getBoundingClientRect();
  split((event.clientX - box.left) / box.width);
};

dragged(part("divider"), () => true, () => null, follow);
dragged(part("scroller"), () => state.done && !zoomed(), () => null, follow);
dragged(
  part("scroller"),
  (event) => zoomed() && event.pointerType === "mouse", // fingers pan by themselves
  (event) => [event.clientX + part("scroller").scrollLeft, event.clientY + part("scroller").scrollTop],
  (event, [x, y]) => part("scroller").scrollTo(x - event.clientX, y - event.clientY),
);
part("scroller").addEventListener("scroll", divide);
part("scroller").addEventListener("dblclick", (event) => {
  if (state.done) zoom(state.zoom === "fit" ? "1" : "fit", place(event));
});
part("divider").addEventListener("keydown", (event) => {
  const to = { ArrowLeft: state.split - 0.02, ArrowRight: state.split + 0.02, Home: 0, End: 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  split(to);
});
for (const button of part("zooms").querySelectorAll("button")) {
  button.addEventListener("click", () => zoom(button.dataset.zoom, seen()));
}
window.addEventListener("resize", () => arrange(state.size ? seen() : undefined));

// Strength and download

function setStrength(value) {
  part("strength").value = String(value);
  strengthen();
}

function strengthen() {
  const value = Number(part("strength").value);
  part("after").style.opacity = String(value);
  part("strength-value").textContent = value.toFixed(2);
}

function named() {
  const chosen = state.done.formats.find(({ format }) => format === part("format").value);
  part("file-name").textContent = chosen.name;
  return chosen;
}

async function download() {
  const button = part("download"), file = state.file, { name, format } = named(), strength = part("strength").value;
  const get = () => fetched(`photographs/${state.done.key}/file?strength=${strength}&format=${format}`);
  button.disabled = true;
  button.textContent = "Writing the file";
  complain("");
  try {
    const blob = await get().catch(async (error) => {
      if (error.status !== 404 || state.file !== file) throw error;
      button.textContent = "Restoring once more"; // the server has forgotten it
      state.done = { ...state.done, key: (await send(file)).key };
      return get();
    });
    if (state.file !== file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    complain(error.message);
  } finally {
    button.disabled = false;
    button.textContent = "Download";
  }
}

part("strength").addEventListener("input", strengthen);
part("format").addEventListener("change", named);
part("download").addEventListener("click", download);
part("cancel").addEventListener("click", leave);
part("another").addEventListener("click", leave);

// Where files come from

part("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) open(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(file);
});
window.addEventListener("pagehide", () => {
  if (state.done) forget(state.done.key);
});
