// The body of a function that finds what looks wrong in a page of this project: see Browser::look.
const seen = (all) => [...all].filter((one) => one.getClientRects().length);
const box = (one) => one.getBoundingClientRect();
const rows = document.querySelectorAll("tbody tr").length;
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const small = seen(document.querySelectorAll("svg text")).filter((text) => box(text).height < 9);
const outside = [...document.querySelectorAll("svg")].flatMap((svg) => seen(svg.querySelectorAll("text, rect"))
  .filter((part) => box(part).right > box(svg).right + 1 || box(part).left < box(svg).left - 1
    || box(part).bottom > box(svg).bottom + 1)
  .map((part) => part.outerHTML));
const texts = [...document.querySelectorAll("svg")].map((svg) => seen(svg.querySelectorAll("text:not(.inside)")));
const overlaps = texts.flatMap((all) => all.flatMap((a, at) => all.slice(at + 1).filter((b) =>
  box(a).left < box(b).right - 1 && box(b).left < box(a).right - 1
    && box(a).top < box(b).bottom - 4 && box(b).top < box(a).bottom - 4)
  .map((b) => a.textContent + " | " + b.textContent)));
const alike = texts.flatMap((all) => all.map((text) => text.firstChild.textContent)
  .filter((label, at, labels) => !/^\d+$/.test(label) && labels.indexOf(label) !== at));
const unnamed = [...document.querySelectorAll("svg")].filter((svg) => !svg.getAttribute("aria-labelledby")
  || !document.getElementById(svg.getAttribute("aria-labelledby")).textContent
  || !svg.querySelector("desc").textContent).length;
const luminance = (color) => color.match(/\d+/g).slice(0, 3).map((part) => part / 255)
  .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const contrast = (one, ground) => {
  const [dark, light] = [luminance(one), luminance(ground)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};
const paper = getComputedStyle(document.body).backgroundColor;
const faint = [
  ...seen(document.querySelectorAll("h1, h2, p, li, td, th, .state, figcaption"))
    .filter((one) => contrast(getComputedStyle(one).color, paper) < 4.5),
  ...seen(document.querySelectorAll("svg text:not(.inside)"))
    .filter((one) => contrast(getComputedStyle(one).fill, paper) < 4.5),
  ...seen(document.querySelectorAll("svg .inside"))
    .filter((one) => contrast(getComputedStyle(one).fill, getComputedStyle(one.previousElementSibling).fill) < 4.5),
].map((one) => one.outerHTML);
const unstyled = getComputedStyle(document.querySelector(".counts")).display === "flex" ? 0 : 1;
const signless = seen(document.querySelectorAll(".state")).filter((one) => !/^[✓✗!?»] \w/.test(one.textContent)).length;
const scripts = document.querySelectorAll("script, link, img, iframe, object, [onclick], [onload]").length;
return {rows, wide, small: small.map((text) => text.textContent), outside, overlaps, alike, unnamed, faint, unstyled, signless, scripts};
