// The lowest contrast of any visible text with what is behind it, and that text.
const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (colour) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
};
const luminance = (colour) => {
  const [r, g, b] = rgba(colour).slice(0, 3).map((value) => {
    value /= 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (rgba(colour)[3] === 255) return colour;
  }
  throw new Error("nothing opaque behind " + element.outerHTML);
};
let lowest = [Infinity, ""];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
  if (!own.length || !element.checkVisibility() || element.closest("svg, script")) continue;
  const lights = [getComputedStyle(element).color, behind(element)].map(luminance);
  const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  if (contrast < lowest[0]) lowest = [contrast, own[0].data.trim()];
}
return lowest;
