// What every canvas chart shares: colours of the sheet, axes, dashes.

export const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4]];

/** Give the colours of the sheet, as they are now: a canvas knows no variables. */
export function colours() {
  const of = (name) => getComputedStyle(document.querySelector(`#swatches .${name}`)).color;
  return { ink: of("ink"), quiet: of("quiet"), line: of("line"), bad: of("bad"), warn: of("warn"), good: of("good"), info: of("info"), series: DASHES.map((_, n) => of(`c${n}`)) };
}

export const faded = (colour, alpha) => colour.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

/** Give what an axis looks like; `more` is its own. */
export const axis = (colour, more) => ({
  stroke: colour.quiet, grid: { stroke: colour.line, width: 1 }, ticks: { stroke: colour.line, width: 1 }, font: "12px system-ui", ...more,
});

/** Give the size of a chart in `element`. */
export const size = (element, tall = 320) => ({ width: Math.max(240, element.clientWidth), height: innerWidth < 640 ? 260 : tall });
