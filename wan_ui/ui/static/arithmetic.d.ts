/** A duration as the page writes it: "4.2 s", "42 s", "2 min 5 s", "1 h 3 min".
 * @param {number} value seconds */
declare const durationText: (value: number) => string;
/** A duration as a clock shows it: "0:07", "2:05", "1:03:20".
 * @param {number} value seconds; less than none is none */
declare const clockText: (value: number) => string;
/** A number of bytes in the largest decimal unit that it fills, with one decimal below ten GB: "12 kB", "3.4 GB".
 * @param {number} count */
declare const bytesText: (count: number) => string;
/** The share of a job that is done: of its time, or of its steps where nothing is known of the time; null without either.
 * @param {{fraction?: number | null, steps_done?: number | null, steps_total?: number | null}} progress */
declare const shareDone: ({ fraction, steps_done: done, steps_total: total }: {
    fraction?: number | null;
    steps_done?: number | null;
    steps_total?: number | null;
}) => number | null;
/** The largest of the percentages in `marks`, in rising order, that `percent` has reached; 0 before the first.
 * @param {number} percent @param {number[]} marks */
declare const lastReached: (percent: number, marks: number[]) => number;
/** The seconds in the middle of a frame: its edges belong to one or the other by how a browser rounds.
 * @param {number} frame from 0; after the last it is the last @param {number} frames @param {number} fps */
declare const timeOfFrame: (frame: number, frames: number, fps: number) => number;
/** The frame that is shown at a time, from 0.
 * @param {number} time seconds @param {number} frames @param {number} fps */
declare const frameAtTime: (time: number, frames: number, fps: number) => number;
/** How many seconds a looping video is ahead of the one it follows, by the shorter way round the loop.
 * @param {number} time @param {number} leader both in seconds @param {number} length of the loop in seconds */
declare const loopedDrift: (time: number, leader: number, length: number) => number;
/** Frame counts of the models are 4N + 1, as each latent frame after the first is four of the video's. */
declare const FRAMES_PER_LATENT = 4;
/** The nearest frame count, 4N + 1, to a length.
 * @param {number} seconds @param {number} fps */
declare const framesOfLength: (seconds: number, fps: number) => number;
/** Width and height of the outline that a size's chip shows: the longer side is `longest` pixels.
 * @param {number} width @param {number} height @param {number} longest */
declare const outlineOf: (width: number, height: number, longest: number) => number[];
/** The canvas that gives a picture another aspect, and where the picture's upper left corner lies on it. "crop" takes the
 * largest part of that aspect from the middle, "fit" puts bars beside the picture; neither scales.
 * @param {'crop' | 'fit'} mode @param {{width: number, height: number}} picture @param {[number, number]} aspect */
declare const reshaped: (mode: 'crop' | 'fit', picture: {
    width: number;
    height: number;
}, [width, height]: [number, number]) => {
    width: number;
    height: number;
    x: number;
    y: number;
};
/** `count` indexes of `of` things, evenly spread from the first one on.
 * @param {number} count @param {number} of */
declare const spread: (count: number, of: number) => number[];
/** The index to which a key moves in a list: arrows by one, round its ends where `wraps`; Home and End; null for other keys.
 * @param {string} key @param {number} at @param {number} count
 * @param {{previous?: string[], next?: string[], wraps?: boolean}} options */
declare const indexAfterKey: (key: string, at: number, count: number, { previous, next, wraps }?: {
    previous?: string[];
    next?: string[];
    wraps?: boolean;
}) => number | null;
/** How near a render is to its training sample, by its PSNR in decibels: as good as equal from 36, near from 25.
 * @param {number} psnr */
declare const nearness: (psnr: number) => "far" | "good" | "near";
