import assert from 'node:assert/strict';
import { test } from 'node:test';

import { load } from './load.mjs';

const {
  durationText, clockText, bytesText, shareDone, lastReached, timeOfFrame, frameAtTime, loopedDrift, framesOfLength,
  outlineOf, reshaped, spread, indexAfterKey, nearness, loraParts, axisPieces,
} = load('arithmetic', [
  'durationText', 'clockText', 'bytesText', 'shareDone', 'lastReached', 'timeOfFrame', 'frameAtTime', 'loopedDrift',
  'framesOfLength', 'outlineOf', 'reshaped', 'spread', 'indexAfterKey', 'nearness', 'loraParts', 'axisPieces',
]);

/** Each case is the arguments and the result. */
const table = (name, of, cases) => test(name, () => {
  for (const [given, wanted] of cases) assert.deepEqual(of(...given), wanted, JSON.stringify(given));
});

table('a LoRA file in parts', loraParts, [
  [['fox_000000250.safetensors'], { name: 'fox', step: 250, half: '' }], [['fox.safetensors'], { name: 'fox', step: null, half: '' }],
  [['cat_high_noise_000001500.safetensors'], { name: 'cat', step: 1500, half: 'high' }],
  [['cat-1500-low_noise.SAFETENSORS'], { name: 'cat', step: 1500, half: 'low' }],
  [['highway_2.safetensors'], { name: 'highway', step: 2, half: '' }], [['_12.safetensors'], { name: '_12', step: null, half: '' }],
]);
table('the values of an axis', axisPieces, [
  [['', false], []], [['0.5, 1,1.5', false], ['0.5', '1', '1.5']], [['0.2..1.0 step 0.2, 2 3', false], ['0.2..1.0 step 0.2', '2', '3']],
  [['1，2；3、4', false], ['1', '2', '3', '4']], [['none step_cache', false], ['none', 'step_cache']],
  [['a cat, asleep\n\n a dog ', true], ['a cat, asleep', 'a dog']],
]);
table('a duration in words', durationText, [
  [[0], '0.0 s'], [[4.24], '4.2 s'], [[9.94], '9.9 s'], [[9.95], '10 s'], [[59.4], '59 s'], [[59.6], '1 min 0 s'],
  [[125], '2 min 5 s'], [[3599.6], '1 h 0 min'], [[3780], '1 h 3 min'],
]);
table('a duration as a clock', clockText, [
  [[-3], '0:00'], [[7], '0:07'], [[59.6], '1:00'], [[125], '2:05'], [[3800], '1:03:20'],
]);
table('bytes', bytesText, [
  [[0], '0 kB'], [[12_345], '12 kB'], [[999_499], '999 kB'], [[3_400_000], '3 MB'], [[3_400_000_000], '3.4 GB'], [[96e9], '96 GB'],
]);
table('the share that is done is that of the time, else of the steps', shareDone, [
  [[{ fraction: 0.4, steps_done: 1, steps_total: 2 }], 0.4], [[{ fraction: 0, steps_done: 1, steps_total: 2 }], 0],
  [[{ fraction: null, steps_done: 1, steps_total: 4 }], 0.25], [[{ fraction: null, steps_done: 0, steps_total: 4 }], null],
  [[{ fraction: null, steps_done: null, steps_total: null }], null], [[{ steps_done: 3, steps_total: 0 }], null],
]);
table('the percentage that is announced', lastReached, [
  [[24.9, [25, 50, 75]], 0], [[25, [25, 50, 75]], 25], [[74, [25, 50, 75]], 50], [[100, [25, 50, 75]], 75],
]);
table('the time of a frame is its middle', timeOfFrame, [[[0, 41, 16], 0.5 / 16], [[40, 41, 16], 40.5 / 16], [[99, 41, 16], 40.5 / 16]]);
table('the frame at a time', frameAtTime, [[[0, 41, 16], 0], [[-1, 41, 16], 0], [[2.56, 41, 16], 40], [[9, 41, 16], 40]]);
test('the time of each frame leads back to that frame', () => {
  for (const fps of [8, 12, 16, 23.976, 24, 30, 60]) {
    for (let frame = 0; frame < 121; frame += 1) assert.equal(frameAtTime(timeOfFrame(frame, 121, fps), 121, fps), frame);
  }
});
table('drift goes the shorter way round the loop', loopedDrift, [
  [[1.5, 1, 4], 0.5], [[0.25, 3.75, 4], 0.5], [[3.75, 0.25, 4], -0.5], [[2, 2, 4], 0],
]);
table('frames of a length', framesOfLength, [[[5, 16], 81], [[0, 16], 1], [[0.01, 16], 1], [[1, 16], 17], [[2.5, 24], 61]]);
test('frames are 4N + 1, and the nearest of them', () => {
  for (let length = 0; length < 12; length += 0.1) {
    const frames = framesOfLength(length, 16);
    assert.equal((frames - 1) % 4, 0);
    assert.ok(frames === 1 || Math.abs(frames - length * 16) <= 2.001, `${length} s: ${frames}`);
  }
});
table('the outline of a size', outlineOf, [[[1280, 720, 16], [16, 9]], [[480, 832, 16], [9, 16]], [[512, 512, 16], [16, 16]]]);
table('a picture in another aspect', reshaped, [
  [['crop', { width: 640, height: 300 }, [1, 1]], { width: 300, height: 300, x: -170, y: 0 }],
  [['fit', { width: 640, height: 300 }, [1, 1]], { width: 640, height: 640, x: 0, y: 170 }],
  [['crop', { width: 300, height: 640 }, [832, 480]], { width: 300, height: 173, x: 0, y: -233 }],
  [['fit', { width: 300, height: 640 }, [832, 480]], { width: 1109, height: 640, x: 405, y: 0 }],
  [['crop', { width: 64, height: 64 }, [1, 1]], { width: 64, height: 64, x: 0, y: 0 }],
  [['crop', { width: 1, height: 4000 }, [1, 1]], { width: 1, height: 1, x: 0, y: -1999 }],
]);
table('a few of many, evenly spread', spread, [[[8, 3], [0, 1, 2]], [[4, 40], [0, 10, 20, 30]], [[8, 0], []], [[3, 10], [0, 3, 6]]]);
table('the index after a key', indexAfterKey, [
  [['ArrowRight', 2, 3], 0], [['ArrowLeft', 0, 3], 2], [['Home', 2, 3], 0], [['End', 0, 3], 2], [['a', 0, 3], null],
  [['ArrowRight', -1, 3], null], [['ArrowDown', 2, 3, { previous: ['ArrowUp'], next: ['ArrowDown'], wraps: false }], null],
  [['ArrowUp', 1, 3, { previous: ['ArrowUp'], next: ['ArrowDown'], wraps: false }], 0],
]);
table('how near a render is to its sample', nearness, [[[36], 'good'], [[35.9], 'near'], [[25], 'near'], [[24.9], 'far']]);
