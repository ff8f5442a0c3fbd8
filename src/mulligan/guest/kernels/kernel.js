// The Node.js kernel. It is laid into a kernel's own directory and run as its main program, with its
// control socket as descriptor 60 and three memory files that the agent writes before it says `cell`:
// the code (61), the input (standard input) and the settings (63).
//
// Cells go through V8's inspector in its REPL mode, in this very thread: `const`, `let` and `class`
// may be declared again, `await` may stand at the top level, and the last value comes back.
// docs/decisions/0007-kernels.md has the protocol and what is kept of a kernel.
'use strict';

const { writeSync, readFileSync, createReadStream } = require('fs');
const inspector = require('inspector');
const { createRequire, Module } = require('module');
const { Socket } = require('net');
const { inspect } = require('util');
const { Script } = require('vm');

const MOST_RESULT = 64 * 1024;
const INTERRUPTED = 130;
const CODE = '/proc/self/fd/61';
const SETTINGS = '/proc/self/fd/63';
const HOOK = Symbol.for('mulligan.kernel');

const control = new Socket({ fd: 60, readable: true, writable: true });
const session = new inspector.Session();
session.connect();
// breakOnSigint holds for what runs below such a script, the inspector's evaluation included.
const interruptible = new Script(`globalThis[Symbol.for('mulligan.kernel')].run()`);
const hook = { run: null, value: undefined };
Object.defineProperty(globalThis, HOOK, { value: hook });

let current = null;
let stdin = null;
let directory = process.cwd();

function send(message) {
  control.write(JSON.stringify(message) + '\0');
}

function done(cell, status, result = null) {
  if (current !== cell) return;
  current = null;
  const notes = cell.notes;
  directory = process.cwd();
  session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
  session.post('Runtime.discardConsoleEntries');
  send({ op: 'done', status, result, notes });
}

function bounded(text) {
  const data = Buffer.from(text);
  if (data.length <= MOST_RESULT) return text;
  const shown = data.subarray(0, MOST_RESULT - 64).toString().replace(/\uFFFD+$/, '');
  return `${shown}… (${text.length - shown.length} more characters)`;
}

// The value behind what the inspector says of it.
function valueOf(remote) {
  if (remote.type === 'bigint') return BigInt(remote.unserializableValue.slice(0, -1));
  if (remote.unserializableValue !== undefined) return Number(remote.unserializableValue);
  if (remote.type === 'symbol') return remote.description;
  if (remote.objectId === undefined) return remote.subtype === 'null' ? null : remote.value;
  session.post('Runtime.callFunctionOn', {
    objectId: remote.objectId,
    functionDeclaration: `function () { globalThis[Symbol.for('mulligan.kernel')].value = this; }`,
  });
  const { value } = hook;
  hook.value = undefined;
  return value;
}

function stackOf(error) {
  const lines = String(error.stack).split('\n');
  const ours = lines.findIndex((line) => /\(node:inspector:|mulligan\/kernel\.js/.test(line));
  return (ours < 0 ? lines : lines.slice(0, ours)).join('\n');
}

function explain(cell, details) {
  const error = details.exception === undefined ? details.text : valueOf(details.exception);
  if (!(error instanceof Error)) return `Uncaught ${inspect(error)}`;
  if (error.code === 'ERR_VM_DYNAMIC_IMPORT_CALLBACK_MISSING') {
    cell.notes.push('import() is not there in a kernel; require() is');
  }
  const stack = stackOf(error);
  if (!(error instanceof SyntaxError) || stack.includes('\n    at ')) return stack;
  const line = cell.code.split('\n')[details.lineNumber] ?? '';
  const place = `cell-${cell.number}.js:${details.lineNumber + 1}`;
  return `${place}\n${line.slice(0, 500)}\n${' '.repeat(details.columnNumber)}^\n\n${stack}`;
}

function finish(cell, answer) {
  if (current !== cell) return;
  try {
    if (answer.exceptionDetails !== undefined) {
      writeSync(2, `${explain(cell, answer.exceptionDetails)}\n`);
      done(cell, 1);
      return;
    }
    const value = valueOf(answer.result);
    done(cell, 0, value === undefined ? null : bounded(inspect(value)));
  } catch (error) {
    writeSync(2, `${inspect(error)}\n`);
    done(cell, 1);
  }
}

function take(cell) {
  const [cwd, ...variables] = readFileSync(SETTINGS, 'utf8').split('\0');
  for (const each of variables) {
    const equals = each.indexOf('=');
    if (equals > 0) process.env[each.slice(0, equals)] = each.slice(equals + 1);
    if (each.startsWith('NODE_PATH=')) Module._initPaths(); // else it is read once, at the start
  }
  try {
    if (cwd) process.chdir(cwd);
    return true;
  } catch (error) {
    writeSync(2, `working_dir '${cwd}': ${error.code}\n`);
    done(cell, 1);
    return false;
  }
}

function run(number, settings) {
  const cell = { number, code: readFileSync(CODE, 'utf8'), notes: [] };
  current = cell;
  stdin = null;
  if (settings && !take(cell)) return;
  const expression = `${cell.code}\n//# sourceURL=cell-${number}.js`;
  const options = { expression, replMode: true, objectGroup: 'cell', includeCommandLineAPI: false };
  hook.run = () => {
    session.post('Runtime.evaluate', options, (error, answer) => {
      if (error) answer = { exceptionDetails: { text: error.message ?? String(error) } };
      finish(cell, answer);
    });
  };
  try {
    interruptible.runInThisContext({ breakOnSigint: true });
  } catch (error) {
    interrupted(cell, error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? 'Interrupted' : error);
  }
}

// The root is about to be switched: it is let go of.
function release() {
  try {
    directory = process.cwd();
  } catch {}
  process.chdir('/');
  send({ op: 'released' });
}

// The root was switched: to the same directory, by its path.
function move() {
  try {
    process.chdir(directory);
  } catch {
    process.chdir('/');
  }
}

function interrupted(cell, why) {
  writeSync(2, `${typeof why === 'string' ? why : inspect(why)}\n`);
  done(cell, INTERRUPTED);
}

// Each cell has an input of its own, in the same file.
Object.defineProperty(process, 'stdin', {
  configurable: true,
  enumerable: true,
  get() {
    stdin ??= createReadStream('', { fd: 0, autoClose: false });
    return stdin;
  },
});
process.on('SIGINT', () => {
  if (current !== null) interrupted(current, 'Interrupted');
});
for (const event of ['uncaughtException', 'unhandledRejection']) {
  process.on(event, (error) => {
    writeSync(2, `Uncaught ${error instanceof Error ? stackOf(error) : inspect(error)}\n`);
  });
}

globalThis.require = createRequire(`${process.cwd()}/`);
globalThis.module = { exports: {} };
globalThis.exports = globalThis.module.exports;

let pending = '';
control.on('data', (data) => {
  pending += data.toString();
  for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
    const [op, number, , settings] = pending.slice(0, end).split(' ');
    pending = pending.slice(end + 1);
    if (op === 'cell') run(Number(number), settings === '1');
    else if (op === 'release') release();
    else if (op === 'moved') move();
  }
});
control.on('close', () => process.exit(0));
send({ op: 'ready' });
