// What charts are drawn with: smoothing, ranges, colours, and the lines of alarms.

// An exponential moving average that starts at the first value.
function smoothed(values, weight) {
  let mean = values[0];
  return values.map((value) => (mean = weight * mean + (1 - weight) * value));
}

function nearest(values, at) {
  for (let away = 0; away < values.length; away++) {
    if (values[at - away] != null) return values[at - away];
    if (values[at + away] != null) return values[at + away];
  }
  return null;
}

function yRange(low, high, isCount) {
  if (low == null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const fromZero = isCount && low < 0.6 * high;
  return [fromZero ? 0 : isCount ? Math.max(0, low - room) : low - room, high + room];
}

function alpha(rgb, share) { return rgb.replace(/^rgba?\(([^)]+?)\)$/, (_, parts) => `rgba(${parts.split(/[ ,]+/).slice(0, 3).join(", ")}, ${share})`); }

function drawAlarms(u, alarms, stroke) {
  const { ctx, bbox } = u;
  for (const { at, own } of alarms) {
    const left = Math.round(u.valToPos(at, "x", true));
    if (left < bbox.left || left > bbox.left + bbox.width) continue;
    ctx.save();
    ctx.globalAlpha = own ? 1 : 0.45;
    ctx.strokeStyle = ctx.fillStyle = stroke;
    ctx.setLineDash([4, 4]);
    ctx.lineWidth = own ? 2 : 1;
    ctx.beginPath();
    ctx.moveTo(left, bbox.top);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(left - 5, bbox.top);
    ctx.lineTo(left + 5, bbox.top);
    ctx.lineTo(left, bbox.top + 8);
    ctx.fill();
    ctx.restore();
  }
}
