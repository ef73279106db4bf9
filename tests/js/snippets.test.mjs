import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

import { load } from './load.mjs';

const { curlCall, pythonCall, pythonLiteral } = load('snippets', ['curlCall', 'pythonCall', 'pythonLiteral']);
const REQUEST = {
  model: 'wan22_5b', seed: -1, neg: '', loras: [{ path: 'a/b.safetensors', network_multiplier: 0.5 }], empty: [], none: {},
  prompts: [{ prompt: 'it\'s "so"\\n 中文\n🎲', ctrl_img: null, apply_exif: true, walk_seed: false }],
};

test('the call with curl holds the request and both addresses', () => {
  const text = curlCall('http://host:1/wan', REQUEST);
  const [, json] = /<<'JSON'\n([^]*?)\nJSON\n/.exec(text);
  assert.deepEqual(JSON.parse(json), REQUEST);
  assert.ok(text.includes("'http://host:1/wan/v1/inference'"));
  assert.ok(text.includes("'http://host:1/wan/v1/requests/REQUEST_ID/result'"));
});

test('constants and empty containers as Python writes them', () => {
  assert.equal(pythonLiteral([true, false, null]), '[\n    True,\n    False,\n    None,\n]');
  assert.equal(pythonLiteral({ a: [], b: {} }), '{\n    "a": [],\n    "b": {},\n}');
});

const python = ['python3', 'python'].find((name) => spawnSync(name, ['--version']).status === 0);
test('Python reads the request as it is, and the whole call is Python', { skip: python ? false : 'Python is not in PATH' }, () => {
  const program = `
import ast, json, sys
tree = ast.parse(sys.stdin.read())
value = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "REQUEST")
print(json.dumps(ast.literal_eval(value)))`;
  const run = spawnSync(python, ['-c', program], { input: pythonCall('http://host:1', REQUEST), encoding: 'utf-8', env: { ...process.env, PYTHONIOENCODING: 'utf-8' } });
  assert.equal(run.stderr, '');
  assert.deepEqual(JSON.parse(run.stdout), REQUEST);
});
