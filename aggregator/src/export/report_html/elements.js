// Makes elements. Texts of a data set only ever become text nodes and attributes, never markup.
"use strict";

const byId = (id) => document.getElementById(id);

// An element with attributes, event handlers (`on…`) and children; null children are left out.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

// A text of a data set, which may be of any script and direction.
function foreign(text, attributes = {}) {
  return make("bdi", attributes, text);
}

// A bar whose length is a share of the longest.
function bar(share, className = "") {
  const inner = make("span", { class: `bar-fill ${className}` });
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("span", { class: "bar", "aria-hidden": "true" }, inner);
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  make("a", { href: address, download: name }).click();
  // A browser may read it later than it was clicked.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
