import assert from 'node:assert/strict';
import { test } from 'node:test';

import { load } from './load.mjs';

const { textOf, translated } = load('texts', ['textOf', 'translated']);
globalThis.window = globalThis;
globalThis.gradio_config = { texts: { plain: 'Step {step} of {steps}', many: { one: '1 video', other: '{count} videos' } } };
globalThis.wanUiMessages = { 'The file {name} is {size} (too large).': '文件 {name}（{size}）太大。', 'Not found.': '未找到。', 'Out of memory. Try {what}.': '内存不足。请尝试{what}。', 'The GPU': '显卡' };

test('placeholders are filled, and those without a value stay', () => {
  assert.equal(textOf('plain', { step: 0, steps: 12 }), 'Step 0 of 12');
  assert.equal(textOf('plain', { step: 1 }), 'Step 1 of {steps}');
});
test('one has a form of its own', () => {
  assert.equal(textOf('many', { count: 1 }), '1 video');
  assert.equal(textOf('many', { count: 0 }), '0 videos');
});
test('a key without a text is shown as it is', () => assert.equal(textOf('missing.key'), 'missing.key'));
test('a message of the API with its values in the language of the page', () => {
  assert.equal(translated('The file a (1).png is 3 MB (too large).'), '文件 a (1).png（3 MB）太大。');
  assert.equal(translated('Not found.'), '未找到。');
  assert.equal(translated('Not found!'), 'Not found!');
});
test('several sentences, of which an entry may have more than one, and one after a name', () => {
  assert.equal(translated('Not found. Out of memory. Try less.'), '未找到。内存不足。请尝试less。');
  assert.equal(translated('a.mp4: Not found.'), 'a.mp4: 未找到。');
  assert.equal(translated('The GPU: Not found. Not found.'), '显卡: 未找到。未找到。');
  assert.equal(translated('Not found. Something else.'), 'Not found. Something else.');
});
test('a text that nearly matches in many ways, and messages within each other, take no time', () => {
  globalThis.wanUiMessages = { '{a}: {b} × {c} became {d} × {e}.': '{a}', 'Lost: {what}': '{what}' };
  const nearly = `x: ${'x × '.repeat(480)}\0`, begun = performance.now();
  assert.equal(translated(nearly), nearly);
  assert.match(translated('Lost: '.repeat(300) + 'x'), /^Lost: .*x$/);
  assert.ok(performance.now() - begun < 5000);
});
