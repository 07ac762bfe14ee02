// Elements from descriptions, and a page that changes only where its description does. Text is always text: nothing here
// reads markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "line", "title"]);

/** An element: `h("a.name", { href: "#/" }, "text", otherElement)`. Null children are left out. */
export function h(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length > 0) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(document.createTextNode(String(child)));
  }
}

/** Makes the children of `target` what `wanted` describes, and keeps every element that stays, with its focus. */
export function patch(target, wanted) {
  const fresh = document.createDocumentFragment();
  append(fresh, [wanted]);
  patchChildren(target, fresh);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function isSame(old, wanted) {
  return old.nodeType === wanted.nodeType && old.nodeName === wanted.nodeName && keyOf(old) === keyOf(wanted);
}

function patchChildren(target, source) {
  const keyed = new Map();
  for (const child of target.childNodes) {
    const key = keyOf(child);
    if (key !== null) keyed.set(key, child);
  }
  let at = target.firstChild;
  for (const wanted of [...source.childNodes]) {
    const key = keyOf(wanted);
    const known = key === null ? at : keyed.get(key);
    if (known && known.parentNode === target && isSame(known, wanted)) {
      if (known !== at) target.insertBefore(known, at);
      else at = at.nextSibling;
      patchNode(known, wanted);
    } else {
      target.insertBefore(wanted, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function patchNode(old, wanted) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  // What looks after itself is left alone.
  if (old.hasAttribute("data-own")) return;
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  patchChildren(old, wanted);
}
