// Parses every Mermaid diagram of the Markdown files on its command line with Mermaid's own parser. Prints each broken one as
// FILE:LINE: WHAT, then how many there are, and exits with 1 if one is broken. Nothing is rendered, so no browser is needed; the
// DOM is for the texts that Mermaid cleans while it parses.
import { readFileSync } from 'node:fs';
import { JSDOM } from 'jsdom';

const { window } = new JSDOM('');
globalThis.window = window;
globalThis.document = window.document;
const { default: mermaid } = await import('mermaid');

/** The fenced blocks of a text: their first line's number, and what is in them; `text` is null where the fence never closes. */
function* diagrams(markdown) {
  const lines = markdown.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const fence = /^\s*(`{3,}|~{3,})\s*(\S*)/.exec(lines[at]);
    if (!fence) continue;
    const closes = (line) => line.trim().startsWith(fence[1]) && /^[`~]+$/.test(line.trim());
    const length = lines.slice(at + 1).findIndex(closes);
    const text = length < 0 ? null : lines.slice(at + 1, at + 1 + length).join('\n');
    if (fence[2] === 'mermaid') yield { line: at + 2, text };
    if (length < 0) return;
    at += length + 1;
  }
}

/** The line of a diagram that a parser's error is about, from 0. */
function lineOf(error) {
  const said = error.hash?.loc?.first_line ?? /line:? (\d+)/i.exec(error.message)?.[1] ?? 1;
  return Math.max(Number(said) - 1, 0);
}

let [count, broken] = [0, 0];
for (const file of process.argv.slice(2)) {
  for (const { line, text } of diagrams(readFileSync(file, 'utf8'))) {
    count += 1;
    try {
      if (text === null) throw new Error('the block is never closed');
      await mermaid.parse(text);
    } catch (error) {
      broken += 1;
      console.error(`${file}:${line + lineOf(error)}: ${error.message}`);
    }
  }
}
console.log(`diagrams: ${count} parsed, ${broken} broken`);
process.exit(broken ? 1 : 0);
