"use strict";

// What the page's large parts are: gzip in base64, so that the file can be sent by mail.
async function unpacked(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Lets the browser show what there is and answer its reader before the next piece of work.
function breath() {
  return new Promise((done) => { setTimeout(done, 0); });
}

// Elements are made of text and never of markup: names come from users.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// What a reader has chosen stands in the address, after #: a link to it shows the same.
const state = {
  now: new URLSearchParams(),
  read() {
    const hash = location.hash.slice(1);
    this.now = new URLSearchParams(hash.includes("=") ? hash : hash ? "at=" + hash : "");
  },
  get(key) {
    return this.now.get(key);
  },
  set(key, value) {
    if (value === null || value === "") this.now.delete(key);
    else this.now.set(key, value);
    const asked = String(this.now);
    history.replaceState(null, "", asked ? "#" + asked : location.pathname + location.search);
  },
};

function toast(words) {
  const place = document.getElementById("toast");
  place.textContent = words;
  place.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { place.hidden = true; }, 3000);
}

