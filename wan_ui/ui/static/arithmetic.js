// The page's arithmetic: pure functions of numbers and texts, without document or network. They are in scope of all of
// the page's scripts; tests/js/arithmetic.test.mjs runs them in Node.

/** A duration as the page writes it: "4.2 s", "42 s", "2 min 5 s", "1 h 3 min".
 * @param {number} value seconds */
const durationText = (value) => {
  const whole = Math.round(value);
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
};

/** A duration as a clock shows it: "0:07", "2:05", "1:03:20".
 * @param {number} value seconds; less than none is none */
const clockText = (value) => {
  const whole = Math.max(0, Math.round(value));
  const two = (/** @type {number} */ number) => String(number).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
};

/** A number of bytes in the largest decimal unit that it fills, with one decimal below ten GB: "12 kB", "3.4 GB".
 * @param {number} count */
const bytesText = (count) => {
  const [unit, name] = count < 1e6 ? [1e3, 'kB'] : count < 1e9 ? [1e6, 'MB'] : [1e9, 'GB'];
  const value = count / unit;
  return `${value < 10 && name === 'GB' ? value.toFixed(1) : Math.round(value)} ${name}`;
};

/** The share of a job that is done: of its time, or of its steps where nothing is known of the time; null without either.
 * @param {{fraction?: number | null, steps_done?: number | null, steps_total?: number | null}} progress */
const shareDone = ({ fraction, steps_done: done, steps_total: total }) => fraction ?? (done && total ? done / total : null);

/** The largest of the percentages in `marks`, in rising order, that `percent` has reached; 0 before the first.
 * @param {number} percent @param {number[]} marks */
const lastReached = (percent, marks) => marks.filter((mark) => mark <= percent).pop() || 0;

/** A LoRA file's name in parts: the name of its training job, the step (null for the last file) and its half of a pair.
 * @param {string} file */
const loraParts = (file) => {
  const stem = file.replace(/\.safetensors$/i, '');
  const half = /[_ .-](high|low)(?:[_ .-]?noise)?(?=[_ .-]|$)/i.exec(stem);
  const rest = half ? stem.replace(half[0], '') : stem;
  const step = /[_-]0*(\d+)$/.exec(rest);
  const name = step ? rest.slice(0, step.index) : rest;
  return { name: name || stem, step: step && name ? Number(step[1]) : null, half: half ? half[1].toLowerCase() : '' };
};

/** The values of an axis's text, one a chip: a range stays one. Without `isByLine` commas, semicolons and, outside of
 * ranges, spaces part them.
 * @param {string} text @param {boolean} isByLine */
const axisPieces = (text, isByLine) => text
  .split(isByLine ? /\n/ : /[,;，；、\n]/)
  .flatMap((piece) => (isByLine || /\.\.|…/.test(piece) ? [piece] : piece.split(/\s+/)))
  .map((piece) => piece.trim())
  .filter(Boolean);

/** The seconds in the middle of a frame: its edges belong to one or the other by how a browser rounds.
 * @param {number} frame from 0; after the last it is the last @param {number} frames @param {number} fps */
const timeOfFrame = (frame, frames, fps) => (Math.min(frame, frames - 1) + 0.5) / fps;

/** The frame that is shown at a time, from 0.
 * @param {number} time seconds @param {number} frames @param {number} fps */
const frameAtTime = (time, frames, fps) => Math.max(0, Math.min(frames - 1, Math.floor(time * fps + 0.02)));

/** How many seconds a looping video is ahead of the one it follows, by the shorter way round the loop.
 * @param {number} time @param {number} leader both in seconds @param {number} length of the loop in seconds */
const loopedDrift = (time, leader, length) => {
  const drift = time - leader;
  if (drift > length / 2) return drift - length;
  return drift < -length / 2 ? drift + length : drift;
};

/** Frame counts of the models are 4N + 1, as each latent frame after the first is four of the video's. */
const FRAMES_PER_LATENT = 4;

/** The nearest frame count, 4N + 1, to a length.
 * @param {number} seconds @param {number} fps */
const framesOfLength = (seconds, fps) =>
  1 + FRAMES_PER_LATENT * Math.max(0, Math.round((seconds * fps - 1) / FRAMES_PER_LATENT));

/** Width and height of the outline that a size's chip shows: the longer side is `longest` pixels.
 * @param {number} width @param {number} height @param {number} longest */
const outlineOf = (width, height, longest) => {
  const scale = longest / Math.max(width, height);
  return [Math.round(width * scale), Math.round(height * scale)];
};

/** The canvas that gives a picture another aspect, and where the picture's upper left corner lies on it. "crop" takes the
 * largest part of that aspect from the middle, "fit" puts bars beside the picture; neither scales.
 * @param {'crop' | 'fit'} mode @param {{width: number, height: number}} picture @param {[number, number]} aspect */
const reshaped = (mode, picture, [width, height]) => {
  const isWider = picture.width / picture.height > width / height;
  const keepsHeight = mode === 'crop' ? isWider : !isWider;
  const canvasWidth = keepsHeight ? Math.max(1, Math.round((picture.height * width) / height)) : picture.width;
  const canvasHeight = keepsHeight ? picture.height : Math.max(1, Math.round((picture.width * height) / width));
  return {
    width: canvasWidth,
    height: canvasHeight,
    x: Math.round((canvasWidth - picture.width) / 2),
    y: Math.round((canvasHeight - picture.height) / 2),
  };
};

/** `count` indexes of `of` things, evenly spread from the first one on.
 * @param {number} count @param {number} of */
const spread = (count, of) => [...Array(Math.min(count, of)).keys()].map((index) => Math.floor((index * of) / Math.min(count, of)));

/** The index to which a key moves in a list: arrows by one, round its ends where `wraps`; Home and End; null for other keys.
 * @param {string} key @param {number} at @param {number} count
 * @param {{previous?: string[], next?: string[], wraps?: boolean}} options */
const indexAfterKey = (key, at, count, { previous = ['ArrowLeft'], next = ['ArrowRight'], wraps = true } = {}) => {
  if (at < 0 || at >= count) return null;
  if (key === 'Home') return 0;
  if (key === 'End') return count - 1;
  const to = next.includes(key) ? at + 1 : previous.includes(key) ? at - 1 : null;
  if (to === null) return null;
  if (wraps) return (to + count) % count;
  return to >= 0 && to < count ? to : null;
};

/** How near a render is to its training sample, by its PSNR in decibels: as good as equal from 36, near from 25.
 * @param {number} psnr */
const nearness = (psnr) => (psnr >= 36 ? 'good' : psnr >= 25 ? 'near' : 'far');
