// An application that has the library as a package and is built with a bundler; its argument is the address of a farm.
import { ProblemError, spawn, stop } from 'hatchery-client';
import type { SpawnAnswer } from 'hatchery-client';

declare const process: { argv: string[] };

const base = process.argv[2];
const answer: SpawnAnswer = await spawn({ base, rendererType: 'csr' });
if (!answer.endpoint.startsWith('ws://')) throw new Error(`no endpoint: ${JSON.stringify(answer)}`);
const stopped = await stop(answer.id, { base });
if (stopped.id !== answer.id) throw new Error(`another spawn: ${JSON.stringify(stopped)}`);
const code = await spawn({ base, labels: { sdk: 'none' } }).then(
  () => 'none',
  (error: unknown) => (error instanceof ProblemError ? error.code : String(error)),
);
if (code !== 'no-matching-node') throw new Error(`it should have been refused: ${code}`);
console.log('package: packed, installed, built and compiled; the built file spawns and stops');
