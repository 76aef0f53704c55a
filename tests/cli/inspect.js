// Looks at the page that it stands in and leaves what it finds in an attribute of the root of the page around it.
"use strict";

const MIN_CONTRAST = 4.5;

function channels(color) {
  const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
  return { rgb: [r, g, b], alpha: a };
}

function mixed(below, above, alpha) {
  return below.map((channel, i) => channel * (1 - alpha) + above[i] * alpha);
}

// Relative luminance, as the Web Content Accessibility Guidelines define it.
function luminance(rgb) {
  const [r, g, b] = rgb.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

// The colour that `element` paints its area with, and how much of what lies below it covers.
function paint(element) {
  const style = getComputedStyle(element);
  if (!(element instanceof SVGElement)) return channels(style.backgroundColor);
  if (!["rect", "circle", "path"].includes(element.tagName) || style.fill === "none") return null;
  const { rgb, alpha } = channels(style.fill);
  return { rgb, alpha: alpha * Number(style.fillOpacity) * Number(style.opacity) };
}

// The colour behind the point (x, y).
function behind(x, y) {
  const layers = [];
  for (const element of document.elementsFromPoint(x, y)) {
    const layer = paint(element);
    if (layer && layer.alpha > 0) layers.push(layer);
    if (layer && layer.alpha >= 1) break;
  }
  return layers.reduceRight((below, { rgb, alpha }) => mixed(below, rgb, alpha), [255, 255, 255]);
}

function name(element) {
  return `${element.tagName} ${element.getAttribute("class") ?? ""} "${element.textContent.slice(0, 40)}"`;
}

function lookAtTexts(found) {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("title, script, style") || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const style = getComputedStyle(parent);
    const { rgb, alpha } = channels(parent instanceof SVGElement ? style.fill : style.color);
    for (const box of range.getClientRects()) {
      const below = behind(box.x + box.width / 2, box.y + box.height / 2);
      const ratio = contrast(mixed(below, rgb, alpha), below);
      if (!(ratio >= MIN_CONTRAST)) found.faint.push(`${name(parent)}: ${ratio.toFixed(2)}`);
    }
    found.texts += 1;
  }
}

function lookForOverflow(found) {
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility()) continue;
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.right > innerWidth + 1 || box.left < -1)) found.overflow.push(name(element));
    const hides = getComputedStyle(element).overflowX !== "visible" && !(element instanceof SVGElement);
    if (hides && element.scrollWidth > element.clientWidth + 1) found.overflow.push(name(element));
  }
  if (document.documentElement.scrollHeight > innerHeight) found.overflow.push("the page is too long to look at");
}

addEventListener("load", () => {
  document.querySelectorAll("details").forEach((details) => (details.open = true));
  const found = {
    width: innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    overflow: [],
    faint: [],
    texts: 0,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name).filter((url) => !url.startsWith("data:")),
    was_run: "wasRun" in document.documentElement.dataset,
    words: document.body.innerText + [...document.images].map((image) => image.alt).join("\n"),
  };
  lookForOverflow(found);
  lookAtTexts(found);
  const bytes = new TextEncoder().encode(JSON.stringify(found));
  top.document.documentElement.dataset.found = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
});
