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

// Elements of a group that are one stop of the Tab key together, however many they are: arrow keys, Home
// and End go on from one to another. They are known by `data-id`.
class OneStop {
  constructor(group, selector) {
    this.group = group;
    this.selector = selector;
    this.id = null;
    group.addEventListener("focusin", (event) => event.target.matches(selector) && this.stopAt(event.target));
    group.addEventListener("keydown", (event) => this.key(event));
  }

  members() {
    return [...this.group.querySelectorAll(this.selector)];
  }

  // After the group was filled anew: the one that was the stop is it again, if it is still there.
  renew() {
    const members = this.members();
    this.stopAt(members.find((member) => member.dataset.id === this.id) ?? members[0]);
  }

  stopAt(stop) {
    this.id = stop?.dataset.id ?? null;
    for (const member of this.members()) member.tabIndex = member === stop ? 0 : -1;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const members = this.members();
    const from = members.indexOf(event.target);
    if (from < 0) return;
    const top = (member) => member.getBoundingClientRect().top;
    const inARow = members.filter((member) => top(member) === top(members[0])).length;
    const moves = {
      ArrowLeft: from - 1, ArrowRight: from + 1, ArrowUp: from - inARow, ArrowDown: from + inARow,
      Home: 0, End: members.length - 1,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    // Beyond the first and the last there is nothing.
    members[moves[event.key]]?.focus();
  }
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
